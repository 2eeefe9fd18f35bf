"""Stage 3 of OPID: which step hears which skill.

A *critical* step, one that has a step skill of its own, hears only that; every other step hears the episode
skill. Source: OPID, arXiv 2606.26790, critical-first routing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from opid_agents.skills.extract import Skills

RoutingMode = Literal["step_priority", "additive"]
ROUTING_MODES: tuple[str, ...] = get_args(RoutingMode)


@dataclass(frozen=True, slots=True)
class Route:
    """The skills one step is re-scored with; None: not with this one."""

    episode: str | None = None
    step: str | None = None


def route(
    skills: Skills | None,
    n_steps: int,
    *,
    mode: RoutingMode = "step_priority",
    episode_weight: float = 0.001,
    step_weight: float = 0.001,
) -> list[Route]:
    """Route the skills of one trajectory to its steps.

    Args:
        skills: what was extracted; None where extraction failed: no step is routed.
        n_steps: length of the trajectory. Step skills outside it are ignored.
        mode: ``step_priority``: a step with a step skill uses only that, any other the episode skill.
            ``additive``: a step uses whatever it has.
        episode_weight, step_weight: a skill whose weight is not positive is not used, so its steps need no
            scoring.

    Returns:
        One `Route` a step.

    Raises:
        ValueError: an unknown mode or a negative length.

    >>> skills = Skills("", "check all sides", {1: "open the left door"})
    >>> route(skills, 2)
    [Route(episode='check all sides', step=None), Route(episode=None, step='open the left door')]
    """
    if mode not in ROUTING_MODES:
        raise ValueError(f"unknown routing mode {mode!r}; allowed: {list(ROUTING_MODES)}")
    if n_steps < 0:
        raise ValueError(f"n_steps must be >= 0, got {n_steps}")
    if skills is None:
        return [Route()] * n_steps
    episode = _used(skills.episode_skill, episode_weight)
    routes = []
    for index in range(n_steps):
        step = _used(skills.step_skills.get(index), step_weight)
        routes.append(Route(None if step and mode == "step_priority" else episode, step))
    return routes


def _used(skill: str | None, weight: float) -> str | None:
    return skill if skill and skill.strip() and weight > 0 else None
