"""From what the agent knows to a prompt, with a named slot for a skill.

A prompt is rebuilt at every step from the task, the recent history and the current observation, so each step is a
sample of its own. A
`PromptTemplate` is data: the two bundled ones (``tagged`` for instruction-tuned models, ``compact`` for small ones
trained here) are TOML files beside this module and users bring their own with `load_template`.

OPID re-scores a reply under the same prompt *with* a skill in it. `render` therefore returns parts, so that anyone
can check that the prompt without its skill parts is, byte for byte, the prompt the reply was sampled from
(`Prompt.without_skill`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Literal

SLOTS = (
    "task",
    "history",
    "observation",
    "admissible_actions",
    "step_number",
    "history_length",
    "episode_skill",
    "step_skill",
)
_SLOT = re.compile(r"\{(\w+)\}")

PartKind = Literal["text", "episode_skill", "step_skill"]
_SKILL_SLOTS: dict[str, PartKind] = {"episode_skill": "episode_skill", "step_skill": "step_skill"}


@dataclass(frozen=True, slots=True)
class PromptView:
    """What the agent knows at one step.

    Attributes:
        task: the instruction.
        observation: the current observation.
        history: earlier (observation, action) pairs of this episode, oldest first.
        admissible_actions: what the world accepts now; None where actions are free text.
    """

    task: str
    observation: str
    history: Sequence[tuple[str, str]] = ()
    admissible_actions: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A prompt with named slots.

    Attributes:
        text: the whole prompt; ``{slot}`` marks where each of `SLOTS` goes. ``{observation}`` is required.
        name: for messages and run records.
        history_length: how many of the latest pairs ``{history}`` shows.
        history_heading: stands before the pairs, and vanishes with them while there are none.
        history_item: one pair; slots ``{number}`` (1-based step), ``{observation}``, ``{action}``.
        history_separator: between pairs.
        action_item: one admissible action; slot ``{action}``.
        action_separator: between admissible actions.
        hidden_actions: admissible actions that are not shown.
        episode_skill, step_skill: how a skill reads; slot ``{skill}``. The whole text vanishes without a skill.
    """

    text: str
    name: str = "custom"
    history_length: int = 5
    history_heading: str = ""
    history_item: str = "[Observation {number}: '{observation}', Action {number}: '{action}']"
    history_separator: str = "\n"
    action_item: str = "'{action}'"
    action_separator: str = ",\n"
    hidden_actions: tuple[str, ...] = ("help",)
    episode_skill: str = "Experience from an earlier attempt: {skill}\n"
    step_skill: str = "Advice for this step: {skill}\n"

    def __post_init__(self) -> None:
        _check_slots(self.name, "text", self.text, SLOTS, required="observation")
        _check_slots(self.name, "history_item", self.history_item, ("number", "observation", "action"))
        _check_slots(self.name, "action_item", self.action_item, ("action",), required="action")
        _check_slots(self.name, "episode_skill", self.episode_skill, ("skill",), required="skill")
        _check_slots(self.name, "step_skill", self.step_skill, ("skill",), required="skill")
        if self.history_length < 0:
            raise ValueError(f"template {self.name!r}: history_length must be >= 0, got {self.history_length}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt as parts in order; `str(prompt)` is what a model reads."""

    parts: tuple[tuple[PartKind, str], ...]

    def __str__(self) -> str:
        return "".join(text for _, text in self.parts)

    def without_skill(self) -> str:
        """The prompt with its skill parts left out."""
        return "".join(text for kind, text in self.parts if kind == "text")


def render(
    template: PromptTemplate,
    view: PromptView,
    *,
    episode_skill: str | None = None,
    step_skill: str | None = None,
) -> Prompt:
    r"""Fill a template.

    Slots are filled in one pass: a brace in an observation is text and stays text. A skill whose slot the template
    lacks is an error, not a silent loss.

    Raises:
        ValueError: a skill is given and the template has no slot for it.

    >>> text = "Task: {task}\n{episode_skill}{observation}\n{step_skill}>"
    >>> template = PromptTemplate(text, episode_skill="Tip: {skill}\n")
    >>> view = PromptView("put a mug in shelf", "You see a mug 1.")
    >>> prompt = render(template, view, episode_skill="Look around first.")
    >>> print(prompt)
    Task: put a mug in shelf
    Tip: Look around first.
    You see a mug 1.
    >
    >>> prompt.without_skill() == str(render(template, view))
    True
    """
    skills: dict[str, str | None] = {"episode_skill": episode_skill, "step_skill": step_skill}
    for slot, skill in skills.items():
        if skill and f"{{{slot}}}" not in template.text:
            raise ValueError(
                f"template {template.name!r} has no {{{slot}}} slot, but a skill was given for it: {skill!r}"
            )
    shown = view.history[-template.history_length :] if template.history_length else ()
    values = {
        "task": view.task,
        "history": _history(template, shown, first=len(view.history) - len(shown) + 1),
        "observation": view.observation,
        "admissible_actions": _actions(template, view.admissible_actions),
        "step_number": str(len(view.history) + 1),
        "history_length": str(len(shown)),
    }
    parts: list[tuple[PartKind, str]] = []
    pending = ""
    for is_slot, piece in _pieces(template.text):
        if piece in _SKILL_SLOTS and is_slot:
            skill = skills[piece]
            if skill:
                parts.append(("text", pending))
                parts.append((_SKILL_SLOTS[piece], _fill(getattr(template, piece), {"skill": skill})))
                pending = ""
        else:
            pending += values[piece] if is_slot else piece
    parts.append(("text", pending))
    return Prompt(tuple(parts))


def load_template(name_or_path: str | Path) -> PromptTemplate:
    """A bundled template by name, or a user's own from a TOML file whose keys are `PromptTemplate`'s fields.

    Raises:
        ValueError: no such template, the file is not TOML, or a key or slot is unknown.
    """
    bundled = resources.files("opid_gym") / "templates" / f"{name_or_path}.toml"
    if isinstance(name_or_path, str) and re.fullmatch(r"\w+", name_or_path):
        if not bundled.is_file():
            raise ValueError(
                f"unknown template {name_or_path!r}; bundled: {bundled_templates()}, or give a path to a .toml file"
            )
        text = bundled.read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read template {str(name_or_path)!r}: {error}") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"template {str(name_or_path)!r} is not TOML: {error}") from None
    allowed = [f.name for f in fields(PromptTemplate)]
    unknown = sorted(set(raw) - set(allowed))
    if unknown or "text" not in raw:
        problem = f"unknown keys {unknown}" if unknown else "the key 'text' is missing"
        raise ValueError(f"template {str(name_or_path)!r}: {problem}; allowed: {allowed}")
    raw.setdefault("name", Path(name_or_path).stem)
    if "hidden_actions" in raw:
        raw["hidden_actions"] = tuple(raw["hidden_actions"])
    return PromptTemplate(**raw)


def bundled_templates() -> list[str]:
    """Names `load_template` knows."""
    folder = resources.files("opid_gym") / "templates"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def _history(template: PromptTemplate, shown: Sequence[tuple[str, str]], first: int) -> str:
    if not shown:
        return ""
    items = (
        _fill(template.history_item, {"number": str(number), "observation": observation, "action": action})
        for number, (observation, action) in enumerate(shown, first)
    )
    return template.history_heading + template.history_separator.join(items)


def _actions(template: PromptTemplate, actions: Sequence[str] | None) -> str:
    return template.action_separator.join(
        _fill(template.action_item, {"action": action})
        for action in actions or ()
        if action not in template.hidden_actions
    )


def _fill(text: str, values: dict[str, str]) -> str:
    return "".join([values[piece] if slot else piece for slot, piece in _pieces(text)])


@lru_cache(maxsize=256)
def _pieces(text: str) -> tuple[tuple[bool, str], ...]:
    """What a text with slots consists of, in order: (False, words between slots) and (True, name of a slot)."""
    return tuple((bool(i % 2), piece) for i, piece in enumerate(_SLOT.split(text)) if piece)


def _check_slots(name: str, field: str, text: str, allowed: Sequence[str], required: str | None = None) -> None:
    found = _SLOT.findall(text)
    unknown = sorted(set(found) - set(allowed))
    if unknown:
        raise ValueError(f"template {name!r}: {field} has unknown slots {unknown}; allowed: {list(allowed)}")
    if required and required not in found:
        raise ValueError(f"template {name!r}: {field} needs the slot {{{required}}}")
