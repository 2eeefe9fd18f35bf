"""Cuts the power while commands run: what was not forced to the disk is lost, zeroed or torn. Then runs them again.

    python -m benchmarks.power_cuts --cuts 30 --json

A process that is killed leaves all that it has written in the system's memory; a power cut does not. Each subject of
`benchmarks/crash_subjects.py` runs while a `Disk` keeps what it forced to the disk (`os.fsync`): contents of files, and
names in folders. At some of its sync points and file-system events, evenly spread from where the seed says, and at its
end, images are made of what the disk could hold if the power failed there:

- ``lost``: the names and contents that were forced, nothing else, which is all that POSIX promises;
- ``zeroed``: the names as they are and zeros for what was not forced, as file systems do that journal names alone;
- ``torn``: a coin decides for every folder and every file between what was forced, what is there, and a part of it.

In each image the same command must then succeed, its result must be that of the unbroken run, and nothing unfinished
may be left. Before, a reader that refuses what is half written must refuse it, or find the whole result; and after the
command has ended, even ``lost`` must have the whole result.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.copies import in_copy
from benchmarks.crash_subjects import Subject, command, fault_of_next_run, read, unfinished, whole
from benchmarks.crashes import before_events

LOSSES = ("lost", "zeroed", "torn")


class Disk:
    """What of a folder is on the disk.

    Args:
        folder: whose own name is on the disk already.
        before: is called before every sync point and every file-system event below the folder.
        forces: see `Subject`.
    """

    def __init__(self, folder: Path, before: Callable[[], object], forces: str | None = None) -> None:
        self._folder = folder
        self._library = None if forces is None else folder / forces
        self._before = before
        self._contents: dict[int, bytes] = {}  # by the number of a file
        self._names: dict[int, dict[str, int]] = {}  # by the number of a folder: names and the numbers of what has them
        self._open: list[int] = []  # as long as something is open, its number is not given to another
        self._sync = os.fsync

    def watch(self) -> None:
        """Keep what this process forces to the disk from now on."""
        os.fsync = self._fsync
        before_events(self._folder, self._before)

    def _fsync(self, file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        self._before()
        path = os.readlink(f"/proc/self/fd/{number}")
        inode = os.fstat(number).st_ino
        if inode not in self._contents and inode not in self._names:
            self._open.append(os.dup(number))
        if os.path.isdir(path):
            self._names[inode] = _names(path)
        else:
            self._contents[inode] = Path(path).read_bytes()
        self._sync(number)

    def image(self, target: Path, loss: str, rng: random.Random) -> None:
        """Write what the disk could hold if the power failed now.

        Args:
            target: a folder to make.
            loss: one of `LOSSES`.
            rng: for ``torn``.
        """
        now = {os.stat(path).st_ino: path for path in (self._folder, *self._folder.rglob("*"))}
        self._copy(os.stat(self._folder).st_ino, target, loss, rng, now)

    def _copy(self, inode: int, target: Path, loss: str, rng: random.Random, now: dict[int, Path]) -> None:
        there = now.get(inode)
        if there is not None and self._library is not None and there.is_relative_to(self._library):
            loss = "nothing"
        if inode in self._contents or (there is not None and there.is_file()):
            forced = self._contents.get(inode, b"")
            current = forced if there is None else there.read_bytes()
            target.write_bytes(_content(forced, current, loss, rng))
            return
        forced_names = self._names.get(inode, {})
        current_names = forced_names if there is None else _names(there)
        target.mkdir()
        as_it_is = loss in ("zeroed", "nothing") or (loss == "torn" and rng.random() < 0.5)
        for name, its_inode in (current_names if as_it_is else forced_names).items():
            self._copy(its_inode, target / name, loss, rng, now)


def _names(folder: str | Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {entry.name: entry.inode() for entry in entries}


def _content(forced: bytes, current: bytes, loss: str, rng: random.Random) -> bytes:
    """What a file may hold of which `forced` is on the disk and `current` was written."""
    if loss == "nothing" or forced == current:
        return current
    if loss == "lost":
        return forced
    zeroed = forced[: len(current)].ljust(len(current), b"\0") if current.startswith(forced) else bytes(len(current))
    if loss == "zeroed":
        return zeroed
    cut = rng.randint(0, len(current))
    return rng.choice([forced, current, zeroed, current[:cut], current[:cut] + zeroed[cut:]])


def campaign(subject: Subject, cuts: int, seed: int = 0) -> dict[str, Any]:
    """Cut the power `cuts` times, with every loss; returns the number of images and of points, and what went wrong."""
    subject.load()
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="opid-gym-cuts-") as name:
        place = Path(name)
        points = _points(subject, place / "counted")
        folder = place / "whole"
        first = random.Random(seed).random()
        chosen = sorted({int((first + number / cuts) * points) % points for number in range(cuts)})
        expected = whole(subject, folder, lambda: _recorded(subject, folder, place, chosen, seed))
        left = unfinished(folder)
        images = sorted(place.glob("*.cut"))
        for image in images:
            before = read(subject, image) if subject.refuses else None
            at_end = image.name.startswith("end ")
            if before is not None and not isinstance(before, str) and before != expected:
                failures.append(f"{image.stem}: half-written {before!s:.200} is read")
            if at_end and (found := read(subject, image)) != expected:
                failures.append(f"{image.stem}: has {found!s:.200} instead of {expected!s:.200}")
            if fault := fault_of_next_run(subject, image, expected, left):
                failures.append(f"{image.stem}: {fault}")
            shutil.rmtree(image)
    return {"cuts": len(images), "points": points, "failures": failures}


def _points(subject: Subject, folder: Path) -> int:
    """How many sync points and events a run has."""
    counter = folder.with_name("points")

    def act() -> None:
        seen: list[None] = []
        folder.mkdir()
        Disk(folder, lambda: seen.append(None)).watch()
        subject.act(folder)
        counter.write_text(str(len(seen)))

    if status := in_copy(act):
        raise RuntimeError(f"the unbroken run ends with {status}")
    return int(counter.read_text())


def _recorded(subject: Subject, folder: Path, place: Path, chosen: list[int], seed: int) -> None:
    """Run to the end, and make images in `place` at the chosen points on the way."""
    folder.mkdir()
    point = 0

    def cut() -> None:
        nonlocal point
        if point in chosen:
            keep(f"{point:05}")
        point += 1

    def keep(when: str) -> None:
        for loss in LOSSES:
            disk.image(place / f"{when} {loss}.cut", loss, random.Random(f"{seed}:{when}"))

    disk = Disk(folder, cut, subject.forces)
    disk.watch()
    subject.act(folder)
    keep("end")


if __name__ == "__main__":
    command(__doc__, campaign, "cuts")
