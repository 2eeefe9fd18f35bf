"""Wrong skills on purpose: controls that keep everything of OPID but what its skills say.

Both replace the skill of every routed step and leave the routing as it is, so the same tokens are re-scored with texts
of the same kind.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from dataclasses import replace

from opid_agents.skills.route import Route


def shuffle_skills(routes: Sequence[Route], rng: random.Random) -> list[Route]:
    """Each skill replaced by one drawn from all routed skills of its kind (it may be its own)."""
    pools = {kind: [text for way in routes if (text := getattr(way, kind))] for kind in ("episode", "step")}
    return [replace(way, **{k: rng.choice(pool) for k, pool in pools.items() if getattr(way, k)}) for way in routes]


def other_task_skills(routes: Sequence[Route], tasks: Sequence[Hashable], rng: random.Random) -> list[Route]:
    """Each skill replaced by one drawn from those of its kind that belong to another task.

    A step for whose kind no other task has a skill is no longer routed to it.

    Args:
        routes: of each step sample.
        tasks: the task of each, by which they differ: ids, or task types.
        rng: source of randomness.
    """
    pools: dict[str, dict[Hashable, list[str]]] = {"episode": {}, "step": {}}
    for way, task in zip(routes, tasks, strict=True):
        for kind, pool in pools.items():
            if text := getattr(way, kind):
                pool.setdefault(task, []).append(text)
    changed = []
    for way, task in zip(routes, tasks, strict=True):
        texts: dict[str, str | None] = {}
        for kind, pool in pools.items():
            others = [other for other in pool if other != task]
            if getattr(way, kind):
                texts[kind] = rng.choice(pool[rng.choice(others)]) if others else None
        changed.append(replace(way, **texts))
    return changed
