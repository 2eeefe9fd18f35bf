"""The JSON an analyzer model returns about one trajectory, and reading it.

A reply is third-party text: it may be an essay, half of a JSON object, or ten megabytes of HTML. Models that reason,
quote the question, or know JSON by hearsay mean well all the same, so whatever can be understood is read, and a bad
entry costs itself only. `parse_skills` either gives `Skills` or raises `SkillReportError` with a sentence that can be
quoted back to the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import json_repair

from opid_agents.skills.extract import Skills

MAX_REPLY_CHARACTERS = 100_000
# Longer texts are cut.
_LONGEST = {"episode_summary": 2000, "episode_skill": 1000, "step_skill": 300}

_FENCE = re.compile(r"```[ \t]*(?:json5?|JSON)?[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_THOUGHT_END = re.compile("</think>", re.IGNORECASE)
_OPENING = re.compile(r"[{\[]")
_INDEX = re.compile(r"[^\d-]*(-?\d{1,9})(?:\.0*)?\D*")
_NUMBERED = re.compile(r"\W*(?:step\W*)?(\d{1,9})\W+(.+)", re.DOTALL | re.IGNORECASE)
_TEXT_KEYS = ("skill", "stepskill", "text", "advice", "instruction", "value", "content")
_INDEX_KEYS = ("step", "index", "stepindex", "stepnumber", "number", "key", "id")
_NAMED = re.compile(r"episode[ _-]?skill", re.IGNORECASE)
_MOST_TRIES = 1000  # each may read the rest of the reply
_MOST_BRACES = 500
_DEEPEST = 4  # objects within objects are looked into this far


def reply_schema(steps: int) -> dict[str, Any]:
    """The JSON schema of a report on a trajectory of a given length, in the few words that every server understands.

    It is narrower than what `parse_skills` takes: servers hold a model to it token by token, and a small model would
    fill whatever room it is given.
    """

    def text(longest: int) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": longest}

    skills = {
        "type": "object",
        "properties": {str(index): text(160) for index in range(steps)},
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"episode_summary": text(300), "episode_skill": text(300), "step_skills": skills},
        "required": ["episode_summary", "episode_skill", "step_skills"],
        "additionalProperties": False,
    }


class SkillReportError(ValueError):
    """A reply that is no skill report; the message says why, in words a model can act on."""


def parse_skills(reply: str, n_steps: int, max_step_skills: int) -> Skills:
    """Read an analyzer's reply.

    The JSON object may stand alone, in a Markdown code fence or within other text, after reasoning, or inside another
    object or list. Of several, e.g. the schema and then the answer, the last that is a report counts. Faulty JSON
    (trailing commas, line breaks in strings, quotes of another kind, an end that is missing) is repaired. Line breaks
    and control characters in a skill become spaces: a skill is one line of a prompt. Texts that are too long are cut.

    Args:
        reply: what the model said.
        n_steps: steps of the trajectory. Step skills outside it, without a number, or without text are dropped.
        max_step_skills: of more, those that the model named first are kept.

    Raises:
        SkillReportError: no object in the reply has a text as its ``episode_skill``.

    >>> skills = parse_skills('Well: {"episode_skill": "Look around.", "step_skills": {"Step 1": "Open it.",}}', 3, 5)
    >>> skills.step_skills
    {1: 'Open it.'}
    """
    if len(reply) > MAX_REPLY_CHARACTERS:
        raise SkillReportError(f"the reply has {len(reply)} characters; at most {MAX_REPLY_CHARACTERS} are read")
    found: Mapping[str, Any] | None = None
    seen = False  # whether there was any object at all
    for candidates in (_valid_objects, _repaired_objects):
        for value in candidates(reply):
            seen = True
            found = _find_report(value, _DEEPEST) or found
        if found is not None:
            break
    if found is None:
        if seen:
            raise SkillReportError('the JSON object does not fit: "episode_skill" is missing or is no text')
        raise SkillReportError("the reply is not a JSON object: there is no {...} in it that can be read")
    steps: dict[int, str] = {}
    for index, value in _step_entries(found.get("stepskills")):
        skill = _text(value, _LONGEST["step_skill"])
        if skill and 0 <= index < n_steps and len(steps) < max_step_skills:
            steps.setdefault(index, skill)
    return Skills(
        _text(found.get("episodesummary"), _LONGEST["episode_summary"]),
        _text(found["episodeskill"], _LONGEST["episode_skill"]),
        dict(sorted(steps.items())),
    )


def _valid_objects(reply: str) -> Iterator[Any]:
    """The JSON objects and lists in a text, one after the other."""
    decoder = json.JSONDecoder(strict=False)  # line breaks in strings are let pass
    text = _after_thought(reply)
    place = 0
    for _ in range(_MOST_TRIES):
        opening = _OPENING.search(text, place)
        if opening is None:
            return
        try:
            value, place = decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            place = opening.end()
            continue
        if value:
            yield value


def _repaired_objects(reply: str) -> Iterator[Any]:
    """What a tolerant reader makes of the likely places."""
    text = _after_thought(reply)
    named = _NAMED.search(text)
    if named is None:
        return
    if text[named.start() - 1] in "\u201c\u201d":  # curly quotes in place of straight ones
        text = text.replace("\u201c", '"').replace("\u201d", '"')
    pieces = [fence[1] for fence in _FENCE.finditer(text)]
    # From the brace or bracket before the first word that only a report has; what comes before it may be anything.
    openings = [text.rfind("{", 0, named.start()), text.find("{")]
    pieces += [text[place:] for place in dict.fromkeys(openings) if place >= 0]
    for piece in [*pieces, text]:
        if piece.count("{") + piece.count("[") > _MOST_BRACES:
            continue  # the tolerant reader needs long for these
        try:
            value = json_repair.loads(piece, skip_json_loads=True)
        except (ValueError, RecursionError):
            continue
        if value and not isinstance(value, str):
            yield value


def _after_thought(reply: str) -> str:
    """The reply without the reasoning before it, if there is anything after it."""
    end = _THOUGHT_END.search(reply)
    return reply[end.end() :] if end and "{" in reply[end.end() :] else reply


def _find_report(value: Any, depth: int) -> Mapping[str, Any] | None:
    """The last object in `value` that has a text as its episode skill, with its keys in plain letters."""
    if isinstance(value, str) and value.lstrip().startswith("{"):  # JSON in a JSON string
        try:
            value = json.loads(value, strict=False)
        except (ValueError, RecursionError):
            return None
    if isinstance(value, Mapping):
        members = {_plain(key): member for key, member in value.items()}
        if _text(members.get("episodeskill"), 1):
            return members
        # A JSON schema describes a report and is none.
        inner = [member for key, member in members.items() if key not in ("properties", "defs", "definitions")]
    elif isinstance(value, list):
        inner = value
    else:
        return None
    if depth == 0:
        return None
    return next((found for member in reversed(inner) if (found := _find_report(member, depth - 1))), None)


def _step_entries(value: Any) -> Iterator[tuple[int, Any]]:
    """Step index and skill, from an object by index or a list of entries, as the model wrote them."""
    if isinstance(value, Mapping):
        pairs: list[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        pairs = [_entry(entry) for entry in value]
    else:
        return
    for key, skill in pairs:
        if isinstance(key, bool) or key is None:
            continue
        if match := _INDEX.fullmatch(str(key)):
            yield int(match[1]), skill


def _entry(entry: Any) -> tuple[Any, Any]:
    """Index and skill of one entry of a list; None as the index where there is none."""
    if isinstance(entry, Mapping):
        members = {_plain(key): member for key, member in entry.items()}
        index = next((members[key] for key in _INDEX_KEYS if key in members), None)
        if index is not None:
            return index, entry
        return next(iter(entry.items())) if len(entry) == 1 else (None, None)
    if isinstance(entry, list) and len(entry) == 2:
        return entry[0], entry[1]
    if isinstance(entry, str) and (match := _NUMBERED.fullmatch(entry)):
        return match[1], match[2]
    return None, None


def _text(value: Any, longest: int) -> str:
    """The text of an entry in one line; empty if it has none."""
    if isinstance(value, list):
        value = " ".join(part for part in value if isinstance(part, str))
    elif isinstance(value, Mapping):
        members = {_plain(key): member for key, member in value.items()}
        value = next((members[key] for key in _TEXT_KEYS if isinstance(members.get(key), str)), "")
    if not isinstance(value, str):
        return ""
    visible = "".join(character if character.isprintable() else " " for character in value)
    return " ".join(visible.split())[:longest].rstrip()


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z]", "", str(key).lower())
