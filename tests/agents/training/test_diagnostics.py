"""Diagnostics on a batch small enough to count by hand."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.algorithms.advantages import Advantage, make_advantage
from opid_agents.training.diagnostics import (
    advantage_shares,
    correlation,
    diagnose,
    negative_distillation,
    occupancy_share,
    routed_shares,
)

MASK = torch.tensor([[1, 1], [1, 0], [1, 1]])
OUTCOME = torch.tensor([[1.0, 1.0], [-2.0, 0.0], [-1.0, -1.0]])
EPISODE = torch.tensor([[-4.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
STEP = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 0.0]])


def advantage(episode_weight: float = 0.5, step_weight: float = 0.25) -> Advantage:
    total = OUTCOME + episode_weight * EPISODE + step_weight * STEP
    return Advantage(total, OUTCOME, EPISODE, STEP, episode_weight, step_weight, {})


def test_shares_of_the_advantage():
    # |outcome| 1 + 1 + 2 + 1 + 1 = 6, episode 0.5 * 6 = 3, step 0.25 * 8 = 2.
    expected = {"outcome": 6 / 11, "episode": 3 / 11, "step": 2 / 11, "extra": 0.0}
    assert advantage_shares(advantage(), MASK) == pytest.approx(expected)


def test_the_share_of_what_else_an_algorithm_adds():
    # |outcome| 6, and 2 on each of five tokens besides.
    more = make_advantage(OUTCOME, MASK, extra=torch.full((3, 2), -2.0))
    assert advantage_shares(more, MASK)["extra"] == pytest.approx(10 / 16)


def test_shares_without_any_signal_are_0():
    zero = torch.zeros(1, 2)
    assert advantage_shares(Advantage(zero, zero, zero, zero, 1, 1, {}), torch.ones(1, 2)) == {
        "outcome": 0.0,
        "episode": 0.0,
        "step": 0.0,
        "extra": 0.0,
    }


def test_routed_tokens():
    assert routed_shares(MASK, [1, 0, 0], [1, 1, 0]) == pytest.approx({"episode": 0.4, "step": 0.6, "any": 0.6})
    assert routed_shares(MASK, None, None) == {"episode": 0.0, "step": 0.0, "any": 0.0}
    assert routed_shares(torch.zeros(2, 2), [1, 1], [1, 1]) == {"episode": 0.0, "step": 0.0, "any": 0.0}


class TestCorrelation:
    def test_hand_computed(self):
        x, y = torch.tensor([[1.0, 2.0, 3.0, 99.0]]), torch.tensor([[1.0, 3.0, 2.0, -99.0]])
        where = torch.tensor([[1, 1, 1, 0]])
        assert correlation(x, y, where) == pytest.approx(0.5)
        assert correlation(x, -2 * x + 1, where) == pytest.approx(-1)

    @pytest.mark.parametrize(
        ("x", "y"),
        [([1.0], [2.0]), ([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]), ([1.0, 2.0], [math.nan, 1.0]), ([1.0, 2.0], [3.0, 3.0])],
    )
    def test_undefined_is_none(self, x, y):
        assert correlation(torch.tensor([x]), torch.tensor([y]), torch.ones(1, len(x))) is None

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=20))
    def test_equals_the_textbook(self, pairs):
        xs, ys = zip(*pairs, strict=True)
        x, y = (torch.tensor([v], dtype=torch.float64) for v in (xs, ys))
        value = correlation(x, y, torch.ones_like(x))
        if value is not None:
            assert -1 <= value <= 1
            if x.std() > 1e-3 and y.std() > 1e-3:
                assert value == pytest.approx(torch.corrcoef(torch.cat([x, y]))[0, 1].item(), abs=1e-6)


class TestOccupancy:
    def test_share_of_identical_prompts(self):
        assert occupancy_share(["a", "b", "c", "d"], ["a", "b", "c ", "d"]) == 0.75
        assert occupancy_share([[1, 2], [3]], [[1, 2], [3]]) == 1.0
        assert occupancy_share([], []) is None

    def test_counts_must_match(self):
        with pytest.raises(ValueError, match="got 1 for 2"):
            occupancy_share(["a", "b"], ["a"])


class TestNegativeDistillation:
    def test_counts_by_outcome(self):
        shift = torch.tensor([[-2.0, 1.0], [3.0, 0.0], [-1.0, 0.0]])
        found = negative_distillation(OUTCOME, shift, MASK, [True, False, False])
        # Success: tokens +1/-2 and +1/+1. Failures: -2/+3, -1/-1, -1/0.
        assert found.opposed_on_success == pytest.approx(1 / 2)
        assert found.opposed_on_failure == pytest.approx(1 / 3)
        assert found.shift_on_success == pytest.approx(-0.5)
        assert found.shift_on_failure == pytest.approx(2 / 3)

    def test_alarm(self):
        against = negative_distillation(OUTCOME, -OUTCOME, MASK, [True, False, False])
        along = negative_distillation(OUTCOME, OUTCOME, MASK, [True, False, False])
        no_success = negative_distillation(OUTCOME, -OUTCOME, MASK, [False, False, False])
        assert (against.alarm(), along.alarm(), no_success.alarm()) == (True, False, False)
        assert no_success.opposed_on_success is None

    def test_tiny_numbers_still_oppose(self):
        tiny = torch.full((1, 1), 1e-30)
        assert negative_distillation(tiny, -tiny, torch.ones(1, 1), [1]).opposed_on_success == 1.0


class TestDiagnose:
    def test_all_figures(self):
        figures = diagnose(advantage(), MASK, [1, 0, 0], [0, 1, 0], [True, False, False])
        assert figures == {
            "share/outcome": pytest.approx(6 / 11),
            "share/episode": pytest.approx(3 / 11),
            "share/step": pytest.approx(2 / 11),
            "share/extra": 0.0,
            "routed/episode": pytest.approx(0.4),
            "routed/step": pytest.approx(0.2),
            "routed/any": pytest.approx(0.6),
            "correlation/episode": None,
            "correlation/step": None,
            "opposed/success": pytest.approx(0.5),
            "opposed/failure": pytest.approx(1.0),
            "shift/success": pytest.approx(-0.5),
            "shift/failure": pytest.approx(2.0),
            "alarm/negative_distillation": 0.0,
        }

    def test_a_teacher_that_is_not_added_still_speaks(self):
        """Weights of 0: the shifts -4, 2 of the success and 8 of the failure themselves."""
        silent = make_advantage(OUTCOME, MASK, episode_shift=EPISODE, step_shift=STEP)
        figures = diagnose(silent, MASK, [1, 0, 0], [0, 1, 0], [1, 0, 0])
        assert figures["opposed/success"] == pytest.approx(0.5)
        assert figures["shift/failure"] == pytest.approx(8.0)
        assert figures["share/step"] == 0.0

    def test_survives_json_without_a_routed_sample_and_with_nan(self):
        for figures in (
            diagnose(advantage(), MASK, None, None, [1, 1, 1]),
            diagnose(advantage(episode_weight=math.nan), MASK, [1, 1, 1], None, [1, 1, 0]),
        ):
            assert json.loads(json.dumps(figures, allow_nan=False)) == figures
