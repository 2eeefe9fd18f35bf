"""The book-keeping of one running episode, and what `info` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import PurePath
from typing import Any

from gymnasium.envs.registration import EnvSpec

from opid_gym.world import Task, Turn


@dataclass(slots=True)
class Episode:
    """One running episode.

    Attributes:
        task: what is played.
        length: steps so far.
        over: the world has ended it, or a limit has.
    """

    task: Task
    length: int = 0
    over: bool = False


def make_info(task: Task, turn: Turn, source: str) -> dict[str, Any]:
    """The `info` of one game; a key of `turn.extras` may not shadow the contract's."""
    return {
        **turn.extras,
        "task": task.text,
        "task_id": task.id,
        "task_type": task.type,
        "source": source,
        "admissible_actions": turn.admissible_actions,
        "anchor": turn.observation if turn.anchor is None else turn.anchor,
        "won": turn.won,
    }


def plain_spec(spec: EnvSpec | None) -> EnvSpec | None:
    """A spec whose arguments are JSON values where they can be (paths as texts), so that ``spec.to_json()`` works."""
    return None if spec is None else replace(spec, kwargs=_plain(spec.kwargs))


def _plain(value: Any) -> Any:
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
