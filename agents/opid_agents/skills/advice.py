"""The action behind a skill: what a step skill advises to do, where that is one action."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace

from opid_agents.skills.route import Route
from opid_gym.trajectory import Step


def advised_action(step: Step, skill: str) -> str | None:
    """The action that a step skill names; None if it names none.

    It is the longest action in the skill's text, of those that were admissible and the one that the world's hindsight
    says was better.

    >>> step = Step("a hall", "look", 0.0, "a hall", admissible_actions=("look", "open the door"))
    >>> advised_action(step, "Next time, open the door."), advised_action(step, "Be patient.")
    ('open the door', None)
    """
    known = list(step.admissible_actions or ())
    if step.hindsight is not None and step.hindsight.better is not None:
        known.append(step.hindsight.better)
    text = skill.casefold()
    return max((action for action in known if action and action.casefold() in text), key=len, default=None)


def disagrees(step: Step, skill: str | None) -> bool:
    """Whether a step skill names another action than the one taken."""
    if skill is None:
        return False
    advised = advised_action(step, skill)
    return advised is not None and advised != step.action


def balance(
    routes: Sequence[Route],
    episodes: Sequence[Hashable],
    states: Sequence[Hashable],
    *,
    once_per_advice: bool = False,
    per_state: int | None = None,
) -> list[Route]:
    """Fewer step skills: a loop that repeats one piece of advice must not drown all others.

    Args:
        routes: of each step sample, in the order of their steps.
        episodes: the episode of each.
        states: the state of each, by which advice is counted over all episodes: equal for equal kinds of state.
        once_per_advice: in an episode each distinct step skill is heard at its first step only.
        per_state: maximum step skills over all samples in one state; None: no maximum.

    Returns:
        The routes; a step that lost its step skill hears nothing.

    Raises:
        ValueError: different numbers of routes, episodes and states, or a maximum below 1.

    >>> routes = [Route(step="go north"), Route(step="go north"), Route(step="open the door")]
    >>> [way.step for way in balance(routes, [0, 0, 0], "abc", once_per_advice=True)]
    ['go north', None, 'open the door']
    """
    if not len(routes) == len(episodes) == len(states):
        raise ValueError(
            f"one episode and one state for each of {len(routes)} routes is needed, got {len(episodes)} and "
            f"{len(states)}"
        )
    if per_state is not None and per_state < 1:
        raise ValueError(f"per_state must be at least 1 or None, got {per_state}")
    heard: set[tuple[Hashable, str]] = set()
    counts: dict[Hashable, int] = {}
    balanced = []
    for way, episode, state in zip(routes, episodes, states, strict=True):
        if (skill := way.step) is not None:
            again = once_per_advice and (episode, skill) in heard
            full = per_state is not None and counts.get(state, 0) >= per_state
            if again or full:
                way = replace(way, step=None)
            else:
                heard.add((episode, skill))
                counts[state] = counts.get(state, 0) + 1
        balanced.append(way)
    return balanced
