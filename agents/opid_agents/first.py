"""The simplest agent that is not random: always the first action that it has not tried in this episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from opid_agents.candidates import candidates
from opid_gym.roster import single_info


class FirstAgent:
    """Plays the first candidate, and with `untried` the first of those it has played least often in this episode.

    Args:
        untried: False: always the first, whatever came of it.
    """

    def __init__(self, untried: bool = True) -> None:
        self._untried = untried
        self._played: dict[int, dict[str, int]] = {}

    @classmethod
    def make(cls, envs: VectorEnv[Any, Any, Any], *, seed: int = 0, untried: bool = True) -> FirstAgent:
        """For `--agent first`; there is nothing random."""
        return cls(untried)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget what was tried in the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._played[game] = {}

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """One action for each game."""
        actions = [""] * len(observations)
        for game in np.flatnonzero(infos["_task"]).tolist():
            offered = candidates(observations[game], single_info(infos, game))
            played = self._played.setdefault(game, {})
            action = min(offered, key=lambda text: played.get(text, 0)) if self._untried else offered[0]
            played[action] = played.get(action, 0) + 1
            actions[game] = action
        return actions
