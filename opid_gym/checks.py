"""Arguments of environments: what is not allowed is refused by name, with the value given and what is allowed."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def check_integer(name: str, value: object, at_least: int = 1) -> int:
    """An integer of any type (NumPy's too, not bool) as an int.

    Raises:
        ValueError: it is none, or too small.

    >>> check_integer("num_envs", np.int64(3))
    3
    """
    what = {0: "a non-negative integer", 1: "a positive integer"}.get(at_least, f"an integer of {at_least} or more")
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise ValueError(f"{name} must be {what}, got {value!r}") from None
    if number < at_least:
        raise ValueError(f"{name} must be {what}, got {value!r}")
    return number


def check_seed(seed: object) -> int | None:
    """A non-negative integer, or None."""
    return None if seed is None else check_integer("seed", seed, at_least=0)


def check_limit(max_episode_steps: object) -> int | None:
    """A limit of steps; -1 is no limit (None), as in `gymnasium.make`."""
    if max_episode_steps is None or (isinstance(max_episode_steps, int | np.integer) and max_episode_steps == -1):
        return None
    try:
        return check_integer("max_episode_steps", max_episode_steps)
    except ValueError:
        raise ValueError(
            f"max_episode_steps must be a positive integer, or -1 or None for no limit, got {max_episode_steps!r}"
        ) from None


def check_action(action: object) -> None:
    """Refuse an action that is not a string."""
    if not isinstance(action, str):
        raise TypeError(f"an action must be a str, got {type(action).__name__}: {action!r}")


def check_task_id(task_id: object) -> None:
    """Refuse a task id that is not a string."""
    if not isinstance(task_id, str):
        raise TypeError(f"a task id must be a str, got {type(task_id).__name__}: {task_id!r}")


def check_options(options: object, allowed: Sequence[str]) -> Mapping[str, Any]:
    """Refuse reset options that are not a mapping, and unknown ones by name."""
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f"reset options must be a dict, got {type(options).__name__}: {options!r}")
    unknown = sorted(set(options or ()) - set(allowed))
    if unknown:
        raise ValueError(f"unknown reset options {unknown}; allowed: {list(allowed)}")
    return options or {}


def check_render_mode(render_mode: object, allowed: Sequence[str]) -> None:
    """Refuse an unknown render mode."""
    if render_mode is not None and render_mode not in allowed:
        raise ValueError(f"render_mode must be one of {list(allowed)} or None, got {render_mode!r}")
