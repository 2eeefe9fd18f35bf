"""What happened: one episode as records, and the same on disk as JSON Lines with an exact round trip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

from opid_gym.files import replacing
from opid_gym.json_text import check_depth, parse_json


@dataclass(frozen=True, slots=True)
class StepHindsight:
    """What looking back at a finished episode tells of one step, from the text of the episode alone.

    Attributes:
        changed_state: the world is different after the step.
        reached: sub-goals that this step reached first, in the world's words.
        wasted: the step neither changed the world nor showed anything new.
        better: an action that the record shows to have been better here than the one taken. It was admissible at this
            step (where admissible actions are known); where these have a place for words of one's own, as
            ``search[<your query>]``, it has words there. None: the record shows none.
        decisive: `better` could be done at once and brings the task itself on, rather than being one more move of a
            search. False where there is no `better`.
        reason: why, as a sentence for people and language models; "" where there is nothing to say.
    """

    changed_state: bool
    reached: tuple[str, ...] = ()
    wasted: bool = False
    better: str | None = None
    decisive: bool = False
    reason: str = ""


@dataclass(slots=True)
class Step:
    """One decision: what the agent saw, what it said, what the world did.

    Attributes:
        observation: the text the agent acted on.
        action: the text sent to the world.
        reward: what the world paid for it.
        next_observation: the world's answer.
        anchor: the state name the action was chosen in (see `opid_gym.world.Turn`).
        admissible_actions: what the world would have accepted; None where actions are free text.
        reply: the agent's full reply, if the action was parsed from one.
        prompt: the prompt behind the reply, if there was one.
        valid: False if no action could be read from the reply.
        invalid_reason: why not, in words.
        data: whatever else the agent keeps of this step. Must be JSON values, lists not tuples, to survive the disk.
        hindsight: what the world said of this step when the episode had ended; None: it says nothing.
    """

    observation: str
    action: str
    reward: float
    next_observation: str
    anchor: str = ""
    admissible_actions: tuple[str, ...] | None = None
    reply: str | None = None
    prompt: str | None = None
    valid: bool = True
    invalid_reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    hindsight: StepHindsight | None = None


@dataclass(slots=True)
class Trajectory:
    """One episode.

    Attributes:
        task_id, task_type, task: see `opid_gym.world.Task`.
        steps: the decisions in order.
        success: the task was solved when the episode ended.
        truncated: the time limit ended it, not the world.
        group: which group of rollouts of one task this one belongs to; equal for siblings, unique over a recording.
        env_id: the registered environment, if known.
        metadata: seeds, agent, whatever a reader will want. JSON values only. `RecordTrajectories` writes ``source``
            and ``data`` (see `opid_gym.world.World`), and ``crashed`` or ``too_slow``, the reason why an episode could
            not go on (see `opid_gym.world.Turn`).
        workflow: what mattered in the episode, in the world's few words (see `opid_gym.world.World.workflow`); None:
            the world says nothing.
    """

    task_id: str
    task_type: str
    task: str
    steps: list[Step] = field(default_factory=list)
    success: bool = False
    truncated: bool = False
    group: int = 0
    env_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    workflow: tuple[str, ...] | None = None

    @property
    def episode_return(self) -> float:
        """Sum of the rewards, undiscounted."""
        return float(sum(step.reward for step in self.steps))

    def __len__(self) -> int:
        return len(self.steps)

    def to_json(self) -> str:
        """One line of JSON; `from_json` gives back an equal record."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Trajectory:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the line is not JSON, or a key is missing or unknown; the message names it.
        """
        try:
            raw = parse_json(line)
        except ValueError as error:
            raise ValueError(f"not a trajectory: invalid JSON ({error})") from None
        return cls.from_record(raw)

    @classmethod
    def from_record(cls, raw: object) -> Trajectory:
        """As `from_json`, from what `json.loads` made of the line.

        Raises:
            ValueError: a key is missing or unknown, or a value is of another type; the message names it.
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("steps"), list):
            raise ValueError("not a trajectory: expected a JSON object with a list under 'steps'")
        check_depth(raw)
        trajectory: Trajectory = _build(cls, {**raw, "steps": []})
        _check_types(trajectory, _TRAJECTORY_TYPES, "")
        trajectory.workflow = _texts(trajectory.workflow, "workflow")
        for number, record in enumerate(raw["steps"]):
            where = f"step {number}: "
            step: Step = _build(Step, record)
            _check_types(step, _STEP_TYPES, where)
            step.admissible_actions = _texts(step.admissible_actions, f"{where}admissible_actions")
            if step.hindsight is not None:
                told: StepHindsight = _build(StepHindsight, step.hindsight)
                _check_types(told, _HINDSIGHT_TYPES, f"{where}hindsight: ")
                step.hindsight = replace(told, reached=_texts(told.reached, f"{where}hindsight: reached") or ())
            trajectory.steps.append(step)
        return trajectory


_MAYBE_TEXT = (str, NoneType)
_TRAJECTORY_TYPES: dict[str, Any] = {
    **dict.fromkeys(("task_id", "task_type", "task"), str),
    **dict.fromkeys(("success", "truncated"), bool),
    "group": int,
    "env_id": _MAYBE_TEXT,
    "metadata": dict,
}
_STEP_TYPES: dict[str, Any] = {
    **dict.fromkeys(("observation", "action", "next_observation", "anchor"), str),
    **dict.fromkeys(("reply", "prompt", "invalid_reason"), _MAYBE_TEXT),
    "reward": (int, float),
    "valid": bool,
    "data": dict,
}
_HINDSIGHT_TYPES: dict[str, Any] = {
    **dict.fromkeys(("changed_state", "wasted", "decisive"), bool),
    "better": _MAYBE_TEXT,
    "reason": str,
}


def _check_types(record: object, types: Mapping[str, Any], where: str) -> None:
    for name, kind in types.items():
        value = getattr(record, name)
        if not isinstance(value, kind):
            raise ValueError(f"{where}{name} must not be {value!r:.80}")


def _texts(value: Any, name: str) -> tuple[str, ...] | None:
    """A list of texts as a tuple; null stays None."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} must be a list of texts or null, got {value!r:.80}")
    return tuple(value)


def _build(record: type[Any], raw: object) -> Any:
    if not isinstance(raw, Mapping):
        raise ValueError(f"not a {record.__name__}: expected a JSON object, got {type(raw).__name__}")
    known = {f.name for f in fields(record)}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ValueError(f"unknown {record.__name__} keys {unknown}; allowed: {sorted(known)}")
    try:
        return record(**raw)
    except TypeError as error:
        raise ValueError(f"not a {record.__name__}: {error}") from None


def write_jsonl(path: str | Path, trajectories: Iterable[Trajectory], *, append: bool = False) -> int:
    """Write trajectories, one a line, UTF-8. Returns how many.

    Without `append` the file is replaced when all of them are written.

    Lone surrogates (half a character, which a model's bytes can produce) are written as JSON escapes by Python's
    encoder only when ASCII is forced, so such a line falls back to ASCII; either form reads back exactly.
    """
    count = 0
    with nullcontext(path) if append else replacing(path) as target, open(target, "ab" if append else "wb") as file:
        for trajectory in trajectories:
            line = trajectory.to_json()
            try:
                encoded = line.encode()
            except UnicodeEncodeError:
                encoded = json.dumps(asdict(trajectory), separators=(",", ":")).encode()
            file.write(encoded + b"\n")
            count += 1
    return count


def read_jsonl(path: str | Path) -> Iterator[Trajectory]:
    """Read trajectories written by `write_jsonl`, lazily.

    Raises:
        ValueError: a line is not a trajectory; names the file and the line number.
    """
    with open(path, encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                yield Trajectory.from_json(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
