"""The proof that two machines play the same games: hashes of the expert's transcripts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_gym.panel.manifest import Panel, PanelError, TaskList
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory
from opid_gym.vector import TextVectorEnv
from opid_gym.world import World

_NUM_ENVS = 32
_DIGITS = 16  # of the hash of one transcript: 64 bits, plenty to notice a change


@dataclass(frozen=True, slots=True)
class Difference:
    """A task that is not what the panel says.

    Attributes:
        list: the panel's list it is in.
        task_id: which one.
        reason: what is wrong, in words.
    """

    list: str
    task_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found: the number of transcripts that agreed, and the tasks that did not."""

    verified: int
    differences: tuple[Difference, ...]


def transcript_hash(trajectory: Trajectory) -> str:
    """Hash of an episode: instruction, observations, admissible actions, actions, rewards and outcome.

    Rewards count as Python writes them, so one that differs in its last bit is a difference.
    """
    digest = hashlib.sha256()

    def add(*values: Any) -> None:
        digest.update(json.dumps(values, ensure_ascii=True, separators=(",", ":")).encode() + b"\n")

    add(trajectory.task_id, trajectory.task_type, trajectory.task)
    for step in trajectory.steps:
        admissible = None if step.admissible_actions is None else list(step.admissible_actions)
        add(step.observation, admissible, step.action, float(step.reward), step.next_observation)
    add(trajectory.success, trajectory.truncated)
    return digest.hexdigest()[:_DIGITS]


def make_panel(
    name: str,
    env: str,
    lists: Mapping[str, tuple[str, int | None]],
    *,
    version: int = 1,
    arguments: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    max_episode_steps: int = 50,
    about: str = "",
    on_task: Callable[[], None] = lambda: None,
) -> Panel:
    """Make a panel by playing its tasks with the world's expert.

    Args:
        name, version, env, arguments, max_episode_steps, about: see `Panel`.
        lists: name -> (split, number of tasks from its beginning; None: all).
        data: arguments of the environment that say where data lies on this machine; not part of the panel.
        on_task: called after each task.

    Raises:
        ValueError: the environment cannot be made, or has no expert.
    """
    made: dict[str, TaskList] = {}
    source = ""
    for part, (split, count) in lists.items():
        envs = _envs(env, {**(arguments or {}), **(data or {})}, split, max_episode_steps)
        try:
            source = envs.world.source
            chosen = list(envs.world.task_ids)[:count]
            if count is not None and len(chosen) < count:
                raise PanelError(f"list {part!r} wants {count} tasks, but split {split!r} has {len(chosen)}")
            made[part] = TaskList(split, _hashes(envs, chosen, on_task))
        finally:
            envs.close()
    return Panel(name, version, env, dict(arguments or {}), max_episode_steps, source, made, about)


def panel_tasks(panel: Panel, name: str, world: World) -> list[str]:
    """The tasks of one of a panel's lists, to be played in a world that was made for it.

    Raises:
        PanelError: no such list, tasks of another source, or tasks that the world does not have.
    """
    tasks = list(panel.task_list(name).tasks)
    if world.source != panel.source:
        raise _other_source(panel, world)
    if missing := sorted(set(tasks) - set(world.task_ids)):
        raise PanelError(
            f"{len(missing)} of the {len(tasks)} tasks of panel {panel.name!r} are not here, for example "
            f"{missing[0]!r}; opid-gym panel {panel.name} --verify names all differences"
        )
    return tasks


def verify(
    panel: Panel,
    *,
    data: Mapping[str, Any] | None = None,
    lists: Sequence[str] | None = None,
    on_task: Callable[[], None] = lambda: None,
) -> Verification:
    """Play a panel's transcripts again and compare.

    Args:
        panel: which games.
        data: arguments of the environment that say where data lies, e.g. ``{"data_dir": "~/alfworld"}``.
        lists: only these; None: all.
        on_task: called after each task.

    Raises:
        PanelError: no such list.
        ValueError: the environment cannot be made.
    """
    agreed = 0
    differences: list[Difference] = []
    for name in lists or list(panel.lists):
        part = panel.task_list(name)
        envs = _envs(panel.env, {**panel.arguments, **(data or {})}, part.split, panel.max_episode_steps)
        try:
            if envs.world.source != panel.source:
                raise _other_source(panel, envs.world)
            known = set(envs.world.task_ids)
            found = _hashes(envs, [task for task in part.tasks if task in known], on_task)
        finally:
            envs.close()
        for task, expected in part.tasks.items():
            if task not in known:
                differences.append(Difference(name, task, "there is no such task here"))
            elif found[task] != expected:
                differences.append(Difference(name, task, f"transcript {found[task]} instead of {expected}"))
            else:
                agreed += 1
    return Verification(agreed, tuple(differences))


def _other_source(panel: Panel, world: World) -> PanelError:
    return PanelError(f"panel {panel.name!r} is of {panel.source} games, but these are {world.source} ones")


def _envs(env: str, arguments: Mapping[str, Any], split: str, limit: int) -> TextVectorEnv:
    return make_envs(env, _NUM_ENVS, split=split, max_episode_steps=limit, **arguments)


def _hashes(envs: TextVectorEnv, task_ids: Sequence[str], on_task: Callable[[], None]) -> dict[str, str]:
    """Hash by task, in the order of `task_ids`."""
    found: dict[str, str] = {}
    for trajectory in play(envs, _Expert(envs), task_ids):
        found[trajectory.task_id] = transcript_hash(trajectory)
        on_task()
    return {task: found[task] for task in task_ids}


class _Expert:
    """The world's expert as an agent; the contract knows no agents package."""

    def __init__(self, envs: TextVectorEnv) -> None:
        self._envs = envs

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Nothing to forget."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[str]:
        """The expert's action in each game that is being played."""
        return [action or "" for action in self._envs.expert_actions(infos["_task"])]
