"""What happened: one episode as records, and the same on disk as JSON Lines with an exact round trip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any


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
        metadata: seeds, agent, whatever a reader will want. JSON values only.
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
            raw = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a trajectory: invalid JSON ({error})") from None
        return cls.from_record(raw)

    @classmethod
    def from_record(cls, raw: object) -> Trajectory:
        """As `from_json`, from what `json.loads` made of the line.

        Raises:
            ValueError: a key is missing or unknown; the message names it.
        """
        if not isinstance(raw, dict) or not isinstance(raw.get("steps"), list):
            raise ValueError("not a trajectory: expected a JSON object with a list under 'steps'")
        steps = [_build(Step, step) for step in raw["steps"]]
        for step in steps:
            if step.admissible_actions is not None:
                step.admissible_actions = tuple(step.admissible_actions)
        trajectory: Trajectory = _build(cls, {**raw, "steps": []})
        trajectory.steps = steps
        return trajectory


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

    Lone surrogates (half a character, which a model's bytes can produce) are written as JSON escapes by Python's
    encoder only when ASCII is forced, so such a line falls back to ASCII; either form reads back exactly.
    """
    count = 0
    with open(path, "ab" if append else "wb") as file:
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
