"""JSON from others: whatever is wrong with it is a `ValueError`."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 100
"""Most brackets inside one another that `check_depth` lets pass. Nothing that this package writes has ten."""


def check_depth(value: Any) -> None:
    """Refuse a value that code which calls itself, `json.dumps` for one, could not go through.

    Raises:
        ValueError: lists and objects are nested more than `DEEPEST` deep.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = (part.values() if isinstance(part, dict) else part for part in level)
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError("the brackets are nested too deeply")


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`, but text with too many brackets inside one another is a `ValueError` as well.

    >>> parse_json('{"steps": 3}')
    {'steps': 3}
    >>> parse_json("[" * 100_000)
    Traceback (most recent call last):
    ...
    ValueError: the brackets are nested too deeply

    Raises:
        ValueError: it is not JSON; the message says why and where.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the brackets are nested too deeply") from None
