"""Random numbers by name: each stream has a key of its own, so nobody's numbers depend on who drew before.

That is why a run gives the same episodes however many games are played at once, in however many processes, and goes on
after an interruption as if there had been none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def stream(*names: object) -> int:
    """A seed of 56 bits that depends on `names` alone, on every machine; e.g. ``stream(run_seed, "rollout", 3)``."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def random_bits(seeds: Sequence[int], count: int) -> NDArray[np.uint64]:
    """The first `count` outputs of SplitMix64 for each seed.

    It is the generator of Java's SplittableRandom (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators"). Its n-th output is a hash of the seed and n, so many streams are computed at once.

    Args:
        seeds: each at least 0 and below 2**64.
        count: numbers from each.

    Returns:
        ``[len(seeds), count]``; row i depends on ``seeds[i]`` alone, and its beginning not on `count`.
    """
    state = np.array(seeds, dtype=np.uint64)[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniforms(seeds: Sequence[int], count: int) -> NDArray[np.float64]:
    """Numbers that are uniform in [0, 1), ``[len(seeds), count]``, from `random_bits`.

    >>> few, more = uniforms([7, 8], 2), uniforms([8], 3)
    >>> bool((few[1] == more[0, :2]).all())
    True
    """
    return (random_bits(seeds, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
