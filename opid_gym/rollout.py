"""Playing tasks with an agent: the one loop behind training rollouts, demonstrations and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from opid_gym.agent import Agent
from opid_gym.hindsight import HindsightHook, RecordTrajectories
from opid_gym.trajectory import Trajectory


def play(
    envs: VectorEnv[Any, Any, Any],
    agent: Agent,
    task_ids: Sequence[str],
    *,
    on_step: Callable[[int], None] | None = None,
) -> Iterator[Trajectory]:
    """Play each entry of `task_ids` once, keeping all games of `envs` busy.

    The pass is exact whatever `envs.num_envs` is: a task listed once is played once, a task listed K times makes a
    group of K. A game that ends takes the next task at once.

    Args:
        envs: a vector environment made with ``autoreset_mode=AutoresetMode.DISABLED``.
        agent: who acts.
        task_ids: what to play, with repetitions.
        on_step: called after each batched step with the number of games that were played in it (for progress bars).

    Yields:
        Finished trajectories, in the order of their ending; ``trajectory.metadata["index"]`` is the position in
        `task_ids`.

    Raises:
        ValueError: `envs` resets by itself, or the agent returns the wrong number of actions.
    """
    if envs.metadata["autoreset_mode"] != AutoresetMode.DISABLED:
        raise ValueError(
            "play() needs an environment with autoreset_mode=AutoresetMode.DISABLED, "
            f"got {envs.metadata['autoreset_mode']}"
        )
    finished = _Finished()
    recorder = RecordTrajectories(envs, hooks=[finished])
    waiting = list(range(len(task_ids)))[::-1]
    playing: dict[int, int] = {}  # game -> position in task_ids

    def begin(games: Sequence[int]) -> tuple[Any, dict[str, Any]]:
        mask = np.zeros(envs.num_envs, dtype=np.bool_)
        chosen: list[str] = [""] * envs.num_envs
        for game in games:
            playing[game] = waiting.pop()
            mask[game] = True
            chosen[game] = task_ids[playing[game]]
        observations, infos = recorder.reset(options={"reset_mask": mask, "task_ids": chosen})
        agent.reset(mask)
        return observations, infos

    if not waiting:
        return
    observations, infos = begin(range(min(envs.num_envs, len(waiting))))
    while playing:
        decisions = agent.act(observations, infos)
        if len(decisions) != envs.num_envs:
            raise ValueError(
                f"{type(agent).__name__}.act must return num_envs={envs.num_envs} actions, got {len(decisions)}"
            )
        actions = [decision if i in playing else None for i, decision in enumerate(decisions)]
        observations, _, terminations, truncations, infos = recorder.step(actions)
        if on_step is not None:
            on_step(len(playing))
        over = [i for i in range(envs.num_envs) if i in playing and (terminations[i] or truncations[i])]
        for i, trajectory in zip(over, finished.take(), strict=True):
            trajectory.metadata["index"] = playing.pop(i)
            yield trajectory
        if over:
            infos["_task"] = infos["_task"].copy()
            infos["_task"][over] = False  # nothing to act on, unless the game begins anew below
        free = over[: len(waiting)]
        if free:
            observations, begun = begin(free)
            _overlay(infos, begun)


class _Finished(HindsightHook):
    def __init__(self) -> None:
        self._trajectories: list[Trajectory] = []

    def on_trajectory(self, trajectory: Trajectory) -> None:
        self._trajectories.append(trajectory)

    def take(self) -> list[Trajectory]:
        taken, self._trajectories = self._trajectories, []
        return taken


def _overlay(infos: dict[str, Any], newer: dict[str, Any]) -> None:
    """Put the infos of games that were just reset over those of the step before."""
    for key, mask in newer.items():
        if not key.startswith("_"):
            continue
        name = key[1:]
        value: NDArray[Any] = newer[name]
        if name in infos:
            infos[name] = np.where(mask, value, infos[name])
            infos[key] = infos[key] | mask
        else:
            infos[name], infos[key] = value, mask
