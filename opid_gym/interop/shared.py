"""What the bridges share: many games in one world, each behind the single-game interface, and what a model is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from opid_gym.env import TextEnv
from opid_gym.world import Task, Turn, World


class OneSlot(World):
    """One slot of a shared world, as a world of its own; calls of several threads must not overlap.

    Args:
        world: what is shared; stays open when this is closed.
        slot: which of its games.
    """

    def __init__(self, world: World, slot: int) -> None:
        self._world = world
        self._slot = slot
        self.task_ids = world.task_ids
        self.source = world.source
        self.data = world.data

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`."""
        return self._world.start([self._slot], task_ids)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        return self._world.step([self._slot], actions)

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        """See `World.expert_actions`."""
        return self._world.expert_actions([self._slot])


def one_game(world: World, slot: int, max_episode_steps: int, seed: int | None = None) -> gym.Env[str, str]:
    """One slot of a shared world as an environment with a limit of steps."""
    return TimeLimit(TextEnv(OneSlot(world, slot), seed=seed), max_episode_steps)


def shown(observation: str, info: Mapping[str, Any]) -> str:
    r"""The observation, with the admissible actions where the world has such.

    >>> shown("You are at 0.", {"admissible_actions": ("left", "right")})
    'You are at 0.\nYou can: left, right'
    """
    actions = info["admissible_actions"]
    return observation if actions is None else f"{observation}\nYou can: {', '.join(actions)}"
