"""The smallest world that shows everything the contract promises; only tests use it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from opid_gym.registration import WorldSpec, register_world
from opid_gym.world import Task, Turn, World


class Corridor(World):
    """Walk right `n` times, where task ``walk-n`` says how often; every move left undoes one.

    Users may describe a task by its length, ``reset(options={"length": n})``.
    """

    task_options = ("length",)

    def __init__(self, lengths: Sequence[int] = (1, 2, 3, 4, 5)) -> None:
        self.task_ids = [f"walk-{n}" for n in lengths]
        self.calls = 0
        self.closed = False
        self._place: dict[int, tuple[int, int]] = {}

    def add_task(self, option: str, value: object) -> str:
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"length must be a positive integer, got {value!r}")
        self.task_ids = list(dict.fromkeys([*self.task_ids, f"walk-{value}"]))
        return f"walk-{value}"

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        begun = []
        for slot, task_id in zip(slots, task_ids, strict=True):
            if task_id not in self.task_ids:
                raise KeyError(f"unknown task id {task_id!r}")
            goal = int(task_id.removeprefix("walk-"))
            self._place[slot] = (0, goal)
            begun.append((Task(task_id, "odd" if goal % 2 else "even", f"walk {goal} to the right"), self._turn(slot)))
        return begun

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        self.calls += 1
        turns = []
        for slot, action in zip(slots, actions, strict=True):
            place, goal = self._place[slot]
            place += {"right": 1, "left": -1}.get(action, 0)
            self._place[slot] = (place, goal)
            turns.append(self._turn(slot, reward=float(place == goal)))
        return turns

    def expert_actions(self, slots: Sequence[int]) -> list[str]:
        return ["right" for _ in slots]

    def close(self) -> None:
        self.closed = True

    def _turn(self, slot: int, reward: float = 0.0) -> Turn:
        place, goal = self._place[slot]
        won = place == goal
        return Turn(f"You are at {place}.", reward, won, won, ("left", "right"), extras={"distance": goal - place})


class Fragile(Corridor):
    """A corridor whose process ends when somebody says ``die``."""

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        if "die" in actions:
            os._exit(1)
        return super().step(slots, actions)


register_world(
    WorldSpec("tests/Corridor-v0", "tests.corridor:Corridor", max_episode_steps=4, summary="a world for the tests")
)
register_world(
    WorldSpec("tests/Fragile-v0", "tests.corridor:Fragile", max_episode_steps=4, summary="a process of it can be ended")
)
