"""What a benchmark writes: one line of JSON an episode."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

from opid_gym.files import write_file
from opid_gym.json_text import parse_json
from opid_gym.trajectory import Trajectory


class Key(NamedTuple):
    """What names an episode of a benchmark: labels of the agent and the environment, seed and task."""

    agent: str
    env: str
    seed: int
    task_id: str


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """One episode as the tables see it.

    Attributes:
        agent, env: labels.
        seed: the agent's seed.
        task_id, task_type: see `opid_gym.world.Task`.
        success: the task was solved. False for a failed episode.
        episode_return: sum of the rewards, undiscounted.
        length: steps.
        valid_actions: how many of them came from a reply that could be read.
        truncated: the time limit ended it.
        trials: how many times the task was played (more than one only by agents that retry; the numbers are those
            of the last).
        seconds: that the agent took, its share of batched calls, over all trials.
        prompt_tokens, reply_tokens, cost: as the agent says in `Decision.data`, over all trials.
        failure: why the agent failed to play it (it raised, hung, or returned nonsense); None if it did not.
    """

    agent: str
    env: str
    seed: int
    task_id: str
    task_type: str
    success: bool = False
    episode_return: float = 0.0
    length: int = 0
    valid_actions: int = 0
    truncated: bool = False
    trials: int = 1
    seconds: float = 0.0
    prompt_tokens: int = 0
    reply_tokens: int = 0
    cost: float = 0.0
    failure: str | None = None

    @property
    def key(self) -> Key:
        """The episode's name."""
        return Key(self.agent, self.env, self.seed, self.task_id)

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> EpisodeResult:
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is not JSON, or a key is missing or unknown.
        """
        raw = parse_json(line)
        allowed = {f.name for f in fields(cls)}
        if not isinstance(raw, dict) or set(raw) - allowed:
            raise ValueError(f"not a result: allowed keys are {sorted(allowed)}")
        try:
            result = cls(**raw)
        except TypeError as error:
            raise ValueError(f"not a result: {error}") from None
        for name, kind in _TYPES.items():
            value = getattr(result, name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"not a result: {name} must not be {value!r:.80}")
        return result


_TYPES: dict[str, Any] = {
    **dict.fromkeys(("agent", "env", "task_id", "task_type"), str),
    **dict.fromkeys(("seed", "length", "valid_actions", "trials"), int),
    **dict.fromkeys(("episode_return", "seconds", "prompt_tokens", "reply_tokens", "cost"), (int, float)),
    **dict.fromkeys(("success", "truncated"), bool),
    "failure": (str, NoneType),
}


def make_result(agent: str, env: str, seed: int, trials: Iterable[Trajectory]) -> EpisodeResult:
    """The result of a task from the trajectories of its trials, the last of which counts."""
    played = list(trials)
    last = played[-1]

    def spent(name: str) -> Any:
        return sum(step.data.get(name) or 0 for trajectory in played for step in trajectory.steps)

    return EpisodeResult(
        agent,
        env,
        seed,
        last.task_id,
        last.task_type,
        success=last.success,
        episode_return=last.episode_return,
        length=len(last),
        valid_actions=sum(step.valid for step in last.steps),
        truncated=last.truncated,
        trials=len(played),
        seconds=round(spent("seconds"), 6),
        prompt_tokens=spent("prompt_tokens"),
        reply_tokens=spent("reply_tokens"),
        cost=spent("cost"),
    )


def read_results(path: str | Path) -> list[EpisodeResult]:
    """Read a file of results; of an episode that is there twice (it was played again) the later one counts.

    A last line without its end, as an interruption leaves it, is dropped.

    Raises:
        ValueError: a line is not a result; names the file and the line.
    """
    text = Path(path).read_text(encoding="utf-8")
    found: dict[Key, EpisodeResult] = {}
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            result = EpisodeResult.from_json(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        found[result.key] = result
    return list(found.values())


def repair_results(path: Path) -> tuple[list[EpisodeResult], list[str]]:
    """Read a file of results, and take out of it every line that is not one.

    Such lines are what a killed process or a power cut leaves: cut off, or full of zeros.

    Returns:
        The results as `read_results` gives them (none if there is no file), and what was taken out, in words.
    """
    found: dict[Key, EpisodeResult] = {}

    def keep(line: bytes) -> None:
        result = EpisodeResult.from_json(line.decode())
        found[result.key] = result

    problems = _repair(path, keep)
    return list(found.values()), problems


def repair_trajectories(path: Path, results: Container[Key]) -> list[str]:
    """Take out of a benchmark's file of trajectories every line that is no trajectory, or one without a result.

    A process that was killed between writing an episode's trajectory and its result leaves such a one. The episode will
    be played again, and must not be there twice.

    Returns:
        What was taken out, in words.
    """
    seen: set[tuple[Key, int]] = set()

    def keep(line: bytes) -> None:
        record = parse_json(line)
        try:
            about = record["metadata"]
            key = Key(about["agent"], about["env"], about["seed"], record["task_id"])
            trial = key, about["trial"]
            known, twice = key in results, trial in seen
        except (TypeError, KeyError):
            raise ValueError("not a trajectory of a benchmark") from None
        if not known:
            raise ValueError(f"the episode of {key.task_id!r} has no result")
        if twice:
            raise ValueError(f"the episode of {key.task_id!r} is there twice")
        seen.add(trial)

    return _repair(path, keep)


def _repair(path: Path, keep: Callable[[bytes], None]) -> list[str]:
    """Replace a file by those of its lines at which `keep` raises no ValueError; returns what it said of the others."""
    if not path.exists():
        return []
    good, problems = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        last = number == len(lines)
        if last and not line:
            continue
        try:
            if last:
                raise ValueError("unfinished line")
            keep(line)
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
        else:
            good.append(line + b"\n")
    if problems:
        write_file(path, b"".join(good))
    return problems
