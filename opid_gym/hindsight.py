"""Looking back: trajectories recorded from a vector environment, and hooks that get each one when it ends.

Hindsight methods (OPID, GiGPO, Reflexion, ...) need finished episodes and their siblings. `RecordTrajectories` wraps
any vector environment whose infos follow the contract, writes down what happens and calls the registered hooks with
each finished trajectory and each finished group of trajectories of one task. A world may add what it can read off a
trajectory (`opid_gym.world.World.hindsight`, records of `StepProgress`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from numpy.typing import NDArray

from opid_gym.agent import Decision
from opid_gym.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class StepProgress:
    """What one step achieved, as far as the trajectory's text shows it.

    Attributes:
        changed_state: the world is different after the step.
        reached: sub-goals reached for the first time by this step, in the world's words.
        wasted: the step neither changed the world nor showed anything new.
    """

    changed_state: bool
    reached: tuple[str, ...] = ()
    wasted: bool = False


class HindsightHook:
    """Base class of hooks; override what you need."""

    def on_trajectory(self, trajectory: Trajectory) -> None:
        """An episode has ended."""

    def on_group(self, group: Sequence[Trajectory]) -> None:
        """All rollouts of a group have ended; in order of their ending."""


class RecordTrajectories(VectorWrapper[Any, Any, Any, Any, Any]):
    """Records every episode of a vector environment and calls hooks when episodes and groups end.

    `step` takes `opid_gym.agent.Decision` objects as well as strings, so that replies and prompts are recorded with
    the actions. Episodes cut short by `reset` or `close` are dropped: hooks see finished ones only.

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
        self._running: list[Trajectory | None] = [None] * env.num_envs
        self._groups: defaultdict[int, list[Trajectory]] = defaultdict(list)
        self._observations: Sequence[str] = ()
        self._context: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        self._episodes = 0

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; the episodes that were running there are forgotten."""
        mask = (options or {}).get("reset_mask")
        observations, infos = self.env.reset(seed=seed, options=options)
        if mask is None:
            self._groups.clear()
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
            self._running[i] = None
            if replaced:
                self._begin(i, infos)
            self._finish(trajectory)
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
        )
        self._remember(i, infos)

    def _remember(self, i: int, infos: dict[str, Any]) -> None:
        self._context[i] = {"anchor": infos["anchor"][i], "admissible_actions": infos["admissible_actions"][i]}

    def _finish(self, trajectory: Trajectory) -> None:
        for hook in self.hooks:
            hook.on_trajectory(trajectory)
        group = self._groups[trajectory.group]
        group.append(trajectory)
        if len(group) == self.group_size:
            del self._groups[trajectory.group]
            for hook in self.hooks:
                hook.on_group(group)


def _has(infos: dict[str, Any], key: str, i: int) -> bool:
    mask: NDArray[np.bool_] | None = infos.get(f"_{key}")
    return mask is not None and bool(mask[i])
