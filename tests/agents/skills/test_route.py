"""Critical-first routing."""

import pytest
from opid_agents.skills.extract import Skills
from opid_agents.skills.route import Route, route

SKILLS = Skills("summary", "plan", {1: "do this", 3: "  ", 9: "beyond the end"})


def test_a_critical_step_hears_only_its_step_skill():
    assert route(SKILLS, 4) == [Route("plan"), Route(None, "do this"), Route("plan"), Route("plan")]


def test_additive_uses_both():
    assert route(SKILLS, 3, mode="additive") == [Route("plan"), Route("plan", "do this"), Route("plan")]


def test_a_skill_without_weight_is_not_used():
    assert route(SKILLS, 2, step_weight=0) == [Route("plan"), Route("plan")]
    assert route(SKILLS, 2, episode_weight=0) == [Route(), Route(None, "do this")]
    assert route(SKILLS, 2, mode="additive", episode_weight=0, step_weight=0) == [Route(), Route()]


def test_empty_skills_route_nothing():
    assert route(Skills("", " ", {0: ""}), 1) == [Route()]


def test_no_skills_route_nothing():
    assert route(None, 2) == [Route(), Route()]
    assert route(SKILLS, 0) == []


def test_errors():
    with pytest.raises(ValueError, match=r"unknown routing mode 'both'; allowed: \['step_priority', 'additive'\]"):
        route(SKILLS, 1, mode="both")
    with pytest.raises(ValueError, match="n_steps must be >= 0, got -1"):
        route(SKILLS, -1)
