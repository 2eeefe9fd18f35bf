"""Agents that go wrong in every way a benchmark has to survive; `tests.contract.test_bench` plays them."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from opid_gym.agent import Decision

TROUBLE = "walk-3"  # where they do it


class Good:
    """Walks right, and is the base of those that do so elsewhere."""

    def reset(self, mask: np.ndarray) -> None:
        pass

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> Any:
        games = np.flatnonzero(infos["_task"])
        if any(infos["task_id"][game] == TROUBLE for game in games):
            wrong = self.trouble(observations)
            if wrong is not None:
                return wrong
        return ["right"] * len(observations)

    def trouble(self, observations: Sequence[str]) -> Any:
        return None


class Raises(Good):
    def trouble(self, observations: Sequence[str]) -> Any:
        raise RuntimeError("no idea what to do")


class Sleeps(Good):
    def trouble(self, observations: Sequence[str]) -> Any:
        time.sleep(600)


class WaitsForAFile(Good):
    """Goes on once there is a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def trouble(self, observations: Sequence[str]) -> Any:
        while not os.path.exists(self.path):
            time.sleep(0.01)
        return None


class HoldsTheInterpreter(Good):
    """Native code that never gives the interpreter back, so that no thread of its process runs any more."""

    def trouble(self, observations: Sequence[str]) -> Any:
        ctypes.PyDLL(None).sleep(600)


class Counts(Good):
    def trouble(self, observations: Sequence[str]) -> Any:
        return ["right"] * (len(observations) + 1)


class AnswersNumbers(Good):
    def trouble(self, observations: Sequence[str]) -> Any:
        return [7] * len(observations)


class Exits(Good):
    def trouble(self, observations: Sequence[str]) -> Any:
        os._exit(5)


class Talks(Good):
    """Prints to where the worker's events go, in Python and below it, and asks for something at the keyboard."""

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> Any:
        print('{"event": "done"}', flush=True)
        os.write(1, b"native noise\n")
        try:
            input()
        except EOFError:
            return super().act(observations, infos)
        raise AssertionError("there was somebody at the keyboard")


class LeavesAThread(Good):
    """Whose process would not end by itself."""

    def __init__(self) -> None:
        threading.Thread(target=time.sleep, args=(600,)).start()


class CannotBeMade(Good):
    def __init__(self) -> None:
        raise OSError("no server at this address")


class LearnsFromFailure(Good):
    """Walks left until it was told that this does not help."""

    trials = 3

    def __init__(self) -> None:
        self.told: dict[str, int] = {}

    def on_trajectory(self, trajectory: Any) -> None:
        self.told[trajectory.task_id] = self.told.get(trajectory.task_id, 0) + 1

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        told = [self.told.get(task_id, 0) for task_id in infos["task_id"]]
        return [Decision("right" if n == 1 else "left", data={"prompt_tokens": 10, "cost": 0.5}) for n in told]


def one_game(observation: str, info: dict[str, Any], command: str = "right") -> str:
    """An agent for one game."""
    assert observation.startswith("You are at")
    assert info["admissible_actions"] == ("left", "right")
    assert isinstance(info["distance"], int)
    return command


def one_game_raises(observation: str, info: dict[str, Any]) -> str:
    if info["task_id"] == TROUBLE:
        raise KeyError("lost")
    return "right"


not_an_agent: Callable[[], None] | int = 7
