"""Kills commands at file-system events, runs them again, and compares what they leave with an unbroken run.

    python -m benchmarks.crashes --kills 50 --json

Each subject is first run to its end, which gives its result and the number of its file-system events: files opened for
writing, renamed, removed or cut, and folders made. Then it is run again and again, in an empty folder, and killed
(SIGKILL) at one of these events, evenly spread from where the seed says; sometimes the second run is killed as well.
After that the same command must succeed, its result must be that of the unbroken run, and nothing unfinished may be
left. Events below Python, such as a search library's own writes, are not seen.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.copies import in_copy
from benchmarks.crash_subjects import Subject, command, fault_of_next_run, unfinished, whole

EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})


def campaign(subject: Subject, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill a subject `kills` times; returns the number of kills and of events, and what went wrong."""
    subject.load()
    rng = random.Random(seed)
    first = rng.random()
    failures: list[str] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="opid-gym-crashes-") as name:
        folder = Path(name) / "whole"
        counter = Path(name) / "events"
        expected = whole(subject, folder, lambda: _counted(subject, folder, counter))
        events = int(counter.read_text())
        left = unfinished(folder)
        for number in range(kills):
            place = int((first + number / kills) * events) % events
            folder = Path(name) / str(number)
            places = [place, rng.randrange(events)] if number % 3 == 2 else [place]
            for at in places:
                done += in_copy(lambda: _killed(subject, folder, at)) == -signal.SIGKILL  # noqa: B023
            if fault := fault_of_next_run(subject, folder, expected, left):
                failures.append(f"killed at {places}: {fault}")
            shutil.rmtree(folder)
    return {"kills": done, "events": events, "failures": failures}


def _counted(subject: Subject, folder: Path, counter: Path) -> None:
    folder.mkdir()
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1

    before_events(folder, count)
    subject.act(folder)
    counter.write_text(str(seen))


def _killed(subject: Subject, folder: Path, at: int) -> None:
    folder.mkdir(exist_ok=True)
    left = at

    def kill() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    before_events(folder, kill)
    subject.act(folder)


def before_events(folder: Path, call: Callable[[], object]) -> None:
    """From now on, call this before every file-system event below a folder in this process, forks left out."""
    inside, own = str(folder), os.getpid()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            counts = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        elif event in EVENTS:
            path, counts = arguments[0], True
        else:
            return
        if counts and os.getpid() == own and str(path).startswith(inside):
            call()

    sys.addaudithook(hook)


if __name__ == "__main__":
    command(__doc__, campaign, "kills")
