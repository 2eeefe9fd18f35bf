"""Returns, effects and names of states."""

from __future__ import annotations

import pytest
from opid_agents.returns import discounted_returns, had_effect, state_names

from opid_gym.trajectory import Step, StepHindsight, Trajectory


def walk(*turns: tuple[str, str], hindsight: tuple[bool, ...] = ()) -> Trajectory:
    """(action, answer) pairs, the last of them paid 1.0."""
    trajectory, observation = Trajectory("t", "k", "walk"), "start"
    for action, answer in turns:
        trajectory.steps.append(Step(observation, action, 0.0, answer))
        observation = answer
    for step, changed in zip(trajectory.steps, hindsight, strict=False):
        step.hindsight = StepHindsight(changed)
    trajectory.steps[-1].reward = 1.0
    return trajectory


def test_discounted_returns() -> None:
    assert discounted_returns(walk(("a", "1"), ("b", "2"), ("c", "3")), 0.5) == [0.25, 0.5, 1.0]
    assert discounted_returns(Trajectory("t", "k", "walk"), 0.5) == []
    with pytest.raises(ValueError, match=r"gamma must be in \[0, 1\], got 1.5"):
        discounted_returns(walk(("a", "1")), 1.5)


def test_without_hindsight_a_step_that_changes_the_screen_had_an_effect() -> None:
    moved, stayed, unread = walk(("go", "there"), ("wait", "there"), ("?", "what?")).steps
    unread.valid = False
    assert [had_effect(step) for step in (moved, stayed, unread)] == [True, False, False]


def test_hindsight_knows_better_than_the_screen() -> None:
    refused, chosen = walk(("fly", "You cannot."), ("choose red", "You cannot."), hindsight=(False, True)).steps
    assert not had_effect(refused)
    assert had_effect(chosen)


def test_a_state_keeps_its_name_until_something_changes() -> None:
    played = walk(("fly", "No."), ("look", "A room."), ("go", "there"), ("fly", "No."), hindsight=(False, False, True))
    assert state_names(played) == ["start", "start", "start", "there"]
    played.steps[3].anchor = "the hall"
    assert state_names(played)[3] == "the hall"
