"""Many games as one Gymnasium vector environment: one process, one call into the world for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from opid_gym.checks import (
    check_action,
    check_integer,
    check_limit,
    check_options,
    check_render_mode,
    check_seed,
    check_task_id,
)
from opid_gym.episode import Episode, make_info, plain_spec
from opid_gym.order import GroupedOrder
from opid_gym.spaces import MAX_ACTION_CHARACTERS, MAX_OBSERVATION_CHARACTERS, UnicodeText
from opid_gym.world import Turn, World

Actions = Sequence[str | None] | NDArray[Any]
Infos = dict[str, Any]


class TextVectorEnv(VectorEnv[tuple[str, ...], Actions, NDArray[Any]]):
    """A batch of games of one text world.

    Observations are a tuple of `num_envs` strings and actions a sequence of as many. `infos` has the keys of
    `opid_gym.env.TextEnv` in Gymnasium's vector form (``infos["won"][i]`` is meant where ``infos["_won"][i]``), and:

    - ``group``: number of the group of rollouts that game i's episode belongs to. Games ``g*group_size ...
      (g+1)*group_size - 1`` play the same tasks in the same order, so their n-th episodes have the same task and the
      same group number however the episodes' lengths differ. A group never has two tasks: where games of it are reset
      apart from the others, they begin further groups, and one that was left behind stays unfinished.

    Autoreset modes do what Gymnasium documents. With ``DISABLED``, ``reset(options={"reset_mask": mask})`` begins
    new episodes where `mask` is True. ``reset(options={"task_ids": [...]})`` plays given tasks (entries outside the
    mask are ignored); where the world takes described tasks (`World.task_options`), the plural of an option's name does
    the same with a description for each game, e.g. ``{"goals": [{...}, {...}]}``. An action of ``None``
    leaves its game alone for this step: no reward, no step counted, no info; a finished game in mode ``DISABLED``
    accepts nothing else.

    Args:
        world: what is played.
        num_envs: how many games.
        group_size: how many games share a task; must divide `num_envs`.
        seed: seed of the task order until ``reset(seed=...)`` gives another; None: random.
        max_episode_steps: truncate after this number of steps; None or -1: never.
        autoreset_mode: a `gymnasium.vector.AutoresetMode` or its value.
        render_mode: ``"ansi"``: `render` returns each game's latest text.

    Raises:
        ValueError: an argument is out of range; the message names it.

    >>> import gymnasium, opid_gym
    >>> envs = gymnasium.make_vec("opid/ALFWorld-v0", num_envs=4, group_size=2, size="small")
    >>> observations, infos = envs.reset(seed=0)
    >>> infos["group"].tolist(), infos["task_id"][0] == infos["task_id"][1], infos["task_id"][0] == infos["task_id"][2]
    ([0, 0, 1, 1], True, False)
    >>> observations, rewards, terminations, truncations, infos = envs.step(["look"] * 4)
    >>> rewards.tolist()
    [0.0, 0.0, 0.0, 0.0]
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"]}  # noqa: RUF012  (Gymnasium's own declaration)
    _spec: EnvSpec | None = None

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        *,
        group_size: int = 1,
        seed: int | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        num_envs = check_integer("num_envs", num_envs)
        try:
            group_size = check_integer("group_size", group_size)
            if num_envs % group_size:
                raise ValueError
        except ValueError:
            raise ValueError(
                f"group_size must be a positive divisor of num_envs={num_envs}, got {group_size!r}"
            ) from None
        check_render_mode(render_mode, self.metadata["render_modes"])
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            allowed = [mode.value for mode in AutoresetMode]
            raise ValueError(f"autoreset_mode must be one of {allowed}, got {autoreset_mode!r}") from None
        self.world = world
        self.num_envs = num_envs
        self.group_size = group_size
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = UnicodeText(MAX_OBSERVATION_CHARACTERS)
        self.single_action_space = UnicodeText(MAX_ACTION_CHARACTERS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._limit = check_limit(max_episode_steps)
        self._order = GroupedOrder(len(world.task_ids), num_envs, group_size, seed)
        self._games: list[Episode | None] = [None] * num_envs
        self._texts = [""] * num_envs

    @property
    def spec(self) -> EnvSpec | None:
        """How `gymnasium.make_vec` made this environment; its arguments are JSON values where they can be."""
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = plain_spec(spec)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[tuple[str, ...], Infos]:
        """Begin new episodes, in all games or where ``options["reset_mask"]`` is True.

        Args:
            seed: restart the task order from this seed, for the groups of the games that are reset. A sequence has a
                seed for each game (None: its order goes on); games of a group need the same.
            options: ``reset_mask`` [num_envs] bool array; ``task_ids``, one task id for each game, or the plural of
                one of the world's `task_options`, one description for each game.

        Returns:
            All observations, and the infos of the games that were reset.

        Raises:
            TypeError, ValueError: a malformed seed or option.
            KeyError: the world has no such task.
            gymnasium.error.ClosedEnvironmentError: the environment was closed.
        """
        self._check_open()
        described = {f"{option}s": option for option in self.world.task_options}
        checked = check_options(options, ("reset_mask", "task_ids", *described))
        mask = _check_mask(checked.get("reset_mask"), self.num_envs)
        if mask is not None and mask.all():
            mask = None
        slots = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        given = {name: tasks for name, tasks in checked.items() if name != "reset_mask" and tasks is not None}
        if len(given) > 1:
            raise ValueError(f"reset options {sorted(given)} name the tasks each: give one of them")
        chosen: dict[int, str] | None = None
        for name, tasks in given.items():
            if len(tasks) != self.num_envs:
                raise ValueError(f"options[{name!r}] must have num_envs={self.num_envs} entries, got {len(tasks)}")
            chosen = {i: tasks[i] for i in slots}
            if name in described:
                chosen = {i: self.world.add_task(described[name], tasks[i]) for i in slots}
            for task_id in chosen.values():
                check_task_id(task_id)
        if seed is not None:
            several = isinstance(seed, Sequence | np.ndarray)
            seeds = [check_seed(one) for one in seed] if several else check_seed(seed)  # type: ignore[union-attr]
            self._order.restart(slots, seeds)
            super().reset(seed=None if isinstance(seeds, list) else seeds)
        elif mask is None:
            self._order.align()  # groups that drifted apart meet again
        infos = self._begin(slots, chosen)
        return tuple(self._texts), batch_infos(infos, self.num_envs)

    def step(
        self, actions: Actions
    ) -> tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Play one action in every game.

        Args:
            actions: `num_envs` strings; None leaves its game alone.

        Returns:
            Observations (tuple of str), rewards [num_envs] float64, terminations and truncations [num_envs] bool,
            infos.

        Raises:
            ValueError: not `num_envs` actions.
            TypeError: an action is neither a string nor None.
            gymnasium.error.ResetNeeded: an action for a game that is over or never began.
            gymnasium.error.ClosedEnvironmentError: the environment was closed.
        """
        self._check_open()
        several = isinstance(actions, Sized) and not isinstance(actions, str)
        if not several or len(actions) != self.num_envs:
            got = len(actions) if several else f"one {type(actions).__name__}"
            raise ValueError(f"step needs num_envs={self.num_envs} actions, got {got}")
        slots: list[int] = []
        played: list[str] = []
        ended: list[int] = []
        for i, action in enumerate(actions):
            game = self._games[i]
            if game is not None and game.over and self.autoreset_mode == AutoresetMode.NEXT_STEP:
                ended.append(i)  # Gymnasium's rule: this step is the reset, its action is ignored
            elif action is not None:
                check_action(action)
                if game is None or game.over:
                    raise gym.error.ResetNeeded(f"game {i} is over (or was never begun): reset it before step()")
                slots.append(i)
                played.append(action)

        rewards = np.zeros(self.num_envs, dtype=np.float64)
        terminations = np.zeros(self.num_envs, dtype=np.bool_)
        truncations = np.zeros(self.num_envs, dtype=np.bool_)
        current: dict[int, Infos] = {}
        final: dict[int, Infos] = {}
        final_obs = np.full(self.num_envs, None, dtype=object)
        turns = self.world.step(slots, played) if slots else []
        for i, turn in zip(slots, turns, strict=True):
            game = self._games[i]
            assert game is not None
            rewards[i] = turn.reward
            game.length += 1
            terminations[i] = turn.terminated
            truncations[i] = turn.truncated or (self._limit is not None and game.length >= self._limit)
            game.over = turn.terminated or bool(truncations[i])
            info = self._info(i, game, turn)
            if game.over and self.autoreset_mode == AutoresetMode.SAME_STEP:
                final[i] = info
                final_obs[i] = turn.observation
            else:
                current[i] = info
        begun = ended or list(final)
        if begun:
            current |= self._begin(begun)
        infos = batch_infos(current, self.num_envs)
        if final:
            mask = _mask(list(final), self.num_envs)
            infos |= {
                "final_obs": final_obs,
                "_final_obs": mask,
                "final_info": batch_infos(final, self.num_envs),
                "_final_info": mask,
            }
        return tuple(self._texts), rewards, terminations, truncations, infos

    def expert_actions(self, mask: NDArray[np.bool_] | None = None) -> list[str | None]:
        """The next action of the world's expert in each game (where `mask` is True; None elsewhere)."""
        slots = [i for i, game in enumerate(self._games) if game and not game.over and (mask is None or mask[i])]
        actions: list[str | None] = [None] * self.num_envs
        for i, action in zip(slots, self.world.expert_actions(slots), strict=True):
            actions[i] = action
        return actions

    def render(self) -> tuple[str, ...] | None:
        """Each game's latest text, in mode ``"ansi"``."""
        return tuple(self._texts) if self.render_mode == "ansi" else None

    def close_extras(self, **kwargs: Any) -> None:
        """Close the world."""
        self.world.close()

    def _check_open(self) -> None:
        if self.closed:
            raise gym.error.ClosedEnvironmentError("the environment was closed: make another one")

    def _begin(self, slots: Sequence[int], chosen: dict[int, str] | None = None) -> dict[int, Infos]:
        if chosen is None:
            chosen = {i: self.world.task_ids[self._order.begin(i)] for i in slots}
        else:
            self._order.begin_given(chosen)
        infos = {}
        for i, (task, turn) in zip(slots, self.world.start(slots, list(chosen.values())), strict=True):
            game = self._games[i] = Episode(task)
            infos[i] = self._info(i, game, turn)
        return infos

    def _info(self, i: int, game: Episode, turn: Turn) -> Infos:
        self._texts[i] = turn.observation
        info = make_info(game.task, turn, self.world.source)
        info["group"] = self._order.group(i)
        return info


_NUMBERS = frozenset((bool, int, float))


def batch_infos(infos: Mapping[int, Infos], num_envs: int) -> Infos:
    """Infos of single games, by game number, in Gymnasium's vector form.

    Each key becomes an array [num_envs] (bool, int and float values keep their type, others are objects, dictionaries
    are batched in turn) with a boolean mask under the key with an underscore before it. Keys that the same games have
    share one mask, which therefore is read-only.
    """
    batched: Infos = {}
    if not infos:
        return batched
    games = list(infos.items())
    everyone = _mask(list(infos), num_envs)
    shared = games[0][1].keys()
    alike = all(info.keys() == shared for _, info in games[1:])
    for key in shared if alike else dict.fromkeys(key for _, info in games for key in info):
        rows = games if alike else [(i, info) for i, info in games if key in info]
        kind = type(rows[0][1][key])
        if kind is dict:
            batched[key] = batch_infos({i: info[key] for i, info in rows}, num_envs)
        else:
            # np.empty fills object arrays with None.
            column = np.zeros(num_envs, kind) if kind in _NUMBERS else np.empty(num_envs, object)
            for i, info in rows:
                column[i] = info[key]
            batched[key] = column
        batched["_" + key] = everyone if len(rows) == len(games) else _mask([i for i, _ in rows], num_envs)
    return batched


def _mask(indices: Sequence[int], num_envs: int) -> NDArray[np.bool_]:
    mask = np.zeros(num_envs, dtype=np.bool_)
    mask[indices] = True
    mask.flags.writeable = False
    return mask


def _check_mask(mask: object, num_envs: int) -> NDArray[np.bool_] | None:
    if mask is None:
        return None
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        raise TypeError(f"options['reset_mask'] must be a numpy array of bool, got {type(mask).__name__}: {mask!r}")
    if mask.shape != (num_envs,):
        raise ValueError(f"options['reset_mask'] must have shape ({num_envs},), got {mask.shape}")
    if not mask.any():
        raise ValueError("options['reset_mask'] must be True somewhere, got all False")
    return mask
