"""Estimates, intervals and tests for benchmark results, as pure functions.

An agent plays the same tasks with several seeds. Episodes of one task are alike, so they are not independent: whatever
is estimated here treats the *task* as the unit that was sampled, and seeds as repeated measurements of it. Playing a
deterministic agent with five seeds therefore narrows no interval.

Results of an agent come as ``outcomes``: one sequence a task, one number (or bool) a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opid_gym.evaluation import Interval, paired_interval, score_interval

Outcomes = Sequence[Sequence[float]]

RESAMPLES = 9_999


@dataclass(frozen=True, slots=True)
class Comparison:
    """How an agent differs from another on the same tasks.

    Attributes:
        difference: of the success rates, the second's less the first's, with its 95 % interval.
        p_value: of the two-sided test that the two are exchangeable.
        test: its name.
        effect: Cohen's h of the two rates: 0.2 is small, 0.5 medium, 0.8 large (Cohen 1988, chapter 6).
        tasks: how many were paired.
    """

    difference: Interval
    p_value: float
    test: str
    effect: float
    tasks: int


def success_rate(outcomes: Outcomes) -> Interval:
    """Success rate with Wilson's interval for clustered trials.

    With one seed this is Wilson's interval. With more, the count in it is the *effective* one, p (1 - p) / var(p),
    where var(p) is the variance of the mean of the tasks' own rates (Korn and Graubard 1998; Dean and Pagano 2015 for
    the score interval), kept between the number of tasks and the number of episodes.

    Raises:
        ValueError: there are no tasks, or a task has no episodes.

    >>> str(success_rate([[1, 1]] * 8 + [[0, 0]] * 2))  # a second seed that repeats the first says nothing new
    '80.0% [49.0%, 94.3%]'
    """
    means = task_means(outcomes)
    tasks = len(means)
    rate = float(means.mean())
    effective = float(tasks)
    if tasks > 1 and 0 < rate < 1:
        variance = float(means.var(ddof=1)) / tasks
        episodes = sum(map(len, outcomes))
        effective = episodes if variance == 0 else min(max(rate * (1 - rate) / variance, tasks), episodes)
    return score_interval(rate, effective)


def mean_interval(outcomes: Outcomes, *, seed: int = 0) -> Interval:
    """Mean over tasks with the percentile bootstrap's interval, tasks resampled (Efron 1979).

    With few tasks it is too narrow, and with equal outcomes it has no width.

    Raises:
        ValueError: there are no tasks, or a task has no episodes.
    """
    means = task_means(outcomes)
    low, high = np.quantile(_bootstrap_means(means, seed), [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high))


def compare(first: Outcomes, second: Outcomes, *, seed: int = 0) -> Comparison:
    """Compare the success of two agents on the same tasks, in the same order.

    The interval is Bonett and Price's of the tasks' differences (`opid_gym.evaluation.paired_interval`). The test is
    McNemar's exact one where every task was solved always or never on both sides, and otherwise the sign-flip
    permutation test of the differences, of which McNemar's is that case.

    Raises:
        ValueError: not the same number of tasks, or none.
    """
    differences = _differences(first, second)
    if set(differences.tolist()) <= {-1.0, 0.0, 1.0}:
        test, p_value = "McNemar exact", mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))
    else:
        test, p_value = "sign-flip permutation", sign_flip(differences, seed=seed)
    return Comparison(
        paired_interval(differences.tolist()),
        p_value,
        test,
        cohens_h(float(task_means(first).mean()), float(task_means(second).mean())),
        len(differences),
    )


def compare_returns(first: Outcomes, second: Outcomes, *, seed: int = 0) -> tuple[Interval, float]:
    """Difference of the mean returns of two agents on the same tasks (the second's less the first's), and its p-value.

    The interval is the percentile bootstrap's over tasks, the test the sign-flip permutation test.

    Raises:
        ValueError: not the same number of tasks, or none.
    """
    differences = _differences(first, second)
    return mean_interval(differences[:, None].tolist(), seed=seed), sign_flip(differences, seed=seed)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test: of the tasks that only one of two agents solved, is it evenly either?

    >>> round(mcnemar(9, 1), 4)
    0.0215
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost, 0.5).pvalue) if gained + lost else 1.0


def sign_flip(differences: Sequence[float] | NDArray[np.float64], *, seed: int = 0) -> float:
    """Two-sided p-value of the permutation test that flips the signs of paired differences (Fisher 1935).

    Exact where there are few enough non-zero differences to try all flips, else from random ones, counting the
    observed one among them, so that it is never 0 (Phipson and Smyth 2010).

    >>> sign_flip([1.0, 1.0, 1.0, 0.0])
    0.25
    """
    from scipy.stats import permutation_test

    changed = np.asarray(differences, dtype=np.float64)
    changed = changed[changed != 0]  # flipping a zero changes nothing
    if len(changed) < 2:
        return 1.0  # one flip is as extreme as none
    # The sum is the mean without a division: exact for the thirds and fifths of a few seeds once they are rounded.
    result = permutation_test(
        (changed,),
        lambda x, axis: np.round(np.sum(x, axis=axis), 9),
        permutation_type="samples",
        n_resamples=RESAMPLES,
        batch=1_000,
        rng=np.random.default_rng(seed),
        vectorized=True,
    )
    return float(result.pvalue)


def cohens_h(first: float, second: float) -> float:
    """Effect size of two rates: 2 asin(sqrt(second)) - 2 asin(sqrt(first)).

    >>> round(cohens_h(0.25, 0.75), 3)
    1.047
    """
    return 2 * math.asin(math.sqrt(second)) - 2 * math.asin(math.sqrt(first))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: reject those below 0.05 and the chance of any false rejection is below 0.05.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = highest
    return adjusted


def task_means(outcomes: Outcomes) -> NDArray[np.float64]:
    """Each task's mean over its seeds, ``[tasks]``.

    Raises:
        ValueError: there are no tasks, or a task has no episodes.
    """
    if not outcomes or not all(len(trials) for trials in outcomes):
        raise ValueError("statistics need at least one task, and an episode of each task")
    return np.array([sum(trials) / len(trials) for trials in outcomes], dtype=np.float64)


def _differences(first: Outcomes, second: Outcomes) -> NDArray[np.float64]:
    """Each task's mean on the second side less that on the first, ``[tasks]``."""
    if len(first) != len(second):
        raise ValueError(f"comparing needs the same tasks on both sides, got {len(first)} and {len(second)}")
    return task_means(second) - task_means(first)


def _bootstrap_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    count = len(values)
    # How often each value is drawn is multinomial; in pieces, because resamples x values may not fit in memory.
    pieces = [
        rng.multinomial(count, np.full(count, 1 / count), size=size) @ values / count
        for size in [1_000] * (RESAMPLES // 1_000) + [RESAMPLES % 1_000]
    ]
    return np.concatenate(pieces)
