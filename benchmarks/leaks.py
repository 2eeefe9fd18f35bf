"""What environments leave behind: processes, threads, open files, memory and temporary folders, before and after.

    python -m benchmarks.leaks --rounds 300 --json

A round makes an environment, plays a few steps and closes it. Every registered environment has its rounds in a process
of its own; a few come first that do not count, because libraries load and caches fill then. What is there more
afterwards is a leak. Memory is given in kilobytes a round, by a straight line through the rounds: a library's allocator
may keep some, so it is a figure to look at and no failure.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil

import opid_gym  # noqa: F401  (registers the environments)
from benchmarks.copies import in_copy

FIRST = 5
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "opid/ALFWorld-v0": {"size": "small"},
    "opid/WebShop-v0": {"num_products": 100},
    "opid/SearchQA-v0": {},
    "opid/WebShopSite-v0": {"num_products": 100},
}


@dataclass(frozen=True)
class Belongings:
    """What a process has: numbers of children, threads, open files and folders in the temporary one."""

    processes: int
    threads: int
    files: int
    folders: int

    @classmethod
    def now(cls) -> Belongings:
        """Those of this process."""
        gc.collect()
        me = psutil.Process()
        folders = len(os.listdir(tempfile.gettempdir()))
        return cls(len(me.children(recursive=True)), me.num_threads(), me.num_fds(), folders)

    def more_than(self, other: Belongings) -> dict[str, int]:
        """What there is more of here."""
        mine, theirs = asdict(self), asdict(other)
        return {name: mine[name] - theirs[name] for name in mine if mine[name] > theirs[name]}


def play(name: str, steps: int = 3) -> None:
    """Make an environment, play it, close it."""
    env = gym.make(name, **ENVIRONMENTS.get(name, {}))
    try:
        _, info = env.reset(seed=0)
        for number in range(steps):
            actions = info["admissible_actions"] or ["search[red]"]
            *_, terminated, truncated, info = env.step(actions[number % len(actions)])
            if terminated or truncated:
                _, info = env.reset()
    finally:
        env.close()


def left_after(act: Callable[[], object], rounds: int, patience: float = 30.0) -> dict[str, Any]:
    """What is left over after `rounds` rounds, and the growth of memory.

    On a busy machine a thread that was joined may take a while to be gone, so what seems left has `patience` seconds.
    """
    for _ in range(FIRST):
        act()
    before, memory = Belongings.now(), []
    for _ in range(rounds):
        act()
        memory.append(psutil.Process().memory_info().rss / 1024)
    slope = float(np.polyfit(range(rounds), memory, 1)[0])
    end = time.monotonic() + patience
    while (left := Belongings.now().more_than(before)) and time.monotonic() < end:
        time.sleep(0.05)
    return {"rounds": rounds, "left": left, "kilobytes_a_round": round(slope, 2)}


def apart(act: Callable[[], object], rounds: int, patience: float = 30.0) -> dict[str, Any]:
    """`left_after`, in a copy of this process with a temporary folder of its own.

    What other code of this process starts and ends meanwhile (a thread that an earlier test left, say) does not count
    there: a copy has the calling thread alone.
    """
    with tempfile.TemporaryDirectory(prefix="opid-gym-leaks-") as folder:
        answer = Path(folder) / "answer.json"

        def measure() -> None:
            tempfile.tempdir = str(Path(folder) / "tmp")
            os.mkdir(tempfile.tempdir)
            answer.write_text(json.dumps(left_after(act, rounds, patience)))

        status = in_copy(measure)
        found: dict[str, Any] = json.loads(answer.read_text()) if status == 0 else {"left": {"status": status}}
        return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--env", action="append", choices=ENVIRONMENTS, help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.env or ENVIRONMENTS:
        found[name] = apart(partial(play, name), arguments.rounds)
        print(f"{name}: {found[name]}", file=sys.stderr)
    print(json.dumps(found) if arguments.json else found)
    sys.exit(any(one["left"] for one in found.values()))


if __name__ == "__main__":
    main()
