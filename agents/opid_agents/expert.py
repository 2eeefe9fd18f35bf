"""The ceiling of every table: the world's own expert, which sees the hidden state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_gym.vector import TextVectorEnv


class ExpertAgent:
    """Plays what `opid_gym.world.World.expert_actions` says.

    Args:
        envs: the environment it acts in; the expert reads its hidden state.
    """

    def __init__(self, envs: TextVectorEnv) -> None:
        self._envs = envs

    @classmethod
    def make(cls, envs: TextVectorEnv, *, seed: int = 0) -> ExpertAgent:
        """For `opid-gym eval --agent expert`; the seed is not used, experts do not gamble."""
        return cls(envs)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Nothing to forget: the expert reads the state."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """The expert's action in each game that is being played."""
        return [action or "" for action in self._envs.expert_actions(infos["_task"])]
