"""A library of skills: what earlier episodes taught, looked up for new ones by task.

For algorithms that put skills into the prompts of rollouts (`opid_agents.algorithms.algorithm.Algorithm.library`). OPID
itself has none: its skills are about one trajectory and are never seen while playing.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from opid_agents.skills.extract import Skills
from opid_gym.trajectory import Trajectory

BESIDE_MODEL = "skill_library.jsonl"
"""Name of the library of a model that was trained to be played with one."""


@dataclass(frozen=True, slots=True)
class LibrarySkill:
    """One entry: the episode skill of a successful episode, and where it comes from."""

    iteration: int
    task_type: str
    task: str
    skill: str


class SkillLibrary:
    """The newest skills of each task type.

    Args:
        size: maximum number of skills kept of each type; the oldest go first.
        entries: what to begin with, oldest first.

    >>> library = SkillLibrary(entries=[LibrarySkill(1, "sum", "add two numbers", "use the calculator")])
    >>> library.look_up("add three numbers", "sum")
    'use the calculator'
    """

    def __init__(self, *, size: int = 64, entries: Iterable[LibrarySkill] = ()) -> None:
        if size < 1:
            raise ValueError(f"size must be >= 1, got {size}")
        self.size = size
        self._entries: dict[str, OrderedDict[tuple[str, str], LibrarySkill]] = {}
        self.add(entries)

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._entries.values())

    def add(self, entries: Iterable[LibrarySkill]) -> None:
        """Add entries; the same skill for the same task is one entry, as new as its newest."""
        for entry in entries:
            known = self._entries.setdefault(entry.task_type, OrderedDict())
            known.pop((entry.task, entry.skill), None)
            known[entry.task, entry.skill] = entry
            if len(known) > self.size:
                known.popitem(last=False)

    def look_up(self, task: str, task_type: str) -> str | None:
        """The skill of the most similar task of this type; None if there is none of this type.

        Similarity is the number of words that both tasks have, divided by the number that either has. Of equally
        similar tasks the newest counts.
        """
        words = _words(task)
        best: tuple[float, str] | None = None
        for entry in self._entries.get(task_type, {}).values():
            others = _words(entry.task)
            alike = len(words & others) / max(1, len(words | others))
            if best is None or alike >= best[0]:
                best = alike, entry.skill
        return best[1] if best else None

    def save(self, model: Path) -> None:
        """Put the library beside a model that is played with it; `LMAgent.make` finds it there."""
        (model / BESIDE_MODEL).unlink(missing_ok=True)
        append(model / BESIDE_MODEL, (entry for known in self._entries.values() for entry in known.values()))

    @classmethod
    def load(cls, file: Path, *, size: int = 64, until: int | None = None) -> SkillLibrary:
        """Read what `append` wrote, or as it was after iteration `until`; an empty library if there is no file."""
        if not file.is_file():
            return cls(size=size)
        lines = file.read_text(encoding="utf-8").splitlines()
        entries = (LibrarySkill(**json.loads(line)) for line in lines)
        return cls(size=size, entries=(entry for entry in entries if until is None or entry.iteration <= until))


def successes(
    iteration: int, trajectories: Sequence[Trajectory], skills: Sequence[Skills | None]
) -> list[LibrarySkill]:
    """Entries from the episodes that succeeded and have an episode skill."""
    return [
        LibrarySkill(iteration, trajectory.task_type, trajectory.task, skill.episode_skill)
        for trajectory, skill in zip(trajectories, skills, strict=True)
        if trajectory.success and skill is not None and skill.episode_skill
    ]


def append(file: Path, entries: Iterable[LibrarySkill]) -> None:
    """Write entries at the end of a JSON Lines file."""
    with open(file, "a", encoding="utf-8") as lines:
        for entry in entries:
            lines.write(json.dumps(asdict(entry)) + "\n")


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))
