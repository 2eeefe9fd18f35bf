"""Looking back: trajectories recorded from a vector environment, and hooks that get each one when it ends.

Hindsight methods (OPID, GiGPO, Reflexion, ...) need finished episodes and their siblings. `RecordTrajectories` wraps
any vector environment whose infos follow the contract, writes down what happens and calls the registered hooks with
each finished trajectory and each finished group of trajectories of one task. When an episode ends, its world is asked
once what the record tells of each step (`StepHindsight`) and of the whole; both answers are kept in the record.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from opid_gym.agent import Decision
from opid_gym.trajectory import Step, StepHindsight, Trajectory

_ACCIDENTS = ("crashed", "too_slow")  # why an episode could not go on, in the extras of its last turn

__all__ = ["Adviser", "HindsightHook", "RecordTrajectories", "StepHindsight", "look_back"]


def look_back(world: Any, trajectory: Trajectory) -> None:
    """Ask a world what a finished episode tells, and keep the answers in the record.

    Args:
        world: usually an `opid_gym.world.World`. One without the methods `hindsight` and `workflow` tells nothing.
        trajectory: the finished episode; its steps' `hindsight` and its `workflow` are set, to None where the world
            tells nothing.

    Raises:
        ValueError: the world's hindsight has not one record for each step.
    """
    hindsight = getattr(world, "hindsight", None)
    workflow = getattr(world, "workflow", None)
    told = hindsight(trajectory) if hindsight else []
    if told and len(told) != len(trajectory.steps):
        raise ValueError(
            f"{type(world).__name__}.hindsight must return one record for each of {len(trajectory.steps)} steps, or "
            f"none, got {len(told)}"
        )
    for number, step in enumerate(trajectory.steps):
        step.hindsight = told[number] if told else None
    trajectory.workflow = tuple(workflow(trajectory)) or None if workflow else None


class Adviser:
    """What a world knows better than a step that is about to be played, from the record of its episode so far.

    Nothing has answered the step yet, so it knows no more than who plays.

    Args:
        world: whose hindsight is asked.
        decisive: only advice that brings the task itself on (`StepHindsight.decisive`).
    """

    def __init__(self, world: Any, *, decisive: bool = False) -> None:
        self._world = world
        self._decisive = decisive
        self._records: dict[int, Trajectory] = {}

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the episodes of the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._records.pop(game, None)

    def better(self, game: int, observation: str, infos: Mapping[str, Any], decision: Decision) -> str | None:
        """The better action, or None if none is known; to be asked at each step of a game, in order.

        Args:
            game: position in the batch.
            observation: of that game.
            infos: of the batch, as `opid_gym.vector.TextVectorEnv` gives them.
            decision: what is about to be played there.
        """
        if game not in self._records:
            task = {key: infos[key][game] for key in ("task_id", "task", "task_type")}
            self._records[game] = Trajectory(**task)
        record = self._records[game]
        if record.steps:
            record.steps[-1].next_observation = observation
        step = Step(
            observation,
            decision.action,
            reward=0.0,
            next_observation="",  # not known yet
            admissible_actions=infos["admissible_actions"][game],
            valid=decision.valid,
            invalid_reason=decision.invalid_reason,
        )
        record.steps.append(step)
        told = self._world.hindsight(record)
        return told[-1].better if told and (told[-1].decisive or not self._decisive) else None

    def played(self, game: int, action: str) -> None:
        """Another action than the one asked about is played in a game."""
        self._records[game].steps[-1].action = action


class HindsightHook:
    """Base class of hooks; override what you need."""

    def on_trajectory(self, trajectory: Trajectory) -> None:
        """An episode has ended."""

    def on_group(self, group: Sequence[Trajectory]) -> None:
        """All rollouts of a group have ended; in order of their ending."""


class RecordTrajectories(VectorWrapper):  # generic in Gymnasium 1.4 and later only
    """Records every episode of a vector environment and calls hooks when episodes and groups end.

    `step` takes `opid_gym.agent.Decision` objects as well as strings, so that replies and prompts are recorded with
    the actions. Episodes cut short by `reset` or `close` are dropped: hooks see finished ones only, and no group that
    misses one of them. The world of each
    game is found in `TextVectorEnv`, and in Gymnasium's `SyncVectorEnv` of `TextEnv`; elsewhere, and where the world
    has no hindsight, records are without (`Step.hindsight` and `Trajectory.workflow` are None).

    Args:
        env: a vector environment whose infos follow `opid_gym.vector.TextVectorEnv`, in any autoreset mode.
        hooks: objects with `on_trajectory` and `on_group`, called in this order.

    >>> import gymnasium, opid_gym
    >>> class Count(HindsightHook):
    ...     groups = 0
    ...     def on_group(self, group):
    ...         self.groups += len(group) == 2
    >>> count = Count()
    >>> envs = gymnasium.make_vec("opid/ALFWorld-v0", num_envs=4, group_size=2, size="small", max_episode_steps=3)
    >>> envs = RecordTrajectories(envs, hooks=[count])
    >>> _ = envs.reset(seed=0)
    >>> for _ in range(3):
    ...     _ = envs.step(["look"] * 4)
    >>> count.groups
    2
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], hooks: Iterable[HindsightHook] = ()) -> None:
        super().__init__(env)
        self.hooks = list(hooks)
        self.group_size: int = getattr(env.unwrapped, "group_size", 1)
        self._mode = AutoresetMode(env.metadata["autoreset_mode"])
        self._env_id = env.spec.id if env.spec else None
        self._worlds = _worlds(env)
        self._running: list[Trajectory | None] = [None] * env.num_envs
        # The finished episodes of groups that are not complete, by game, and the group that each game has begun last.
        self._groups: defaultdict[int, dict[int, Trajectory]] = defaultdict(dict)
        self._begun = [-1] * env.num_envs
        self._observations: Sequence[str] = ()
        self._context: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        self._episodes = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the episodes that were running there are forgotten."""
        mask = (options or {}).get("reset_mask")
        if mask is not None and np.all(mask):
            mask = None
        observations, infos = self.env.reset(seed=seed, options=options)
        if mask is None:
            self._groups.clear()
            self._begun = [-1] * self.num_envs
        self._observations = observations
        for i in range(self.num_envs):
            if mask is None or mask[i]:
                self._begin(i, infos)
        return observations, infos

    def step(self, actions: Sequence[str | Decision | None]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environment and record what happened; finished episodes go to the hooks before this returns."""
        decisions = [Decision(action) if isinstance(action, str) else action for action in actions]
        plain = [None if decision is None else decision.action for decision in decisions]
        observations, rewards, terminations, truncations, infos = self.env.step(plain)
        before, self._observations = self._observations, observations
        for i, decision in enumerate(decisions):
            trajectory = self._running[i]
            if trajectory is None:
                # In mode NEXT_STEP this step was the reset of a game that ended in the last one.
                if self._mode == AutoresetMode.NEXT_STEP and _has(infos, "task", i):
                    self._begin(i, infos)
                continue
            if decision is None:
                continue
            over = bool(terminations[i] or truncations[i])
            replaced = over and self._mode == AutoresetMode.SAME_STEP
            after = infos["final_info"] if replaced else infos
            trajectory.steps.append(
                Step(
                    observation=before[i],
                    action=decision.action,
                    reward=float(rewards[i]),
                    next_observation=infos["final_obs"][i] if replaced else observations[i],
                    anchor=self._context[i]["anchor"],
                    admissible_actions=self._context[i]["admissible_actions"],
                    reply=decision.reply,
                    prompt=decision.prompt,
                    valid=decision.valid,
                    invalid_reason=decision.invalid_reason,
                    data=dict(decision.data),
                )
            )
            if not over:
                self._remember(i, infos)
                continue
            trajectory.success = bool(after["won"][i])
            trajectory.truncated = bool(truncations[i]) and not bool(terminations[i])
            trajectory.metadata |= {key: after[key][i] for key in _ACCIDENTS if _has(after, key, i)}
            self._running[i] = None
            if replaced:
                self._begin(i, infos)
            try:
                look_back(self._worlds[i], trajectory)
            finally:  # a mistake in a world's hindsight is raised, and loses no episode
                self._finish(i, trajectory)
        return observations, rewards, terminations, truncations, infos

    def _begin(self, i: int, infos: dict[str, Any]) -> None:
        # Environments without groups (Gymnasium's own vector classes) make every episode a group of one.
        group = int(infos["group"][i]) if _has(infos, "group", i) else self._episodes
        self._episodes += 1
        self._running[i] = Trajectory(
            task_id=infos["task_id"][i],
            task_type=infos["task_type"][i],
            task=infos["task"][i],
            group=group,
            env_id=self._env_id,
            metadata={"source": infos["source"][i], "data": getattr(self._worlds[i], "data", None)},
        )
        self._begun[i] = group
        for open_group in [number for number in self._groups if number < group]:
            self._let_go(open_group)
        self._remember(i, infos)

    def _remember(self, i: int, infos: dict[str, Any]) -> None:
        self._context[i] = {"anchor": infos["anchor"][i], "admissible_actions": infos["admissible_actions"][i]}

    def _finish(self, i: int, trajectory: Trajectory) -> None:
        for hook in self.hooks:
            hook.on_trajectory(trajectory)
        group = self._groups[trajectory.group]
        group[i] = trajectory
        if len(group) == self.group_size:
            del self._groups[trajectory.group]
            for hook in self.hooks:
                hook.on_group(list(group.values()))
        else:
            self._let_go(trajectory.group)

    def _let_go(self, group: int) -> None:
        """Forget an incomplete group if one of its games has begun a later group without having finished this one."""
        finished = self._groups[group]
        team = next(iter(finished)) // self.group_size
        games = range(team * self.group_size, (team + 1) * self.group_size)
        if any(game not in finished and self._begun[game] > group for game in games):
            del self._groups[group]


def _worlds(env: VectorEnv[Any, Any, Any]) -> list[Any]:
    """The world behind each game; None where it cannot be seen."""
    shared = getattr(env.unwrapped, "world", None)
    if shared is not None:
        return [shared] * env.num_envs
    singles = getattr(env.unwrapped, "envs", None)
    if singles is None:
        return [None] * env.num_envs
    return [getattr(single.unwrapped, "world", None) for single in singles]


def _has(infos: dict[str, Any], key: str, i: int) -> bool:
    mask: NDArray[np.bool_] | None = infos.get(f"_{key}")
    return mask is not None and bool(mask[i])
