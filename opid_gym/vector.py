"""Many games as one Gymnasium vector environment: one process, one call into the world for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from opid_gym.env import (
    MAX_ACTION_CHARACTERS,
    MAX_OBSERVATION_CHARACTERS,
    Game,
    TaskOrder,
    check_action,
    check_limit,
    check_options,
    check_task_id,
    make_info,
)
from opid_gym.spaces import UnicodeText
from opid_gym.world import Turn, World

Actions = Sequence[str | None] | NDArray[Any]
Infos = dict[str, Any]


class TextVectorEnv(VectorEnv[tuple[str, ...], Actions, NDArray[Any]]):
    """A batch of games of one text world.

    Observations are a tuple of `num_envs` strings and actions a sequence of as many. `infos` has the keys of
    `opid_gym.env.TextEnv` in Gymnasium's vector form (``infos["won"][i]`` is meant where ``infos["_won"][i]``), and:

    - ``group``: number of the group of rollouts that game i's episode belongs to. Games ``g*group_size ...
      (g+1)*group_size - 1`` play the same tasks in the same order, so their n-th episodes have the same task and the
      same group number however the episodes' lengths differ.

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
        seed: seed of the task order until ``reset(seed=...)`` gives another.
        max_episode_steps: truncate after so many steps; None: never.
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

    def __init__(
        self,
        world: World,
        num_envs: int = 1,
        *,
        group_size: int = 1,
        seed: int = 0,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise ValueError(f"num_envs must be a positive integer, got {num_envs!r}")
        if not isinstance(group_size, int) or group_size < 1 or num_envs % group_size:
            raise ValueError(f"group_size must be a positive divisor of num_envs={num_envs}, got {group_size!r}")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode must be one of {self.metadata['render_modes']} or None, got {render_mode!r}")
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
        self._order = TaskOrder(len(world.task_ids), seed)
        self._episodes = [-1] * num_envs  # how many episodes game i has begun, less one
        self._games: list[Game | None] = [None] * num_envs
        self._texts = [""] * num_envs

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[tuple[str, ...], Infos]:
        """Begin new episodes, in all games or where ``options["reset_mask"]`` is True.

        Args:
            seed: restart the task order from this seed.
            options: ``reset_mask`` [num_envs] bool array; ``task_ids``, one task id for each game, or the plural of
                one of the world's `task_options`, one description for each game.

        Returns:
            All observations, and the infos of the games that were reset.

        Raises:
            TypeError, ValueError: a malformed option.
            KeyError: the world has no such task.
        """
        if seed is not None:
            self._order = TaskOrder(len(self.world.task_ids), seed)
            super().reset(seed=seed)
        described = {f"{option}s": option for option in self.world.task_options}
        checked = check_options(options, ("reset_mask", "task_ids", *described))
        mask = _check_mask(checked.get("reset_mask"), self.num_envs)
        slots = list(range(self.num_envs)) if mask is None else np.flatnonzero(mask).tolist()
        given = {name: tasks for name, tasks in checked.items() if name != "reset_mask" and tasks is not None}
        if len(given) > 1:
            raise ValueError(f"reset options {sorted(given)} name the tasks each: give one of them")
        task_ids: Sequence[str] | None = None
        for name, tasks in given.items():
            if len(tasks) != self.num_envs:
                raise ValueError(f"options[{name!r}] must have num_envs={self.num_envs} entries, got {len(tasks)}")
            task_ids = tasks
            if name in described:
                task_ids = [""] * self.num_envs
                for i in slots:
                    task_ids[i] = self.world.add_task(described[name], tasks[i])
            for i in slots:
                check_task_id(task_ids[i])
        if seed is not None:
            for i in slots:
                self._episodes[i] = -1
        elif mask is None:
            self._episodes = [max(self._episodes)] * self.num_envs  # groups that drifted apart meet again
        infos = self._begin(slots, task_ids)
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
        """
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
        for i, turn in zip(slots, self.world.step(slots, played) if slots else (), strict=True):
            game = self._games[i]
            assert game is not None
            rewards[i] = turn.reward
            terminations[i], truncations[i] = game.advance(turn)
            info = self._info(i, game, turn)
            if not game.over:
                current[i] = info
            else:
                info["episode"] = game.summary()
                if self.autoreset_mode == AutoresetMode.SAME_STEP:
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

    def _begin(self, slots: Sequence[int], task_ids: Sequence[str] | None = None) -> dict[int, Infos]:
        groups = self.num_envs // self.group_size
        chosen = []
        for i in slots:
            self._episodes[i] += 1
            position = self._episodes[i] * groups + i // self.group_size
            chosen.append(self.world.task_ids[self._order.at(position)] if task_ids is None else task_ids[i])
        infos = {}
        for i, (task, turn) in zip(slots, self.world.start(slots, chosen), strict=True):
            game = self._games[i] = Game(task, self._limit)
            infos[i] = self._info(i, game, turn)
        return infos

    def _info(self, i: int, game: Game, turn: Turn) -> Infos:
        self._texts[i] = turn.observation
        info = make_info(game.task, turn)
        info["group"] = self._episodes[i] * (self.num_envs // self.group_size) + i // self.group_size
        return info


def batch_infos(infos: Mapping[int, Infos], num_envs: int) -> Infos:
    """Infos of single games, by game number, in Gymnasium's vector form.

    Each key becomes an array [num_envs] (bool, int and float values keep their type, others are objects, dictionaries
    are batched in turn) with a boolean mask under the key with an underscore before it. Keys that the same games have
    share one mask, which therefore is read-only.
    """
    batched: Infos = {}
    if not infos:
        return batched
    everyone = _mask(list(infos), num_envs)
    shared = next(iter(infos.values())).keys()
    alike = all(info.keys() == shared for info in infos.values())
    for key in shared if alike else dict.fromkeys(key for info in infos.values() for key in info):
        rows = infos if alike else {i: info for i, info in infos.items() if key in info}
        sample = next(iter(rows.values()))[key]
        kind = type(sample)
        if kind is dict:
            batched[key] = batch_infos({i: info[key] for i, info in rows.items()}, num_envs)
        else:
            # np.empty fills object arrays with None.
            column = np.zeros(num_envs, kind) if kind in (bool, int, float) else np.empty(num_envs, object)
            for i, info in rows.items():
                column[i] = info[key]
            batched[key] = column
        batched[f"_{key}"] = everyone if len(rows) == len(infos) else _mask(list(rows), num_envs)
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
