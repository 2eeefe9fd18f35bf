"""The floor of every table: a uniformly random action."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from opid_agents.candidates import candidates
from opid_gym.roster import single_info


class RandomAgent:
    """Chooses uniformly among the admissible actions; where actions are free text, among `candidates`.

    Every episode has a random stream of its own, a function of the seed, the task and how often the agent has played
    it. What is chosen depends neither on the games played beside it nor on what was played before.

    Args:
        num_envs: how many games.
        seed: seed of all streams.
    """

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self._seed = seed
        self._streams: list[np.random.Generator | None] = [None] * num_envs
        self._begun = Counter[str]()

    @classmethod
    def make(cls, envs: VectorEnv[Any, Any, Any], *, seed: int = 0) -> RandomAgent:
        """For `--agent random`."""
        return cls(envs.num_envs, seed)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """New streams where `mask` is True."""
        for game in np.flatnonzero(mask):
            self._streams[game] = None

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """One action for each game."""
        actions = [""] * len(observations)
        for game in np.flatnonzero(infos["_task"]).tolist():
            offered = candidates(observations[game], single_info(infos, game))
            actions[game] = offered[self._stream(game, infos["task_id"][game]).integers(len(offered))]
        return actions

    def _stream(self, game: int, task_id: str) -> np.random.Generator:
        stream = self._streams[game]
        if stream is None:
            self._begun[task_id] += 1
            stream = np.random.default_rng([self._seed, zlib.crc32(task_id.encode()), self._begun[task_id]])
            self._streams[game] = stream
        return stream
