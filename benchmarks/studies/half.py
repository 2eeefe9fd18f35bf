"""Advice that is no action: the first half of each better action, for studies in which nothing can be imitated.

A hint that spells an action can be learned by saying it, and needs no teacher. One that says only a part has to be
completed by who hears it: ``skills.extractor=studies.half:HalfAdvice``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from opid_agents.recipes import Recipe
from opid_agents.skills.extract import Extraction
from opid_agents.training.extraction import make_rules

from opid_gym.trajectory import Trajectory


def first_half(action: str) -> str:
    """The first half of what an action is about: of its words, or of the letters of a single one.

    >>> first_half("put mug 1 in sink 2"), first_half("answer[Mount Cook]"), first_half("answer[Lima]")
    ('put mug 1', 'answer[Mount', 'answer[Li')
    """
    verb, inside = re.fullmatch(r"(\w+\[)?(.*?)\]?", action, re.S).groups(default="")
    words = inside.split()
    if len(words) < 2:
        return verb + inside[: len(inside) // 2]
    return verb + " ".join(words[: (len(words) + (not verb)) // 2])


class HalfAdvice:
    """The extractor ``rules``, of whose step skills the first half is said.

    Args:
        recipe: with the settings of the rules.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._rules = make_rules(recipe)

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """As `opid_agents.skills.extract.Extractor.extract_all`."""
        found = self._rules.extract_all(groups, wanted)
        halves = [
            [
                skills and replace(skills, step_skills={i: first_half(text) for i, text in skills.step_skills.items()})
                for skills in group
            ]
            for group in found.skills
        ]
        return replace(found, skills=halves)
