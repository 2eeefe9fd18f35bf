"""Advantages against numbers worked out by hand, a slow implementation in plain Python, and what must not matter."""

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opid_agents.algorithms.advantages import opid_advantage, outcome_advantage, rloo_advantage, skill_shift

NAN = math.nan


def rewards(*scores: float, tokens: int = 2) -> torch.Tensor:
    """Each score on the last token of its row, as a rollout places it."""
    matrix = torch.zeros(len(scores), tokens)
    matrix[:, -1] = torch.tensor(scores)
    return matrix


def ones(rows: int, tokens: int = 2) -> torch.Tensor:
    return torch.ones(rows, tokens)


class TestOutcome:
    def test_hand_computed_group(self):
        # Scores 1, 0, 0: mean 1/3, unbiased variance (4/9 + 1/9 + 1/9) / 2 = 1/3.
        a = outcome_advantage(rewards(1, 0, 0), ones(3), ["g"] * 3)
        std = math.sqrt(1 / 3) + 1e-6
        expected = torch.tensor([[2 / 3 / std] * 2, [-1 / 3 / std] * 2, [-1 / 3 / std] * 2])
        torch.testing.assert_close(a, expected)

    def test_mean_norm_only_subtracts(self):
        a = outcome_advantage(rewards(1, 0, 0), ones(3), ["g"] * 3, mode="mean_norm")
        torch.testing.assert_close(a[:, 0], torch.tensor([2 / 3, -1 / 3, -1 / 3]))

    def test_long_trajectories_weigh_more(self):
        """The mean runs over step samples: three steps of a success and one of a failure have mean 0.75."""
        a = outcome_advantage(rewards(1, 1, 1, 0), ones(4), ["g"] * 4, mode="mean_norm")
        torch.testing.assert_close(a[:, 0], torch.tensor([0.25, 0.25, 0.25, -0.75]))

    @pytest.mark.parametrize(("mode", "expected"), [("mean_norm", 3.0), ("mean_std_norm", 3 / (1 + 1e-6))])
    def test_a_group_of_one_sample_has_mean_0_and_std_1(self, mode, expected):
        a = outcome_advantage(rewards(3, 5, 5), ones(3), ["alone", "b", "b"], mode=mode)
        torch.testing.assert_close(a[:, 0], torch.tensor([expected, 0.0, 0.0]))

    @pytest.mark.parametrize("score", [0.9, -0.1, 1 / 3, 10.0])
    @pytest.mark.parametrize("size", [2, 3, 7, 100])
    def test_equal_scores_have_exactly_no_advantage(self, score, size):
        """Not the rounding error of the mean, divided by 1e-6."""
        a = outcome_advantage(rewards(*[score] * size), ones(size), [0] * size)
        assert torch.equal(a, torch.zeros(size, 2))

    def test_a_penalty_counts_for_its_step_alone_but_moves_the_group(self):
        a = outcome_advantage(rewards(1, 0.9, 0, 0), ones(4), ["g"] * 4, mode="mean_norm")
        torch.testing.assert_close(a[:, 0], torch.tensor([0.525, 0.425, -0.475, -0.475]))

    def test_the_score_is_the_sum_wherever_it_stands(self):
        spread = torch.tensor([[0.25, 0.75], [0.0, 0.0]])
        last = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        ids = ["g", "g"]
        assert torch.equal(outcome_advantage(spread, ones(2), ids), outcome_advantage(last, ones(2), ids))

    def test_only_response_tokens_carry_it(self):
        mask = torch.tensor([[True, False], [True, True]])
        a = outcome_advantage(rewards(1, 0), mask, ["g", "g"], mode="mean_norm")
        assert a.tolist() == [[0.5, 0.0], [-0.5, -0.5]]

    @pytest.mark.parametrize(
        "ids",
        [
            ["x", "y", "x"],
            ("x", "y", "x"),
            [7, 8, 7],
            torch.tensor([7, 8, 7]),
            np.array(["x", "y", "x"], dtype=object),
            np.array(["x", "y", "x"]),
            np.array([7, 8, 7]),
            [("train", 1), ("train", 2), ("train", 1)],
        ],
    )
    def test_task_ids_of_any_kind(self, ids):
        a = outcome_advantage(rewards(1, 4, 0), ones(3), ids, mode="mean_norm")
        assert a[:, 0].tolist() == [0.5, 4.0, -0.5]

    def test_no_samples(self):
        assert outcome_advantage(torch.zeros(0, 3), torch.zeros(0, 3), []).shape == (0, 3)

    def test_half_precision_is_not_computed_in_half_precision(self):
        a = outcome_advantage(rewards(1, 0, 0).bfloat16(), ones(3), [0, 0, 0], mode="mean_norm")
        assert a.dtype == torch.float32
        torch.testing.assert_close(a[0, 0], torch.tensor(2 / 3))

    def test_over_trajectories_each_counts_once_by_its_first_sample(self):
        """Three steps of a success, the first one invalid, and one of a failure: scores 0.9 and 0, mean 0.45."""
        a = outcome_advantage(rewards(0.9, 1, 1, 0), ones(4), ["g"] * 4, [7, 7, 7, 8], mode="mean_norm")
        torch.testing.assert_close(a[:, 0], torch.tensor([0.45, 0.55, 0.55, -0.45]))

    def test_trajectory_ids_may_repeat_in_other_tasks(self):
        a = outcome_advantage(rewards(1, 0, 4, 2), ones(4), ["g", "g", "h", "h"], [0, 1, 0, 1], mode="mean_norm")
        torch.testing.assert_close(a[:, 0], torch.tensor([0.5, -0.5, 1.0, -1.0]))


class TestRloo:
    def test_the_baseline_is_the_mean_of_the_other_trajectories(self):
        # Trajectories score 1 (two steps), 0 and 0.5: 1 - 0.25, 0 - 0.75, 0.5 - 0.5.
        a = rloo_advantage(rewards(1, 1, 0, 0.5), ones(4), ["g"] * 4, [0, 0, 1, 2])
        torch.testing.assert_close(a[:, 0], torch.tensor([0.75, 0.75, -0.75, 0.0]))

    def test_or_of_the_other_step_samples(self):
        a = rloo_advantage(rewards(1, 1, 0), ones(3), ["g"] * 3)
        torch.testing.assert_close(a[:, 0], torch.tensor([0.5, 0.5, -1.0]))

    def test_a_group_of_one_has_its_score(self):
        a = rloo_advantage(rewards(3, 3, 1), ones(3), ["g", "g", "h"], [0, 0, 0])
        torch.testing.assert_close(a[:, 0], torch.tensor([3.0, 3.0, 1.0]))


class TestShift:
    OLD = torch.tensor([[-1.0, -2.0], [-3.0, -1.0], [-0.5, -0.5]])
    TEACHER = torch.tensor([[-0.5, -2.5], [-1.0, -1.0], [-9.0, -9.0]])

    def test_difference_on_routed_response_tokens(self):
        mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        shift = skill_shift(self.TEACHER, self.OLD, mask, torch.tensor([1, 1, 0]))
        assert shift.tolist() == [[0.5, -0.5], [2.0, 0.0], [0.0, 0.0]]

    def test_normalised_over_routed_tokens_with_the_population_std(self):
        # Values 0.5, -0.5, 2.0: mean 2/3, population variance 19/18.
        mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        shift = skill_shift(self.TEACHER, self.OLD, mask, torch.tensor([1, 1, 0]), normalize=True)
        std = math.sqrt(19 / 18) + 1e-6
        expected = torch.tensor([[(0.5 - 2 / 3) / std, (-0.5 - 2 / 3) / std], [(2 - 2 / 3) / std, 0.0], [0.0, 0.0]])
        torch.testing.assert_close(shift, expected)

    def test_centred_only_the_mean_goes(self):
        # Values 0.5, -0.5, 2.0: mean 2/3.
        mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        shift = skill_shift(self.TEACHER, self.OLD, mask, torch.tensor([1, 1, 0]), center=True)
        expected = torch.tensor([[0.5 - 2 / 3, -0.5 - 2 / 3], [2 - 2 / 3, 0.0], [0.0, 0.0]])
        torch.testing.assert_close(shift, expected)

    def test_without_spread_only_the_mean_goes(self):
        shift = skill_shift(torch.full((2, 2), -1.0), torch.full((2, 2), -3.0), ones(2), [1, 1], normalize=True)
        assert torch.equal(shift, torch.zeros(2, 2))

    def test_clip_comes_last(self):
        mask = torch.tensor([[1, 1], [1, 0], [1, 1]])
        routed = torch.tensor([1, 1, 0])
        assert skill_shift(self.TEACHER, self.OLD, mask, routed, clip=0.75)[1, 0] == 0.75
        normal = skill_shift(self.TEACHER, self.OLD, mask, routed, normalize=True, clip=1.0)
        assert normal.max() == 1.0
        assert normal.min() == -1.0

    @pytest.mark.parametrize("normalize", [False, True])
    def test_what_is_not_routed_is_never_read(self, normalize):
        teacher = torch.tensor([[-1.0, NAN], [NAN, -math.inf]])
        old = torch.tensor([[-2.0, NAN], [-1.0, NAN]])
        mask = torch.tensor([[1, 0], [1, 1]])
        shift = skill_shift(teacher, old, mask, [True, False], normalize=normalize)
        assert shift.tolist() == [[0.0 if normalize else 1.0, 0.0], [0.0, 0.0]]

    def test_nothing_routed(self):
        shift = skill_shift(torch.full((2, 2), NAN), torch.full((2, 2), NAN), ones(2), [0, 0], normalize=True, clip=1)
        assert torch.equal(shift, torch.zeros(2, 2))

    def test_a_nan_that_is_used_shows(self):
        shift = skill_shift(torch.tensor([[NAN, -1.0]]), torch.full((1, 2), -1.0), ones(1), [1])
        assert shift[0].isnan().tolist() == [True, False]

    def test_small_differences_of_half_precision_are_kept(self):
        old = torch.tensor([[-300.0]]).bfloat16()
        teacher = torch.tensor([[-0.0078]]).bfloat16()
        assert skill_shift(teacher, old, ones(1, 1), [1]).dtype == torch.float32


class TestOpid:
    def test_both_terms_have_their_own_weight(self):
        a = opid_advantage(
            rewards(0, 0), ones(2), ["t", "t"], torch.zeros(2, 2), torch.ones(2, 2), torch.full((2, 2), 2.0),
            torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), mode="mean_norm", episode_weight=0.25, step_weight=0.5,
        )  # fmt: skip
        torch.testing.assert_close(a.advantages, torch.tensor([[0.25, 0.25], [1.0, 1.0]]))
        torch.testing.assert_close(a.episode_shift, torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
        torch.testing.assert_close(a.step_shift, torch.tensor([[0.0, 0.0], [2.0, 2.0]]))

    def test_a_step_with_both_skills_gets_both(self):
        a = opid_advantage(
            rewards(0), ones(1), ["t"], torch.zeros(1, 2), torch.ones(1, 2), torch.full((1, 2), 2.0), [1], [1]
        )
        torch.testing.assert_close(a.advantages, torch.full((1, 2), 0.003))

    def test_a_sample_with_neither_mask_has_only_its_outcome(self):
        scores, old = rewards(1, 0, 0), torch.full((3, 2), -1.0)
        teacher = torch.tensor([[NAN, NAN], [-3.0, -2.0], [NAN, NAN]])
        a = opid_advantage(scores, ones(3), [0, 0, 0], old, teacher, None, [0, 1, 0], [0, 0, 0], episode_weight=0.5)
        outcome = outcome_advantage(scores, ones(3), [0, 0, 0])
        assert torch.equal(a.outcome, outcome)
        torch.testing.assert_close(a.advantages - outcome, torch.tensor([[0.0, 0.0], [-1.0, -0.5], [0.0, 0.0]]))

    def test_no_skills_at_all(self):
        a = opid_advantage(rewards(1, 0), ones(2), [0, 0], torch.zeros(2, 2), None, None, None, None)
        assert torch.equal(a.advantages, a.outcome)

    def test_a_weight_of_0_reads_nothing(self):
        teacher = torch.full((2, 2), NAN)
        a = opid_advantage(
            rewards(1, 0), ones(2), [0, 0], torch.zeros(2, 2), teacher, teacher, [1, 1], [1, 1],
            episode_weight=0, step_weight=0,
        )  # fmt: skip
        assert torch.equal(a.advantages, a.outcome)

    def test_each_shift_is_normalised_on_its_own(self):
        old = torch.zeros(2, 2)
        episode = torch.tensor([[1.0, 3.0], [NAN, NAN]])
        step = torch.tensor([[NAN, NAN], [-100.0, -300.0]])
        a = opid_advantage(
            rewards(0, 0), ones(2), [0, 0], old, episode, step, [1, 0], [0, 1], normalize=True, clip=0.5,
            episode_weight=1, step_weight=1,
        )  # fmt: skip
        torch.testing.assert_close(a.advantages, torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))

    def test_metrics_are_means_over_response_tokens(self):
        mask = torch.tensor([[1, 0], [1, 1]])
        a = opid_advantage(
            rewards(1, 0), mask, [0, 0], torch.zeros(2, 2), torch.full((2, 2), -4.0), None, [0, 1], None,
            mode="mean_norm", episode_weight=0.5,
        )  # fmt: skip
        # Outcome 0.5 | -0.5 -0.5, episode term 0 | -2 -2.
        assert a.metrics == pytest.approx(
            {
                "advantage/mean": -4.5 / 3,
                "advantage/abs_mean": 5.5 / 3,
                "advantage/outcome_abs_mean": 0.5,
                "advantage/episode_abs_mean": 4 / 3,
                "advantage/step_abs_mean": 0.0,
            }
        )

    def test_no_gradient_leaves(self):
        old = torch.zeros(2, 2, requires_grad=True)
        teacher = torch.ones(2, 2, requires_grad=True)
        a = opid_advantage(rewards(1, 0), ones(2), [0, 0], old, teacher, None, [1, 1], None)
        assert not a.advantages.requires_grad


class TestErrors:
    def test_every_shape_is_named(self):
        good = torch.zeros(2, 3)
        arguments = {
            "token_level_rewards": good,
            "response_mask": good,
            "task_ids": [0, 0],
            "old_log_probs": good,
            "episode_log_probs": good,
            "step_log_probs": good,
            "episode_mask": torch.zeros(2),
            "step_mask": torch.zeros(2),
        }
        opid_advantage(**arguments)
        for name in ("response_mask", "old_log_probs", "episode_log_probs", "step_log_probs"):
            with pytest.raises(ValueError, match=rf"{name} must have shape \[batch, tokens\] = \[2, 3\], got \[2, 4\]"):
                opid_advantage(**{**arguments, name: torch.zeros(2, 4)})
        with pytest.raises(ValueError, match=r"token_level_rewards must have shape \[batch, tokens\], got \[2\]"):
            opid_advantage(**{**arguments, "token_level_rewards": torch.zeros(2)})
        for name in ("episode_mask", "step_mask"):
            with pytest.raises(ValueError, match=rf"{name} must have shape \[batch\] = \[2\], got \[2, 3\]"):
                opid_advantage(**{**arguments, name: good})
        with pytest.raises(TypeError, match=r"old_log_probs must be a torch.Tensor .* got list"):
            opid_advantage(**{**arguments, "old_log_probs": [[0.0] * 3] * 2})

    @pytest.mark.parametrize("name", ["teacher_log_probs", "response_mask"])
    def test_every_shape_of_a_shift_is_named(self, name):
        good = torch.zeros(2, 3)
        arguments = {"teacher_log_probs": good, "old_log_probs": good, "response_mask": good, "routed": torch.ones(2)}
        skill_shift(**arguments)
        for wrong in (torch.zeros(2, 4), torch.zeros(1, 3)):  # the second would be spread over both rows
            with pytest.raises(ValueError, match=rf"{name} must have shape \[batch, tokens\] = \[2, 3\], got \["):
                skill_shift(**{**arguments, name: wrong})

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (["a"], "expected 2, got 1"),
            ("ab", "the single text 'ab'"),
            (torch.zeros(2, 1), r"shape \[batch\] = \[2\], got \[2, 1\]"),
            ([["a"], ["a"]], "be hashable"),
        ],
    )
    def test_task_ids(self, ids, message):
        with pytest.raises(ValueError, match=f"task_ids must .*{message}"):
            outcome_advantage(torch.zeros(2, 3), torch.zeros(2, 3), ids)

    def test_values(self):
        z = torch.zeros(2, 3)
        with pytest.raises(ValueError, match=r"unknown mode 'std'; allowed: \['mean_std_norm', 'mean_norm'\]"):
            outcome_advantage(z, z, [0, 0], mode="std")
        with pytest.raises(ValueError, match="clip must be a positive number or None, got 0"):
            opid_advantage(z, z, [0, 0], z, None, None, None, None, clip=0)
        with pytest.raises(ValueError, match="step_weight must be a finite number, got nan"):
            opid_advantage(z, z, [0, 0], z, None, None, None, None, step_weight=NAN)
        with pytest.raises(ValueError, match="step_log_probs is None, but step_mask routes 1 of 2 samples"):
            opid_advantage(z, z, [0, 0], z, z, None, [0, 0], [0, 1])


def slow_opid(case: dict) -> list[list[float]]:
    """The formulas in plain Python, one token at a time."""
    n, length, mask = len(case["task_ids"]), len(case["mask"][0]), case["mask"]
    scores = [sum(row) for row in case["rewards"]]
    result = []
    for i in range(n):
        group = [scores[j] for j in range(n) if case["task_ids"][j] == case["task_ids"][i]]
        mean, std = (statistics.mean(group), statistics.stdev(group)) if len(group) > 1 else (0.0, 1.0)
        a = scores[i] - mean
        if case["mode"] == "mean_std_norm":
            a /= std + 1e-6
        result.append([a if mask[i][t] else 0.0 for t in range(length)])
    for teacher, routed, weight in (
        (case["episode"], case["episode_mask"], case["episode_weight"]),
        (case["step"], case["step_mask"], case["step_weight"]),
    ):
        used = [(i, t) for i in range(n) for t in range(length) if mask[i][t] and routed[i]]
        delta = {(i, t): teacher[i][t] - case["old"][i][t] for i, t in used}
        if case["normalize"] and used:
            mean, std = statistics.mean(delta.values()), statistics.pstdev(delta.values())
            delta = {k: (v - mean) / (std + 1e-6) if std > 1e-6 else v - mean for k, v in delta.items()}
        for (i, t), value in delta.items():
            if case["clip"] is not None:
                value = max(-case["clip"], min(case["clip"], value))
            result[i][t] += weight * value
    return result


@st.composite
def cases(draw):
    n, length = draw(st.integers(1, 7)), draw(st.integers(1, 4))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    def matrix(values):
        return draw(st.lists(st.lists(values, min_size=length, max_size=length), min_size=n, max_size=n))

    # Multiples of 1/8: exact sums, so that equal scores are equal and spreads are either 0 or not small.
    log_probs = st.integers(-80, 0).map(lambda k: k / 8)
    return {
        "rewards": matrix(st.sampled_from([0.0, 0.0, 1.0, -0.125, 10.0])),
        "mask": matrix(st.booleans()),
        "task_ids": column(st.sampled_from("abc")),
        "old": matrix(log_probs),
        "episode": matrix(log_probs),
        "step": matrix(log_probs),
        "episode_mask": column(st.booleans()),
        "step_mask": column(st.booleans()),
        "mode": draw(st.sampled_from(["mean_norm", "mean_std_norm"])),
        "episode_weight": draw(st.sampled_from([0.0, 0.001, 0.5])),
        "step_weight": draw(st.sampled_from([0.0, 0.001, 1.0])),
        "normalize": draw(st.booleans()),
        "clip": draw(st.sampled_from([None, 0.3, 2.0])),
    }


def fast_opid(case: dict, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return opid_advantage(
        torch.tensor(case["rewards"], dtype=dtype),
        torch.tensor(case["mask"]),
        case["task_ids"],
        *(torch.tensor(case[name], dtype=dtype) for name in ("old", "episode", "step")),
        torch.tensor(case["episode_mask"]),
        torch.tensor(case["step_mask"]),
        **{name: case[name] for name in ("mode", "episode_weight", "step_weight", "normalize", "clip")},
    ).advantages


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equals_the_slow_implementation(case):
    expected = torch.tensor(slow_opid(case), dtype=torch.float64)
    torch.testing.assert_close(fast_opid(case), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(fast_opid(case, torch.float32).double(), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(case, random):
    order = list(range(len(case["task_ids"])))
    random.shuffle(order)
    by_sample = ("rewards", "mask", "task_ids", "old", "episode", "step", "episode_mask", "step_mask")
    shuffled = case | {name: [case[name][i] for i in order] for name in by_sample}
    torch.testing.assert_close(fast_opid(shuffled), fast_opid(case)[order], rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(0, 3), st.integers(0, 3))
def test_padding_does_not_matter(case, left, right):
    """Neither longer rows nor empty rows with a task id of their own, whatever garbage they hold."""
    n, length = len(case["task_ids"]), len(case["mask"][0])
    padded = dict(case)
    for name, filler in (("rewards", 0.0), ("mask", False), ("old", NAN), ("episode", NAN), ("step", NAN)):
        padded[name] = [[filler] * left + row + [filler] * right for row in case[name]]
        padded[name] += [[filler] * (left + length + right)] * 2
    padded["task_ids"] = case["task_ids"] + ["padding 1", "padding 2"]
    for name in ("episode_mask", "step_mask"):
        padded[name] = case[name] + [True, False]
    result = fast_opid(padded)
    torch.testing.assert_close(result[:n, left : left + length], fast_opid(case), rtol=1e-9, atol=1e-9)
    outside = result.clone()
    outside[:n, left : left + length] = 0
    assert torch.equal(outside, torch.zeros_like(outside))
