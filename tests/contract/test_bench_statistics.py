"""Statistics of benchmarks against published values, other forms of the same thing, and simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from opid_gym.bench.statistics import (
    cohens_h,
    compare,
    compare_returns,
    holm,
    mcnemar,
    mean_interval,
    sign_flip,
    success_rate,
    task_means,
)
from opid_gym.evaluation import wilson


def ones(successes: int, count: int) -> list[list[float]]:
    return [[float(i < successes)] for i in range(count)]


def test_one_seed_gives_wilsons_interval() -> None:
    for successes, count in ((0, 20), (1, 29), (15, 148), (81, 263), (20, 20)):
        assert success_rate(ones(successes, count)) == wilson(successes, count)


def test_repeating_an_agent_that_never_gambles_narrows_nothing() -> None:
    once, five_times = ones(12, 40), [trials * 5 for trials in ones(12, 40)]
    assert success_rate(five_times) == success_rate(once)


def test_seeds_that_differ_as_much_as_tasks_count_in_full() -> None:
    # Every task has the same rate: episodes are independent, and the interval is that of all of them.
    assert success_rate([[1.0, 0.0]] * 30) == wilson(30, 60)


def test_the_interval_covers_the_truth_where_tasks_differ() -> None:
    rng = np.random.default_rng(0)
    truth, covered, rounds = 0.3, 0, 400
    for _ in range(rounds):
        rates = rng.beta(0.3, 0.7, size=40)  # mean 0.3, most tasks nearly always or nearly never solved
        interval = success_rate((rng.random((40, 5)) < rates[:, None]).astype(float).tolist())
        covered += interval.low <= truth <= interval.high
    assert 0.92 <= covered / rounds <= 0.98


def test_the_mean_has_the_bootstraps_interval() -> None:
    values = np.random.default_rng(1).normal(5.0, 2.0, size=200)
    interval = mean_interval([[value] for value in values])
    half = 1.96 * values.std() / math.sqrt(200)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.04)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.04)
    assert mean_interval([[value] for value in values]) == interval


def test_mcnemar_is_the_sign_test_of_the_discordant_pairs() -> None:
    # Agresti, Categorical Data Analysis (2nd ed.), section 10.1: the binomial of n discordant pairs.
    for gained, lost in ((5, 0), (9, 1), (3, 3), (12, 7)):
        n, k = gained + lost, min(gained, lost)
        tail = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n
        assert mcnemar(gained, lost) == pytest.approx(min(1.0, tail))
    assert mcnemar(0, 0) == 1.0


def test_sign_flips_agree_with_trying_them_all_and_with_mcnemar() -> None:
    differences = [0.2, 0.6, -0.4, 1.0, 0.8, 0.2, 0.0, -0.2]
    observed = abs(sum(differences))
    flips = [sum(s * d for s, d in zip(signs, differences, strict=True)) for signs in product((1, -1), repeat=8)]
    expected = sum(abs(total) >= observed - 1e-9 for total in flips) / len(flips)
    assert sign_flip(differences) == pytest.approx(expected)
    assert sign_flip([1.0] * 9 + [-1.0] + [0.0] * 20) == pytest.approx(mcnemar(9, 1))
    assert sign_flip([0.0] * 4) == 1.0
    assert sign_flip([0.0, 0.5, 0.0]) == 1.0


def test_sign_flips_of_many_differences_are_sampled_and_never_zero() -> None:
    assert 0 < sign_flip([0.4] * 60) < 0.001
    balanced = [0.4, -0.4] * 30
    assert sign_flip(balanced) > 0.9
    assert sign_flip(balanced, seed=3) == sign_flip(balanced, seed=3)


def test_comparing_two_agents_on_the_same_tasks() -> None:
    first, second = ones(40, 100), ones(55, 100)
    result = compare(first, second)
    assert (result.test, result.tasks) == ("McNemar exact", 100)
    assert result.difference.estimate == pytest.approx(0.15)
    assert result.difference.low > 0
    assert result.p_value == pytest.approx(mcnemar(15, 0))
    assert result.effect == pytest.approx(cohens_h(0.4, 0.55))
    back = compare(second, first)
    assert (back.difference.estimate, back.effect, back.p_value) == (
        -result.difference.estimate,
        -result.effect,
        result.p_value,
    )


def test_with_several_seeds_the_tasks_are_what_is_paired() -> None:
    rng = np.random.default_rng(2)
    first = (rng.random((40, 3)) < 0.3).astype(float).tolist()
    second = (rng.random((40, 3)) < 0.7).astype(float).tolist()
    result = compare(first, second)
    assert result.test == "sign-flip permutation"
    assert result.p_value < 0.001
    assert 0.2 < result.difference.low < result.difference.estimate < result.difference.high < 0.6
    # Two deterministic agents: seeds add nothing.
    assert compare([t * 5 for t in ones(4, 10)], [t * 5 for t in ones(7, 10)]) == compare(ones(4, 10), ones(7, 10))


def test_returns_are_compared_by_task_too() -> None:
    rng = np.random.default_rng(4)
    first = rng.random((50, 2))
    second = first + rng.normal(0.2, 0.3, size=(50, 2))
    difference, p_value = compare_returns(first.tolist(), second.tolist())
    assert difference.estimate == pytest.approx((second - first).mean())
    half = 1.96 * (second - first).mean(axis=1).std() / math.sqrt(50)
    assert (difference.low, difference.high) == pytest.approx(
        (difference.estimate - half, difference.estimate + half), abs=0.015
    )
    assert p_value < 0.001
    assert compare_returns(first.tolist(), first.tolist())[1] == 1.0


def test_the_test_rarely_finds_what_is_not_there() -> None:
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(200):
        rates = rng.random(30)[:, None]
        first, second = ((rng.random((30, 2)) < rates).astype(float).tolist() for _ in range(2))
        found += compare(first, second).p_value < 0.05
    assert found / 200 < 0.09


def test_cohens_h() -> None:
    # Cohen (1988), table 6.2.2: h is the difference of phi; phi(.50) = 1.571, phi(.65) = 1.875, phi(.10) = .644.
    assert cohens_h(0.5, 0.65) == pytest.approx(1.875 - 1.571, abs=0.002)
    assert cohens_h(0.5, 0.1) == pytest.approx(0.644 - 1.571, abs=0.002)
    assert cohens_h(0.0, 1.0) == pytest.approx(math.pi)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_there_must_be_something_to_estimate() -> None:
    for nothing in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="at least one task"):
            task_means(nothing)
    with pytest.raises(ValueError, match="the same tasks on both sides, got 1 and 2"):
        compare(ones(1, 1), ones(1, 2))
