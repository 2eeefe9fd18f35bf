"""Text environments for TRL: what `GRPOTrainer(environment_factory=...)` makes, resets, calls and asks for a reward.

TRL itself is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from opid_gym.interop.shared import one_game, shown
from opid_gym.registration import make_envs
from opid_gym.world import World


class TextGame:
    """One game whose actions a model takes by calling the tool `act`.

    TRL shows the model every public method but `reset` and `get_reward` as a tool, so there is one.

    Args:
        world: what is played, in slot `slot`; may be shared by many games.
        slot: of this game.
        max_episode_steps: further actions are refused.
        seed: of the order of the tasks, where the rows of the data set name none.
    """

    def __init__(self, world: World, slot: int, max_episode_steps: int, seed: int = 0) -> None:
        self._env = one_game(world, slot, max_episode_steps, seed)
        self._over = True
        self._total = 0.0

    def reset(self, task_id: str | None = None, **columns: Any) -> str:
        """Begin an episode. TRL passes the columns of the row; a column ``task_id`` chooses the task.

        Returns:
            What the model is told: TRL appends it to the prompt.
        """
        observation, info = self._env.reset(options={"task_id": task_id} if task_id else None)
        self._over, self._total = False, 0.0
        return f"Your task: {info['task']}\n\n{shown(observation, info)}"

    def act(self, action: str) -> str:
        """Take one action in the world and see what comes of it.

        Args:
            action: The action to take.

        Returns:
            What you observe then, and the actions you can take.
        """
        if self._over:
            return "The episode is over."
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._total += float(reward)
        self._over = terminated or truncated
        return f"{observation}\nThe episode is over." if self._over else shown(observation, info)

    def get_reward(self) -> float:
        """The episode's return so far."""
        return self._total


def text_games(
    env: str, *, max_episode_steps: int | None = None, seed: int = 0, **arguments: Any
) -> Callable[[], TextGame]:
    """An `environment_factory`: every call makes a game of one shared world.

    Args:
        env: a registered environment.
        max_episode_steps: of every episode; None: the world's own limit.
        seed: of the first game; the others follow.
        arguments: of the environment.

    >>> from opid_gym.interop.trl import text_games
    >>> game = text_games("opid/ALFWorld-v0", size="small")()
    >>> "Your task: " in game.reset(), game.act("look").startswith("You are"), game.get_reward()
    (True, True, 0.0)
    """
    world = make_envs(env, 1, **arguments).world
    limit = max_episode_steps or world.default_max_episode_steps
    slots = count()

    def make() -> TextGame:
        slot = next(slots)
        return TextGame(world, slot, limit, seed + slot)

    return make
