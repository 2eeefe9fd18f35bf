"""The environment side of an agent loop of verl: one game as a dialogue. verl itself is not imported here.

In verl (0.9) an *agent loop* plays one episode as one conversation, in coroutines that share a process: `run` asks the
inference server for a reply, reads it, and goes on. What it needs of a world is the next message for a reply, and a
reward in the end. How the two are put together is in the documentation, *Inside verl*.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opid_gym.actions import TAGGED, ActionFormat, parse_action
from opid_gym.interop.shared import one_game, shown
from opid_gym.registration import make_envs
from opid_gym.world import World


class Dialogue:
    """One game that is told by messages and played by replies.

    Args:
        world: what is played, in slot `slot`; may be shared by many games.
        slot: of this game.
        max_episode_steps: the game is over after them.
        action_format: how a reply says its action.
        seed: of the order of the tasks, where none is asked for.

    Attributes:
        reward: the episode's return so far.
        won: whether its task is solved.
        invalid: number of replies that no action could be read from.
    """

    def __init__(
        self, world: World, slot: int, max_episode_steps: int, action_format: ActionFormat = TAGGED, seed: int = 0
    ) -> None:
        self._env = one_game(world, slot, max_episode_steps, seed)
        self._format = action_format
        self._admissible: Any = None
        self.reward, self.won, self.invalid = 0.0, False, 0

    def begin(self, task_id: str | None = None) -> str:
        """Begin an episode, of one task or of the next in random order.

        Returns:
            The first message: the task, and what is seen.
        """
        observation, info = self._env.reset(options={"task_id": task_id} if task_id else None)
        self.reward, self.won, self.invalid = 0.0, False, 0
        self._admissible = info["admissible_actions"]
        return f"Your task: {info['task']}\n\n{shown(observation, info)}"

    def answer(self, reply: str) -> str | None:
        """Play the action that a reply says.

        Returns:
            The next message, or None: the episode is over.
        """
        read = parse_action(reply, self._format, self._admissible)
        self.invalid += not read.valid
        observation, reward, terminated, truncated, info = self._env.step(read.action)
        self.reward += float(reward)
        self.won, self._admissible = bool(info["won"]), info["admissible_actions"]
        return None if terminated or truncated else shown(observation, info)


class Dialogues:
    """Games of one shared world for the episodes of an agent loop's process, as many at once as are open.

    Args:
        env: a registered environment.
        action_format: how a reply says its action.
        max_episode_steps: of every episode; None: the world's own limit.
        seed: of the first game; the others follow.
        arguments: of the environment.

    >>> games = Dialogues("opid/ALFWorld-v0", size="small")
    >>> with games.open() as game:
    ...     first = game.begin()
    ...     second = game.answer("<think>hm</think><action>look</action>")
    >>> first.startswith("Your task: "), second.startswith("You are"), game.reward
    (True, True, 0.0)
    """

    def __init__(
        self,
        env: str,
        *,
        action_format: ActionFormat = TAGGED,
        max_episode_steps: int | None = None,
        seed: int = 0,
        **arguments: Any,
    ) -> None:
        self._world = make_envs(env, 1, **arguments).world
        self._limit = max_episode_steps or self._world.default_max_episode_steps
        self._format, self._seed = action_format, seed
        self._free: list[Dialogue] = []
        self._made = 0

    @contextmanager
    def open(self) -> Iterator[Dialogue]:
        """A game that nobody else plays meanwhile; `Dialogue.begin` begins it."""
        if not self._free:
            slot = self._made
            self._made += 1
            self._free.append(Dialogue(self._world, slot, self._limit, self._format, self._seed + slot))
        game = self._free.pop()
        try:
            yield game
        finally:
            self._free.append(game)
