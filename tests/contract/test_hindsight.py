"""Recording and hooks, in every autoreset mode and under Gymnasium's own vector environment too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from opid_gym.agent import Decision
from opid_gym.env import TextEnv
from opid_gym.hindsight import HindsightHook, RecordTrajectories
from opid_gym.trajectory import Trajectory
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor


class Keep(HindsightHook):
    def __init__(self) -> None:
        self.trajectories: list[Trajectory] = []
        self.groups: list[Sequence[Trajectory]] = []

    def on_trajectory(self, trajectory: Trajectory) -> None:
        self.trajectories.append(trajectory)

    def on_group(self, group: Sequence[Trajectory]) -> None:
        self.groups.append(group)


def drive(envs: Any, steps: int, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    envs.reset(seed=seed)
    ended = np.zeros(envs.num_envs, dtype=bool)
    for _ in range(steps):
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended})
        _, _, terminations, truncations, _ = envs.step(rng.choice(["left", "right"], size=envs.num_envs, p=[0.3, 0.7]))
        ended = terminations | truncations


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("native", [True, False])
def test_what_is_recorded_is_what_happened(mode: AutoresetMode, native: bool) -> None:
    envs: Any
    if native:
        envs = TextVectorEnv(Corridor(), 4, group_size=2, max_episode_steps=6, autoreset_mode=mode)
    else:
        envs = SyncVectorEnv([lambda: TextEnv(Corridor(), max_episode_steps=6) for _ in range(4)], autoreset_mode=mode)
    keep = Keep()
    drive(RecordTrajectories(envs, [keep]), 100)
    assert len(keep.trajectories) > 40
    for trajectory in keep.trajectories:
        place, goal = 0, int(trajectory.task_id.removeprefix("walk-"))
        for step in trajectory.steps:
            assert step.observation == step.anchor == f"You are at {place}."
            place += 1 if step.action == "right" else -1
            assert step.next_observation == f"You are at {place}."
            assert step.reward == float(place == goal)
            assert step.admissible_actions == ("left", "right")
        assert trajectory.success == (place == goal)
        assert trajectory.truncated == (len(trajectory) == 6 and place != goal)
        assert len(trajectory) == 6 or trajectory.success
    assert all(len(group) == (2 if native else 1) for group in keep.groups)
    assert all(len({t.task_id for t in group}) == 1 for group in keep.groups)
    assert {id(t) for group in keep.groups for t in group} <= {id(t) for t in keep.trajectories}


def test_decisions_are_recorded_with_their_replies() -> None:
    keep = Keep()
    envs = RecordTrajectories(TextVectorEnv(Corridor([1]), 2, autoreset_mode="Disabled"), [keep])
    envs.reset()
    envs.step([Decision("right", reply="<action>right</action>", prompt="p", data={"n": [1]}), None])
    [trajectory] = keep.trajectories
    [step] = trajectory.steps
    assert (step.action, step.reply, step.prompt, step.valid, step.data) == (
        "right",
        "<action>right</action>",
        "p",
        True,
        {"n": [1]},
    )


def test_an_unfinished_episode_is_dropped_by_a_reset() -> None:
    keep = Keep()
    envs = RecordTrajectories(TextVectorEnv(Corridor([2]), 1), [keep])
    envs.reset()
    envs.step(["right"])
    envs.reset()
    envs.step(["right"])
    assert not keep.trajectories
    envs.step(["right"])
    assert [len(t) for t in keep.trajectories] == [2]
