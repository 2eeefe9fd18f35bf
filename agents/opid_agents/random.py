"""The floor of every table: a uniformly random admissible action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray


class RandomAgent:
    """Chooses uniformly among the admissible actions.

    Every game has a random stream of its own, so its choices do not depend on how many games are played beside it.

    Args:
        num_envs: how many games.
        seed: seed of all streams.
    """

    def __init__(self, num_envs: int, seed: int = 0) -> None:
        self._streams = [np.random.default_rng([seed, i]) for i in range(num_envs)]

    @classmethod
    def make(cls, envs: VectorEnv[Any, Any, Any], *, seed: int = 0) -> RandomAgent:
        """For `opid-gym eval --agent random`."""
        return cls(envs.num_envs, seed)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Nothing to forget."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """One admissible action for each game.

        Raises:
            ValueError: the world's actions are free text, so there is nothing to choose from.
        """
        actions = []
        for stream, admissible, active in zip(
            self._streams, infos["admissible_actions"], infos["_admissible_actions"], strict=True
        ):
            if active and not admissible:
                raise ValueError("the random agent needs admissible actions, and this world lists none")
            actions.append(admissible[stream.integers(len(admissible))] if active else "")
        return actions
