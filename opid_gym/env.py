"""One game as a Gymnasium environment."""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from opid_gym.spaces import UnicodeText
from opid_gym.world import Task, Turn, World

# Generous on purpose: a space must contain every value the environment emits or accepts, and it accepts any string a
# model may produce.
MAX_OBSERVATION_CHARACTERS = 2**20
MAX_ACTION_CHARACTERS = 2**24


class TextEnv(gym.Env[str, str]):
    """A text world, one game at a time.

    The observation is the world's own text and the action is a plain string; nothing is added to either (prompts are
    the agent's business, see `opid_gym.prompting`). `info` holds, after every reset and step:

    - ``task``, ``task_id``, ``task_type``: see `opid_gym.world.Task`;
    - ``admissible_actions``: tuple of str in the world's order, or None where actions are free text;
    - ``anchor``: a text naming the state, for grouping equal states;
    - ``won``: the task is solved as of now;
    - ``episode``, only with the last step: ``{"return": float, "length": int, "success": bool}``.

    Tasks come in a seeded order, each once before any comes again. `reset(options={"task_id": ID})` plays a given
    one, and a world may take others still (`World.task_options`), such as a shop's ``{"goal": {...}}``.

    Args:
        world: what is played.
        seed: seed of the task order until `reset(seed=...)` gives another.
        max_episode_steps: truncate after so many steps; None: only a `TimeLimit` wrapper (which `gymnasium.make`
            adds) does.
        render_mode: ``"ansi"``: `render` returns the latest text; ``"human"``: it is written to the terminal as it
            comes.

    >>> import gymnasium, opid_gym
    >>> env = gymnasium.make("opid/ALFWorld-v0", size="small", seed=0)
    >>> observation, info = env.reset()
    >>> observation.splitlines()[0]
    '-= Welcome to TextWorld, ALFRED! =-'
    >>> observation, reward, terminated, truncated, info = env.step("look")
    >>> "look" in info["admissible_actions"], reward, terminated, info["won"]
    (True, 0.0, False, False)
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012  (as Gymnasium)

    def __init__(
        self,
        world: World,
        *,
        seed: int = 0,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}")
        self.world = world
        self.render_mode = render_mode
        self.observation_space = UnicodeText(MAX_OBSERVATION_CHARACTERS)
        self.action_space = UnicodeText(MAX_ACTION_CHARACTERS)
        self._own_limit = check_limit(max_episode_steps)
        self._order = TaskOrder(len(world.task_ids), seed)
        self._game: Game | None = None
        self._text = ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Begin the next task of the order.

        Args:
            seed: restart the order from this seed.
            options: ``{"task_id": ID}`` to play one given task, or ``{NAME: DESCRIPTION}`` with one of the world's
                `task_options`.

        Raises:
            TypeError, ValueError: a malformed or unknown option, two tasks at once, or a description the world cannot
                play.
            KeyError: the world has no such task.
        """
        super().reset(seed=seed)
        if seed is not None:
            self._order = TaskOrder(len(self.world.task_ids), seed)
        given = check_options(options, ("task_id", *self.world.task_options))
        if len(given) > 1:
            raise ValueError(f"reset options {sorted(given)} name a task each: give one of them")
        task_id = given.get("task_id")
        for option in self.world.task_options:
            if given.get(option) is not None:
                task_id = self.world.add_task(option, given[option])
        if task_id is None:
            task_id = self.world.task_ids[self._order.next()]
        check_task_id(task_id)
        [(task, turn)] = self.world.start([0], [task_id])
        self._game = Game(task, _shortest(self._own_limit, _enclosing_time_limit(self)))
        self._show(turn)
        return turn.observation, make_info(task, turn)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action. Any string is accepted; what the world does not understand changes nothing.

        Raises:
            TypeError: the action is not a string.
            gymnasium.error.ResetNeeded: no episode is running.
        """
        check_action(action)
        if self._game is None or self._game.over:
            raise gym.error.ResetNeeded("the episode is over (or none was begun): call reset() before step()")
        [turn] = self.world.step([0], [action])
        terminated, truncated = self._game.advance(turn)
        info = make_info(self._game.task, turn)
        if self._game.over:
            info["episode"] = self._game.summary()
        self._show(turn, action)
        return turn.observation, turn.reward, terminated, truncated, info

    def expert_action(self) -> str:
        """The next action of the world's expert, which sees the hidden state.

        Raises:
            gymnasium.error.ResetNeeded: no episode was begun.
        """
        if self._game is None:
            raise gym.error.ResetNeeded("no episode was begun: call reset() before expert_action()")
        return self.world.expert_actions([0])[0]

    def render(self) -> str | None:
        """The latest text, in mode ``"ansi"``."""
        return self._text if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Close the world."""
        self._game = None
        self.world.close()

    def _show(self, turn: Turn, action: str | None = None) -> None:
        self._text = turn.observation if action is None else f"> {action}\n{turn.observation}"
        if self.render_mode == "human":
            sys.stdout.write(self._text + "\n\n")


class TaskOrder:
    """Task numbers in seeded random order, each once before any comes again.

    A pure function of (seed, position), so that saving the position is saving the state.

    >>> order = TaskOrder(3, seed=1)
    >>> sorted(order.next() for _ in range(3)), order.position
    ([0, 1, 2], 3)
    """

    def __init__(self, count: int, seed: int, position: int = 0) -> None:
        if count < 1:
            raise ValueError("the world has no tasks to play")
        try:
            self.seed = operator.index(seed)
        except TypeError:
            self.seed = -1
        if self.seed < 0:
            raise ValueError(f"seed must be a non-negative integer, got {seed!r}")
        self.count = count
        self.position = position
        self._cycle = -1
        self._permutation = np.empty(0, np.int64)

    def at(self, position: int) -> int:
        """The task number at a position >= 0."""
        cycle, offset = divmod(position, self.count)
        if cycle != self._cycle:
            self._permutation = np.random.default_rng([self.seed, cycle]).permutation(self.count)
            self._cycle = cycle
        return int(self._permutation[offset])

    def next(self) -> int:
        """The task number at the current position, which moves on."""
        self.position += 1
        return self.at(self.position - 1)


@dataclass(slots=True)
class Game:
    """Book-keeping of one running episode."""

    task: Task
    limit: int | None
    length: int = 0
    total: float = 0.0
    success: bool = False
    over: bool = False

    def advance(self, turn: Turn) -> tuple[bool, bool]:
        """Count a step; returns (terminated, truncated)."""
        self.length += 1
        self.total += turn.reward
        self.success = turn.won
        truncated = turn.truncated or (self.limit is not None and self.length >= self.limit)
        self.over = turn.terminated or truncated
        return turn.terminated, truncated

    def summary(self) -> dict[str, Any]:
        """``info["episode"]``."""
        return {"return": self.total, "length": self.length, "success": self.success}


def make_info(task: Task, turn: Turn) -> dict[str, Any]:
    """The `info` of one game; a key of `turn.extras` may not shadow the contract's."""
    return {
        **turn.extras,
        "task": task.text,
        "task_id": task.id,
        "task_type": task.type,
        "admissible_actions": turn.admissible_actions,
        "anchor": turn.observation if turn.anchor is None else turn.anchor,
        "won": turn.won,
    }


def check_action(action: object) -> None:
    """Refuse what is not a string, by name."""
    if not isinstance(action, str):
        raise TypeError(f"an action must be a str, got {type(action).__name__}: {action!r}")


def check_task_id(task_id: object) -> None:
    """Refuse what is not a string, by name."""
    if not isinstance(task_id, str):
        raise TypeError(f"a task id must be a str, got {type(task_id).__name__}: {task_id!r}")


def check_limit(max_episode_steps: int | None) -> int | None:
    """Refuse a limit that is not a positive integer."""
    if max_episode_steps is not None and (not isinstance(max_episode_steps, int) or max_episode_steps < 1):
        raise ValueError(f"max_episode_steps must be a positive integer or None, got {max_episode_steps!r}")
    return max_episode_steps


def check_options(options: Mapping[str, Any] | None, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Refuse reset options that are no mapping, and unknown ones by name."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset options must be a dict, got {type(options).__name__}: {options!r}")
    unknown = sorted(set(options or ()) - set(allowed))
    if unknown:
        raise ValueError(f"unknown reset options {unknown}; allowed: {list(allowed)}")
    return options or {}


def _shortest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _enclosing_time_limit(env: gym.Env[Any, Any]) -> int | None:
    """The limit of the `TimeLimit` wrappers whose `reset` is calling `env.reset` now.

    `gymnasium.make` keeps `max_episode_steps` to itself and tells the environment nothing, yet `info["episode"]` has
    to come with the step that `TimeLimit` truncates. The callers of `reset` are the one place where the environment
    can see what wraps it.
    """
    limit = None
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == "reset":
            caller = frame.f_locals.get("self")
            if isinstance(caller, gym.wrappers.TimeLimit) and caller.unwrapped is env:
                limit = _shortest(limit, caller._max_episode_steps)
        frame = frame.f_back  # type: ignore[assignment]
    return limit
