"""One game as a Gymnasium environment."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from opid_gym.checks import check_action, check_options, check_render_mode, check_seed, check_task_id
from opid_gym.episode import Episode, make_info, plain_spec
from opid_gym.order import TaskOrder
from opid_gym.spaces import MAX_ACTION_CHARACTERS, MAX_OBSERVATION_CHARACTERS, UnicodeText
from opid_gym.world import Turn, World


class TextEnv(gym.Env[str, str]):
    """A text world, one game at a time.

    The observation is the world's own text and the action is a plain string; nothing is added to either (prompts are
    the agent's business, see `opid_gym.prompting`). `info` holds, after every reset and step:

    - ``task``, ``task_id``, ``task_type``: see `opid_gym.world.Task`;
    - ``admissible_actions``: tuple of str in the world's order, or None where actions are free text;
    - ``anchor``: a text naming the state, for grouping equal states;
    - ``won``: the task is solved as of now;
    - ``source``: where the task's data come from (`World.source`).

    The environment itself has no time limit: Gymnasium's `TimeLimit` is one, and `gymnasium.make` adds it. The key
    ``episode`` is left to Gymnasium's `RecordEpisodeStatistics`.

    Tasks come in a seeded order, each once before any comes again. `reset(options={"task_id": ID})` plays a given
    one, and a world may take others too (`World.task_options`), such as a shop's ``{"goal": {...}}``.

    A copied or pickled environment goes on where the original is, apart from it, where the world can be copied.

    Args:
        world: what is played.
        seed: seed of the task order until `reset(seed=...)` gives another; None: random, so that copies differ.
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
    _spec: EnvSpec | None = None

    def __init__(
        self,
        world: World,
        *,
        seed: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = world
        self.render_mode = render_mode
        self.observation_space = UnicodeText(MAX_OBSERVATION_CHARACTERS)
        self.action_space = UnicodeText(MAX_ACTION_CHARACTERS)
        self._order = TaskOrder(len(world.task_ids), seed)
        self._episode: Episode | None = None
        self._closed = False
        self._text = ""

    @property
    def spec(self) -> EnvSpec | None:
        """How `gymnasium.make` made this environment; its arguments are JSON values where they can be."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

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
        self._check_open()
        seed = check_seed(seed)
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
        self._episode = Episode(task)
        self._show(turn)
        return turn.observation, make_info(task, turn, self.world.source)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action. Any string is accepted; what the world does not understand changes nothing.

        Raises:
            TypeError: the action is not a string.
            gymnasium.error.ResetNeeded: no episode is running.
            gymnasium.error.ClosedEnvironmentError: the environment was closed.
        """
        check_action(action)
        episode = self._episode
        if episode is None or episode.over:
            self._check_open()
            raise gym.error.ResetNeeded("the episode is over (or none was begun): call reset() before step()")
        [turn] = self.world.step([0], [action])
        episode.length += 1
        episode.over = turn.terminated or turn.truncated
        self._show(turn, action)
        return (
            turn.observation,
            turn.reward,
            turn.terminated,
            turn.truncated,
            make_info(episode.task, turn, self.world.source),
        )

    def expert_action(self) -> str:
        """The next action of the world's expert, which sees the hidden state.

        Raises:
            gymnasium.error.ResetNeeded: no episode was begun.
        """
        if self._episode is None:
            self._check_open()
            raise gym.error.ResetNeeded("no episode was begun: call reset() before expert_action()")
        return self.world.expert_actions([0])[0]

    def render(self) -> str | None:
        """The latest text, in mode ``"ansi"``."""
        return self._text if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Close the world; the environment cannot be used any more."""
        self._episode = None
        if not self._closed:
            self._closed = True
            self.world.close()

    def _check_open(self) -> None:
        if self._closed:
            raise gym.error.ClosedEnvironmentError("the environment was closed: make another one")

    def _show(self, turn: Turn, action: str | None = None) -> None:
        self._text = turn.observation if action is None else f"> {action}\n{turn.observation}"
        if self.render_mode == "human":
            sys.stdout.write(self._text + "\n\n")
