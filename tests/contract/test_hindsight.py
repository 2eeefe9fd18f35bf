"""Recording and hooks, in every autoreset mode and under Gymnasium's own vector environment too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from opid_gym.agent import Decision
from opid_gym.env import TextEnv
from opid_gym.hindsight import HindsightHook, RecordTrajectories
from opid_gym.trajectory import StepHindsight, Trajectory
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor


class Knowing(Corridor):
    """A corridor that says of every step whether it went the right way."""

    def __init__(self, lengths: Sequence[int] = (1, 2, 3), records: int | None = None) -> None:
        super().__init__(lengths)
        self.asked = 0
        self.records = records

    def hindsight(self, trajectory: Trajectory) -> list[StepHindsight]:
        self.asked += 1
        told = [
            StepHindsight(True) if step.action == "right" else StepHindsight(True, better="right", decisive=True)
            for step in trajectory.steps
        ]
        return told[: self.records]

    def workflow(self, trajectory: Trajectory) -> list[str]:
        return ["go right"] if trajectory.success else []


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
        envs = SyncVectorEnv([lambda: TimeLimit(TextEnv(Corridor()), 6) for _ in range(4)], autoreset_mode=mode)
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


def test_a_group_that_can_no_longer_be_finished_is_let_go() -> None:
    """Games of a group reset apart from each other: hooks get whole groups of one task only, and nothing piles up."""
    keep = Keep()
    envs = TextVectorEnv(Corridor(range(1, 9)), 6, group_size=3, max_episode_steps=4, autoreset_mode="Disabled")
    recorder = RecordTrajectories(envs, [keep])
    rng = np.random.default_rng(0)
    recorder.reset(seed=0)
    over = np.zeros(6, dtype=bool)
    for _ in range(600):
        mask = over | (rng.random(6) < 0.03)
        if mask.any():
            recorder.reset(seed=int(rng.integers(9)) if rng.random() < 0.1 else None, options={"reset_mask": mask})
        _, _, terminations, truncations, _ = recorder.step(["right"] * 6)
        over = terminations | truncations
    assert len(keep.groups) > 30
    for group in keep.groups:
        assert len(group) == 3
        assert len({t.task_id for t in group}) == 1
    # What is kept can still be finished: a team's games are a few episodes apart, not hundreds.
    assert len(recorder._groups) < 20


def test_records_say_where_their_tasks_come_from() -> None:
    keep = Keep()
    world = Corridor([1])
    world.source, world.data = "given", "corridors.json"
    envs = RecordTrajectories(TextVectorEnv(world, 1, autoreset_mode="Disabled"), [keep])
    assert envs.reset()[1]["source"].tolist() == ["given"]
    assert envs.step(["right"])[4]["source"].tolist() == ["given"]
    assert keep.trajectories[0].metadata == {"source": "given", "data": "corridors.json"}


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("native", [True, False])
def test_the_world_is_asked_once_and_its_answers_are_kept(mode: AutoresetMode, native: bool) -> None:
    worlds = [Knowing() for _ in range(3)]
    envs: Any
    if native:
        envs = TextVectorEnv(worlds[0], 3, max_episode_steps=6, autoreset_mode=mode)
    else:
        envs = SyncVectorEnv([lambda w=w: TimeLimit(TextEnv(w), 6) for w in worlds], autoreset_mode=mode)
    keep = Keep()
    drive(RecordTrajectories(envs, [keep]), 60)
    assert len(keep.trajectories) > 20
    assert sum(world.asked for world in worlds) == len(keep.trajectories)
    for trajectory in keep.trajectories:
        assert trajectory.workflow == (("go right",) if trajectory.success else None)
        for step in trajectory.steps:
            assert step.hindsight is not None
            assert step.hindsight.better == (None if step.action == "right" else "right")


def test_worlds_without_hindsight_leave_none() -> None:
    keep = Keep()
    drive(RecordTrajectories(TextVectorEnv(Corridor(), 2, max_episode_steps=6), [keep]), 20)
    assert keep.trajectories
    assert all(t.workflow is None and all(step.hindsight is None for step in t.steps) for t in keep.trajectories)


def test_a_mistake_in_a_worlds_hindsight_is_raised_and_loses_no_episode() -> None:
    keep = Keep()
    envs = RecordTrajectories(TextVectorEnv(Knowing([2], records=1), 1), [keep])
    envs.reset()
    envs.step(["right"])
    with pytest.raises(
        ValueError, match=r"Knowing.hindsight must return one record for each of 2 steps, or none, got 1"
    ):
        envs.step(["right"])
    assert [len(t) for t in keep.trajectories] == [2]
