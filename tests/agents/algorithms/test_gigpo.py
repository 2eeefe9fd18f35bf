"""GiGPO against numbers worked out by hand and a slow implementation in plain Python."""

import math
import random
import statistics
from difflib import SequenceMatcher

import pytest
import torch
from opid_agents.algorithms.gigpo import anchor_groups, gigpo_advantage, state_advantage


def column(advantage: torch.Tensor) -> torch.Tensor:
    return advantage[:, 0]


class TestAnchors:
    def test_equal_texts_of_one_task(self):
        groups = anchor_groups(["hall", "attic", "hall", "hall"], ["a", "a", "a", "b"])
        assert groups.tolist() == [0, 1, 0, 2]

    def test_similar_texts_join_the_first_group_they_resemble(self):
        a, b, c = "You see a mug 1 on the desk 1.", "You see a mug 2 on the desk 1.", "Nothing happens."
        assert SequenceMatcher(None, b, a).ratio() >= 0.95
        assert anchor_groups([a, c, b, a], ["t"] * 4, similarity=0.95).tolist() == [0, 1, 0, 0]
        assert anchor_groups([a, c, b, a], ["t", "t", "u", "u"], similarity=0.95).tolist() == [0, 1, 2, 2]

    def test_it_is_the_first_member_that_counts(self):
        """b resembles a, c resembles b but not a: c begins a group of its own."""
        a, b, c = "aaaaaaaaaa", "aaaaaaaabb", "aaaaaabbbb"
        assert anchor_groups([a, b, c], [0, 0, 0], similarity=0.75).tolist() == [0, 0, 1]

    def test_exactly_as_similar_as_asked_is_similar_enough(self):
        """Also where nothing but the lengths differs, which the quickest of the three bounds sees already."""
        for first, other in (("aaaaaaaaaa", "aaaaaaaabb"), ("aaaaaa", "aaaa"), ("abcdefghij", "bacdefghij")):
            ratio = SequenceMatcher(None, other, first).ratio()
            assert 0 < ratio < 1
            assert anchor_groups([first, other], [0, 0], similarity=ratio).tolist() == [0, 0]
            assert anchor_groups([first, other], [0, 0], similarity=math.nextafter(ratio, 1)).tolist() == [0, 1]

    def test_against_the_plain_algorithm(self):
        rng = random.Random(0)
        words = ["a", "mug", "on", "the", "shelf", "and", "a", "lamp", "by", "desk", "1", "2", "3"]
        texts = [" ".join(rng.choices(words, k=6)) for _ in range(40)]
        tasks = [rng.randrange(2) for _ in texts]
        expected, firsts = [], []
        for task, text in zip(tasks, texts, strict=True):
            for number, (its_task, first) in enumerate(firsts):
                if its_task == task and SequenceMatcher(None, text, first).ratio() >= 0.7:
                    expected.append(number)
                    break
            else:
                expected.append(len(firsts))
                firsts.append((task, text))
        assert anchor_groups(texts, tasks, similarity=0.7).tolist() == expected

    @pytest.mark.parametrize("similarity", [0.0, 1.5, math.nan])
    def test_a_similarity_that_is_none(self, similarity):
        with pytest.raises(ValueError, match="similarity must be in"):
            anchor_groups(["a"], ["t"], similarity=similarity)


class TestState:
    def test_within_the_state(self):
        returns = torch.tensor([1.0, 0.0, 0.5, 7.0])
        a = state_advantage(returns, torch.ones(4, 2), ["s", "s", "s", "t"])
        torch.testing.assert_close(column(a), torch.tensor([0.5, -0.5, 0.0, 0.0]))

    def test_with_the_unbiased_standard_deviation(self):
        # 1, 0, 0.5 have variance 0.25. A state seen once has advantage 0 and not its return.
        returns = torch.tensor([1.0, 0.0, 0.5, 7.0])
        a = state_advantage(returns, torch.ones(4, 2), ["s", "s", "s", "t"], mode="mean_std_norm")
        torch.testing.assert_close(column(a), torch.tensor([0.5, -0.5, 0.0, 0.0]) / (0.5 + 1e-6))

    def test_equal_returns_are_exactly_nothing(self):
        a = state_advantage(torch.full((7,), 0.95**3), torch.ones(7, 1), [0] * 7, mode="mean_std_norm")
        assert torch.equal(a, torch.zeros(7, 1))

    def test_only_response_tokens_carry_it(self):
        a = state_advantage(torch.tensor([1.0, 0.0]), torch.tensor([[1, 0], [1, 1]]), ["s", "s"])
        assert a.tolist() == [[0.5, 0.0], [-0.5, -0.5]]


class TestGigpo:
    @pytest.mark.parametrize("mode", ["mean_norm", "mean_std_norm"])
    @pytest.mark.parametrize("by_trajectory", [False, True])
    def test_against_plain_python(self, mode, by_trajectory):
        rng = random.Random(1)
        rows = [(task, 10 * task + k, t) for task in range(3) for k in range(3) for t in range(rng.randint(1, 4))]
        outcome = {trajectory: float(rng.randint(0, 1)) for _, trajectory, _ in rows}
        scores = [outcome[trajectory] - 0.1 * (rng.random() < 0.3) for _, trajectory, _ in rows]
        returns = [rng.random() for _ in rows]
        anchors = [rng.choice(["hall", "attic", "cellar"]) for _ in rows]
        tasks = [task for task, _, _ in rows]
        trajectories = [trajectory for _, trajectory, _ in rows]

        def normal(value, others, alone):
            mean, std = alone if len(others) == 1 else (statistics.mean(others), statistics.stdev(others))
            return (value - mean) / (std + 1e-6 if mode == "mean_std_norm" else 1)

        expected = []
        for i in range(len(rows)):
            siblings = [j for j in range(len(rows)) if tasks[j] == tasks[i]]
            if by_trajectory:
                siblings = [j for j in siblings if trajectories.index(trajectories[j]) == j]
            there = [j for j in range(len(rows)) if (tasks[j], anchors[j]) == (tasks[i], anchors[i])]
            a = normal(scores[i], [scores[j] for j in siblings], (0.0, 1.0))
            expected.append(a + 0.7 * normal(returns[i], [returns[j] for j in there], (returns[i], 1.0)))
        rewards = torch.tensor(scores, dtype=torch.float64)[:, None]
        got = gigpo_advantage(
            rewards, torch.ones(len(rows), 1), tasks, torch.tensor(returns, dtype=torch.float64), anchors,
            trajectory_ids=trajectories if by_trajectory else None, mode=mode, state_weight=0.7,
        )  # fmt: skip
        torch.testing.assert_close(
            column(got.advantages), torch.tensor(expected, dtype=torch.float64), atol=1e-9, rtol=1e-9
        )
        assert torch.equal(got.advantages, got.outcome + got.extra)

    def test_without_weight_it_is_grpo(self):
        rewards = torch.tensor([[1.0], [0.0]])
        got = gigpo_advantage(rewards, torch.ones(2, 1), [0, 0], torch.tensor([1.0, 0.0]), ["s", "s"], state_weight=0.0)
        assert torch.equal(got.advantages, got.outcome)
