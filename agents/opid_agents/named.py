"""Parts of a run that are named as ``module:Class``: experts and extractors of one's own."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def load_named(path: str, kind: str) -> Any:
    """What ``module:Class`` names.

    Args:
        path: the name.
        kind: what it should be, for the error.

    Raises:
        ValueError: there is no such thing.

    >>> load_named("opid_agents.skills.extract:RuleExtractor", "extractor").__name__
    'RuleExtractor'
    """
    module, _, name = path.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no {kind} {path!r}; write module:Class ({error})") from None
