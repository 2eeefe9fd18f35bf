"""The JSON an analyzer model returns about one trajectory, and reading it.

A reply is third-party text: it may be an essay, half of a JSON object, or ten megabytes of HTML.
`parse_skills` either gives `Skills` or raises `SkillReportError` with a sentence that can be quoted back to
the model.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from opid_agents.skills.extract import Skills

MAX_REPLY_CHARACTERS = 100_000
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)```", re.DOTALL)

Summary = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)]
EpisodeSkill = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
StepSkill = Annotated[str, StringConstraints(strip_whitespace=True, max_length=300)]
StepIndex = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^-?[0-9]{1,9}$")]


class SkillReport(BaseModel):
    """What an analyzer says about one finished trajectory. See `reply_schema` for what to ask a server for."""

    model_config = ConfigDict(extra="ignore")

    episode_summary: Summary = Field(description="What happened, in one or two sentences.")
    episode_skill: EpisodeSkill = Field(
        description="After a success a workflow that can be used again; after a failure a rule that avoids it."
    )
    step_skills: dict[StepIndex, StepSkill] = Field(
        default_factory=dict,
        description="For the few critical steps: step index, from 0, to one short imperative sentence.",
    )


def reply_schema(steps: int) -> dict[str, Any]:
    """The JSON schema of a report on a trajectory of so many steps, in the few words that every server understands.

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


def parse_skills(json_text: str, n_steps: int, max_step_skills: int) -> Skills:
    """Read an analyzer's reply.

    The JSON object may stand alone, in a Markdown code fence, or within other text. Line breaks and control
    characters in a skill become spaces: a skill is one line of a prompt. Step skills that are empty or
    outside the trajectory are dropped; of more than `max_step_skills` the earliest are kept.

    Raises:
        SkillReportError: there is no such object in the reply, or a field is missing, of another type, or too
            long.
    """
    if len(json_text) > MAX_REPLY_CHARACTERS:
        raise SkillReportError(f"the reply has {len(json_text)} characters; at most {MAX_REPLY_CHARACTERS} are read")
    try:
        report = SkillReport.model_validate(_find_object(json_text))
    except ValidationError as error:
        problems = "; ".join(_in_words(e["loc"], e["msg"]) for e in error.errors()[:5])
        raise SkillReportError(f"the JSON object does not fit: {problems}") from None
    steps = {int(index): _one_line(skill) for index, skill in report.step_skills.items()}
    kept = [(index, skill) for index, skill in sorted(steps.items()) if 0 <= index < n_steps and skill]
    episode_skill = _one_line(report.episode_skill)
    if not episode_skill:
        raise SkillReportError("the JSON object does not fit: episode_skill: there is no text in it")
    return Skills(_one_line(report.episode_summary), episode_skill, dict(kept[:max_step_skills]))


def _find_object(text: str) -> dict[str, Any]:
    fenced = _FENCE.search(text)
    candidates = [text, fenced[1] if fenced else "", text[text.find("{") : text.rfind("}") + 1]]
    problem = "there is no {...} in it"
    for candidate in candidates:
        if not candidate.strip():
            continue
        try:
            found = json.loads(candidate)
        except (ValueError, RecursionError) as error:
            problem = str(error) or "it is nested too deeply"
            continue
        if isinstance(found, dict):
            return found
        problem = f"it is a JSON {type(found).__name__}, not an object"
    raise SkillReportError(f"the reply is not a JSON object: {problem}")


def _in_words(place: tuple[int | str, ...], message: str) -> str:
    # A key is the model's own text: it may be long, and may hold what cannot be encoded.
    keys = (ascii(key)[1:-1][:40] if isinstance(key, str) else str(key) for key in place)
    return f"{'.'.join(keys) or 'the reply'}: {message}"


def _one_line(text: str) -> str:
    visible = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(visible.split())
