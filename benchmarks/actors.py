"""Games in this process against games in Ray actors: what an actor costs, and when it pays.

    python benchmarks/actors.py --json > results/actors.json

- ``households``: 256 small ALFWorld games, the first admissible action each, for some steps; environment steps per
  CPU-second of all processes that play, in this process and through one actor, alternated, medians of the rounds.
- ``slow``: 8 games of a world whose every step waits for `SLOW` seconds, as a browser or a distant server makes one
  wait; steps a second by the clock, in this process and in 8 actors.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym

import opid_gym  # noqa: F401  (registers the worlds)
from opid_gym.registration import WorldSpec, register_world
from opid_gym.world import Task, Turn, World

SLOW = 0.03


class Slow(World):
    """A world whose games wait, one after the other."""

    def __init__(self) -> None:
        self.task_ids = ["wait"]

    def start(self, slots: Sequence[int], task_ids: Sequence[str]) -> list[tuple[Task, Turn]]:
        """See `World.start`."""
        return [(Task(task_id, "wait", "wait"), Turn("It begins.")) for task_id in task_ids]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Turn]:
        """See `World.step`."""
        time.sleep(SLOW * len(slots))
        return [Turn("It goes on.") for _ in slots]


register_world(WorldSpec("benchmarks/Slow-v0", "actors:Slow", max_episode_steps=10_000, summary="waits"))


def play(envs: Any, steps: int) -> None:
    """Step all games with the first admissible action of each."""
    _, infos = envs.reset(seed=0)
    for _ in range(steps):
        listed = infos["admissible_actions"]
        _, _, _, _, infos = envs.step(["look" if one is None else one[0] for one in listed])


def cpu_seconds() -> float:
    """Of this process and of the actors that it has started."""
    import psutil

    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        try:
            if "_Host" in " ".join(child.cmdline()):
                total += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return total


def households(actors: int | None, games: int, steps: int) -> float:
    """Environment steps per CPU-second."""
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=games, size="small", max_episode_steps=-1, **_given(actors))
    play(envs, 3)
    before = cpu_seconds()
    play(envs, steps)
    spent = cpu_seconds() - before
    envs.close()
    return games * (steps + 1) / spent


def slow(actors: int | None, games: int, steps: int) -> float:
    """Environment steps a second, by the clock."""
    envs = gym.make_vec("benchmarks/Slow-v0", num_envs=games, **_given(actors))
    play(envs, 1)
    started = time.perf_counter()
    play(envs, steps)
    seconds = time.perf_counter() - started
    envs.close()
    return games * steps / seconds


def _given(actors: int | None) -> dict[str, int]:
    return {} if actors is None else {"actors": actors}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--games", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    here, there = [], []
    for _ in range(given.rounds):
        here.append(households(None, given.games, given.steps))
        there.append(households(1, given.games, given.steps))
    result = {
        "households": {
            "games": given.games,
            "in_process": round(median(here)),
            "one_actor": round(median(there)),
            "ratio": round(median(here) / median(there), 2),
            "rounds": [[round(a), round(b)] for a, b in zip(here, there, strict=True)],
        },
        "slow": {
            "games": 8,
            "seconds_a_step": SLOW,
            "in_process": round(slow(None, 8, 20), 1),
            "eight_actors": round(slow(8, 8, 20), 1),
        },
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()},
    }
    print(json.dumps(result, indent=None if given.json else 2))


if __name__ == "__main__":
    main()
