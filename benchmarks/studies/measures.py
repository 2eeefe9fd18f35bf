"""The statistics of a study: over seeds, which are what is sampled.

Intervals and tests of paired differences are Student's. Beside them stand the measures that rliable (Agarwal and
others, 2021, arXiv 2108.13264) made common: the interquartile mean and the probability of improvement, with
percentile intervals of a bootstrap over runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, stdev

import numpy as np
from scipy.stats import t as student
from scipy.stats import trim_mean

Interval = dict[str, float | None]
_RESAMPLES = 10_000
_RUNS_TO_RESAMPLE = 5  # two runs resampled are the same two runs: an interval that promises too much


def interval(values: Sequence[float]) -> Interval:
    """Mean over seeds with half of Student's 95 % interval; no interval for one seed."""
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean, "half": None, "seeds": len(values)}
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"mean": mean, "half": half, "seeds": len(values)}


def p_value(differences: Sequence[float]) -> float | None:
    """Of Student's paired test, two-sided; None for fewer than two seeds."""
    if len(differences) < 2:
        return None
    spread = stdev(differences) / len(differences) ** 0.5
    if spread == 0:
        return 1.0 if fmean(differences) == 0 else 0.0
    return float(2 * student.sf(abs(fmean(differences)) / spread, len(differences) - 1))


def holm(values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number (Holm, 1979): the chance of *any* false claim among them is bounded.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    known = sorted((value, i) for i, value in enumerate(values) if value is not None)
    corrected: list[float | None] = [None] * len(values)
    largest = 0.0
    for rank, (value, i) in enumerate(known):
        largest = max(largest, min(1.0, value * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half of the runs: a quarter of them, rounded down, is left out at either end.

    >>> interquartile_mean([0.0, 0.4, 0.6, 1.0])
    0.5
    """
    return float(trim_mean(values, 0.25))


def improvement(values: Sequence[float], others: Sequence[float]) -> float:
    """Probability that a run of one algorithm is better than a run of another, over all pairs of runs; ties count half.

    >>> improvement([0.5, 0.7], [0.5, 0.4])
    0.875
    """
    return float(_improvements(np.asarray(values)[None], np.asarray(others)[None])[0])


def interquartile_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The bootstrap's 95 % interval of `interquartile_mean`; None for fewer than five runs."""
    return _bootstrap(lambda runs: trim_mean(runs, 0.25, axis=1), values)


def improvement_interval(values: Sequence[float], others: Sequence[float]) -> tuple[float, float] | None:
    """The bootstrap's 95 % interval of `improvement`, both algorithms resampled; None for fewer than five runs."""
    return _bootstrap(_improvements, values, others)


def _improvements(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    a, b = values[:, :, None], others[:, None, :]
    result: np.ndarray = ((a > b) + 0.5 * (a == b)).mean(axis=(1, 2))
    return result


def _bootstrap(statistic: Callable[..., np.ndarray], *groups: Sequence[float]) -> tuple[float, float] | None:
    if min(map(len, groups)) < _RUNS_TO_RESAMPLE:
        return None
    # The stream of RandomState is the same in every version of NumPy, so stored tables can be made again.
    random = np.random.RandomState(0)
    resampled = [np.asarray(runs)[random.randint(len(runs), size=(_RESAMPLES, len(runs)))] for runs in groups]
    low, high = np.percentile(statistic(*resampled), [2.5, 97.5])
    return float(low), float(high)
