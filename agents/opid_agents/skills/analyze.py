"""Skills in the words of a language model: it reads the record of an episode and answers with JSON.

`WrittenSkills` renders the record, reads the reply, sends back what does not parse with the error quoted, and leaves a
trajectory without skills if nothing helps. Who writes is a `Writer`: a model behind an endpoint
(`opid_agents.skills.llm`) or the policy itself (`opid_agents.skills.self_extract`).

Source: OPID (arXiv 2606.26790), stage 2; prompts are this project's own and are data: TOML files beside this module,
or the user's.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from opid_agents.returns import discounted_returns
from opid_agents.skills.extract import Extraction, Skills, UnreadableReply, succeeded
from opid_agents.skills.report import SkillReportError, parse_skills, reply_schema
from opid_gym.trajectory import Step, Trajectory

Conversation = list[dict[str, str]]

_SLOT = re.compile(r"\{(\w+)\}")
_SLOTS: Mapping[str, frozenset[str]] = {
    "step": frozenset({"index", "observation", "action", "note"}),
    "system": frozenset({"goal", "max_step_skills"}),
    "user": frozenset({"task", "outcome", "score", "length", "steps", "final"}),
    "retry": frozenset({"error"}),
}
# Characters of an observation that are shown, the most that fits the writer.
_SHOWN = (1500, 500, 200, 80, 20)
_QUOTED = 4000  # characters of a bad reply that are sent back with the error


@dataclass(frozen=True, slots=True)
class Details:
    """What a writer is shown beyond observations, actions, rewards and mistakes.

    Attributes:
        hindsight: what the world's hindsight says of a step: its reason, and the better action.
        replies: the whole reply with its reasoning in place of the action, where there is one.
        returns: the discounted return of each step.
        uncut: whole texts if they fit the writer, before texts are cut.
        gamma: discount of the returns.
    """

    hindsight: bool = False
    replies: bool = False
    returns: bool = False
    uncut: bool = False
    gamma: float = 0.95


@dataclass(frozen=True, slots=True)
class AnalysisPrompt:
    """The words a writer is asked with.

    Attributes:
        system: what to do; slots ``{goal}`` and ``{max_step_skills}``.
        success_goal, failure_goal: the goal after a success / a failure.
        user: the record; slots ``{task}``, ``{outcome}``, ``{score}``, ``{length}``, ``{steps}``,
            ``{final}`` (what was seen last).
        step: one step of it; slots ``{index}`` (from 0), ``{observation}``, ``{action}``, ``{note}``.
        retry: what a reply that does not parse is answered with; slot ``{error}``.
        name: for messages.
    """

    system: str
    success_goal: str
    failure_goal: str
    user: str
    step: str
    retry: str
    name: str = "custom"

    def __post_init__(self) -> None:
        for field, allowed in _SLOTS.items():
            unknown = sorted(set(_SLOT.findall(getattr(self, field))) - allowed)
            if unknown:
                raise ValueError(
                    f"analysis prompt {self.name!r}: {field} has unknown slots {unknown}; allowed: {sorted(allowed)}"
                )

    def ask(
        self,
        trajectory: Trajectory,
        *,
        success: bool,
        max_step_skills: int,
        shown: int | None = 1500,
        details: Details = Details(),
    ) -> Conversation:
        """The conversation that asks about one trajectory.

        Args:
            trajectory: the finished episode.
            success: whether it counts as one.
            max_step_skills: maximum step skills to ask for.
            shown: maximum characters of each observation, action and reply; None: all of them.
            details: what else is shown.
        """
        returns = discounted_returns(trajectory, details.gamma)
        steps = "".join(
            _fill(
                self.step,
                {
                    "index": str(index),
                    "observation": _shorten(step.observation, shown),
                    "action": _shorten((details.replies and step.reply) or step.action, shown),
                    "note": _note(step, returns[index], details),
                },
            )
            for index, step in enumerate(trajectory.steps)
        )
        goal = self.success_goal if success else self.failure_goal
        values = {
            "task": trajectory.task,
            "outcome": "success" if success else "failure",
            "score": f"{trajectory.episode_return:g}",
            "length": str(len(trajectory)),
            "steps": steps,
            "final": _shorten(trajectory.steps[-1].next_observation, shown) if trajectory.steps else "",
        }
        system = _fill(self.system, {"goal": goal, "max_step_skills": str(max_step_skills)})
        return [
            {"role": "system", "content": system.strip()},
            {"role": "user", "content": _fill(self.user, values).strip()},
        ]

    def ask_again(self, conversation: Conversation, reply: str, error: str) -> Conversation:
        """The conversation, the reply to it and what is wrong with that."""
        return [
            *conversation,
            {"role": "assistant", "content": reply[:_QUOTED]},
            {"role": "user", "content": _fill(self.retry, {"error": error}).strip()},
        ]


def load_prompt(name_or_path: str | Path) -> AnalysisPrompt:
    """A bundled prompt by name, or a user's own from a TOML file whose keys are `AnalysisPrompt`'s fields.

    Raises:
        ValueError: no such prompt, the file is not TOML, or a key or slot is unknown or missing.
    """
    folder = resources.files("opid_agents.skills") / "prompts"
    bundled = sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))
    if name_or_path in bundled:
        text = (folder / f"{name_or_path}.toml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"unknown analysis prompt {str(name_or_path)!r} ({error}); bundled: {bundled}, or give a .toml file"
            ) from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"analysis prompt {str(name_or_path)!r} is not TOML: {error}") from None
    names = [field.name for field in fields(AnalysisPrompt)]
    wrong = sorted((set(raw) ^ set(names)) - {"name"})
    if wrong:
        raise ValueError(f"analysis prompt {str(name_or_path)!r}: unknown or missing keys {wrong}; needed: {names}")
    return AnalysisPrompt(**({"name": Path(name_or_path).stem} | raw))


@dataclass(frozen=True, slots=True)
class Reply:
    """What a writer wrote; None, and why, if it wrote nothing."""

    text: str | None
    failure: str | None = None


class Writer(Protocol):
    """Answers conversations."""

    def fits(self, conversation: Conversation) -> bool:
        """Whether a conversation is short enough for it."""

    def write(
        self, conversations: Sequence[Conversation], schema: Mapping[str, Any]
    ) -> tuple[list[Reply], dict[str, float]]:
        """A reply to each, in order, and figures to log. Failures are replies, not exceptions.

        `schema` is that of the JSON wanted, for writers that can be held to one.
        """

    def keep(self, conversation: Conversation, reply: str) -> None:
        """A reply was good: a writer with a cache may keep it."""


@dataclass(frozen=True, slots=True)
class WrittenSkills:
    """An extractor whose skills a model writes.

    Attributes:
        writer: who.
        prompt: asked how.
        max_step_skills: maximum step skills per trajectory.
        success_threshold: None: an episode is a success if its world said so; a number: if its return reaches it.
        details: what the writer is shown beyond observations and actions.
        retries: how often a reply that does not parse is sent back with the error.
    """

    writer: Writer
    prompt: AnalysisPrompt
    max_step_skills: int = 5
    success_threshold: float | None = None
    retries: int = 1
    details: Details = Details()

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """See `opid_agents.skills.extract.Extractor`.

        The metrics count trajectories: ``requests`` (asked about), ``failures`` (no skills in the end) and
        ``failed/<why>``; ``unreadable`` counts replies that did not parse. The writer adds its own.
        """
        found: list[list[Skills | None]] = [[None] * len(group) for group in groups]
        places = [
            (g, i)
            for g, group in enumerate(groups)
            for i, trajectory in enumerate(group)
            if trajectory.steps and wanted(trajectory)
        ]
        conversations = {place: self._ask(groups[place[0]][place[1]]) for place in places}
        failed = dict.fromkeys((place for place, asked in conversations.items() if asked is None), "too_long")
        waiting: dict[tuple[int, int], Conversation] = {p: asked for p, asked in conversations.items() if asked}
        metrics: Counter[str] = Counter(requests=len(places), unreadable=0)
        unreadable: list[UnreadableReply] = []
        for last in [False] * self.retries + [True]:
            if not waiting:
                break
            longest = max(len(groups[g][i]) for g, i in waiting)
            replies, figures = self.writer.write(list(waiting.values()), reply_schema(longest))
            metrics.update(figures)
            again: dict[tuple[int, int], Conversation] = {}
            for (place, conversation), reply in zip(waiting.items(), replies, strict=True):
                if reply.text is None:
                    failed[place] = reply.failure or "unknown"
                    continue
                trajectory = groups[place[0]][place[1]]
                try:
                    found[place[0]][place[1]] = parse_skills(reply.text, len(trajectory), self.max_step_skills)
                except SkillReportError as error:
                    metrics["unreadable"] += 1
                    unreadable.append(UnreadableReply(trajectory.task_id, reply.text, str(error)))
                    if last:
                        failed[place] = "unreadable"
                    else:
                        again[place] = self.prompt.ask_again(conversation, reply.text, str(error))
                else:
                    self.writer.keep(conversation, reply.text)
            waiting = again
        metrics["failures"] = len(failed)
        metrics.update({f"failed/{why}": count for why, count in Counter(failed.values()).items()})
        return Extraction(found, {name: float(value) for name, value in metrics.items()}, unreadable)

    def _ask(self, trajectory: Trajectory) -> Conversation | None:
        success = succeeded(trajectory, self.success_threshold)
        for shown in (None, *_SHOWN) if self.details.uncut else _SHOWN:
            conversation = self.prompt.ask(
                trajectory,
                success=success,
                max_step_skills=self.max_step_skills,
                shown=shown,
                details=self.details,
            )
            if self.writer.fits(conversation):
                return conversation
        return None


def _note(step: Step, following: float, details: Details) -> str:
    notes = [f"invalid: {step.invalid_reason or 'no action could be read'}"] if not step.valid else []
    if step.reward:
        notes.append(f"reward {step.reward:g}")
    if details.returns:
        notes.append(f"return from here {following:.3g}")
    if details.hindsight and step.hindsight is not None and step.hindsight.reason:
        better = step.hindsight.better
        notes.append(f"in hindsight: {step.hindsight.reason}" + (f" Better: {better}" if better else ""))
    return f"  ({'; '.join(notes)})" if notes else ""


def _shorten(text: str, limit: int | None) -> str:
    """One line of at most `limit` characters, its middle left out; None: whole."""
    line = " ".join(text.split())
    if limit is None or len(line) <= limit:
        return line
    half = max(1, (limit - 5) // 2)
    return f"{line[:half]} ... {line[-half:]}"


def _fill(text: str, values: Mapping[str, str]) -> str:
    return _SLOT.sub(lambda match: values[match.group(1)], text)
