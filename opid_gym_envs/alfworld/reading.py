"""Understanding the game's sentences: what a task asks, what has happened and what is to be seen.

Everything an observer can know of a game stands in its text, in both generations of wording. The searching
expert and the look back at a trajectory (`hindsight`) both start from here, so that neither needs the game
itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from opid_gym_envs.alfworld.catalogue import TASK_TEMPLATES


@dataclass(frozen=True, slots=True)
class Wish:
    """What a task asks for.

    Attributes:
        task_type: one of the six task types.
        object_type: the wanted type of thing, lower-cased as the game writes it (``mug``).
        target_type: the receptacle type it has to end in or, for `look_at_obj_in_light`, the lamp type,
            lower-cased.
    """

    task_type: str
    object_type: str
    target_type: str

    @property
    def count(self) -> int:
        """How many things are wanted."""
        return 2 if self.task_type == "pick_two_obj_and_place" else 1

    @property
    def verb(self) -> str | None:
        """What has to be done to the thing on the way: ``clean``, ``heat``, ``cool`` or None."""
        return _VERBS.get(self.task_type)


_VERBS = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
_TEMPLATES = tuple(
    (task_type, re.compile(template.format(obj=r"(\w+)", recep=r"(\w+)", lamp=r"(\w+)")))
    for task_type, templates in TASK_TEMPLATES.items()
    for template in templates
)


def read_task(task: str) -> Wish:
    """Understand a task in one of the templates' wordings.

    Args:
        task: the words between "Your task is to: " and the full stop, which may still be there.

    Raises:
        ValueError: the wording is another one (a human annotation, say).
    """
    words = task.strip().removesuffix(".")
    for task_type, pattern in _TEMPLATES:
        match = pattern.fullmatch(words)
        if match:
            return Wish(task_type, match[1], match[2])
    known = "; ".join(t for templates in TASK_TEMPLATES.values() for t in templates)
    raise ValueError(f"task {task!r} is not worded like any template: {known}")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one observation says. Names are the game's, e.g. ``mug 1`` and ``cabinet 3``.

    Attributes:
        nothing_happened: the command was not understood or not possible.
        task: the task in words, where the observation states it (the first one does).
        seen: receptacle -> the things in or on it.
        closed: receptacles said to be closed.
        taken: (thing, receptacle) just picked up.
        put: (thing, receptacle) just put down.
        treated: (verb, thing) just cleaned, heated or cooled.
        switched_on: the lamp just turned on.
        sliced: the thing just sliced.
        opened: the receptacle just opened.
        carrying: what an inventory says is carried; None where the observation is not an inventory.
    """

    nothing_happened: bool = False
    task: str | None = None
    seen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    closed: tuple[str, ...] = ()
    taken: tuple[str, str] | None = None
    put: tuple[str, str] | None = None
    treated: tuple[str, str] | None = None
    switched_on: str | None = None
    sliced: str | None = None
    opened: str | None = None
    carrying: tuple[str, ...] | None = None


_NUMBER = re.compile(r"\s+\d+\b")
_NAME = r"(\w+(?: \d+)?)"
_TASK = re.compile(r"Your task is to: (.+)\.\s*$")
_SEEN = re.compile(rf"(?:On the {_NAME}|The {_NAME} is open\. In it), you see ([^.]*)\.")
_CLOSED = re.compile(rf"The {_NAME} is closed\.|You close the {_NAME}\.")
_TAKEN = re.compile(rf"You pick up the {_NAME} from the {_NAME}\.")
_PUT = re.compile(rf"You (?:move the {_NAME} to|put the {_NAME} in/on) the {_NAME}\.")
_TREATED = re.compile(rf"You (clean|heat|cool) the {_NAME} using the {_NAME}\.")
_SWITCHED = re.compile(rf"You turn on the {_NAME}\.")
_SLICED = re.compile(rf"You sliced the {_NAME} with the {_NAME}\.")
_OPENED = re.compile(rf"You open the {_NAME}\.")
_CARRYING = re.compile(r"You are (?:carrying: ([^.]*)|not carrying anything)\.")


@lru_cache(maxsize=4096)
def read_observation(text: str) -> Reading:
    """Read one observation of either generation of text; what is not recognised is left out."""
    task = _TASK.search(text)
    if text == "Nothing happens.":
        return Reading(nothing_happened=True)
    taken, put, treated = _TAKEN.match(text), _PUT.match(text), _TREATED.match(text)
    switched, sliced, opened = _SWITCHED.match(text), _SLICED.match(text), _OPENED.match(text)
    carrying = _CARRYING.match(text)
    return Reading(
        task=task[1] if task else None,
        seen={m[1] or m[2]: read_list(m[3]) for m in _SEEN.finditer(text)},
        closed=tuple(m[1] or m[2] for m in _CLOSED.finditer(text)),
        taken=(taken[1], taken[2]) if taken else None,
        put=(put[1] or put[2], put[3]) if put else None,
        treated=(treated[1], treated[2]) if treated else None,
        switched_on=switched[1] if switched else None,
        sliced=sliced[1] if sliced else None,
        opened=opened[1] if opened else None,
        carrying=read_list(carrying[1] or "nothing") if carrying else None,
    )


def read_list(words: str) -> tuple[str, ...]:
    """Split the game's lists; ``"nothing"`` is the empty one.

    >>> read_list("a mug 1, a pen 2, and a cup 1")
    ('mug 1', 'pen 2', 'cup 1')
    """
    if words == "nothing":
        return ()
    parts = (part.removeprefix("and ").removeprefix("a ") for part in words.split(", "))
    return tuple(part for part in parts if part)


@lru_cache(maxsize=4096)
def type_of(name: str) -> str:
    """The type in a numbered name: ``"mug 1"`` -> ``"mug"``."""
    return name.rpartition(" ")[0] or name


def without_numbers(text: str) -> str:
    """Kinds of things instead of the instances: ``"take mug 1 from desk 2"`` -> ``"take mug from desk"``."""
    return _NUMBER.sub("", text)
