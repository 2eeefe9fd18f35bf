"""The library of skills, and controls that swap them."""

import random

import pytest
from opid_agents.skills.controls import other_task_skills, shuffle_skills
from opid_agents.skills.extract import Skills
from opid_agents.skills.library import LibrarySkill, SkillLibrary, append, successes
from opid_agents.skills.route import Route

from opid_gym.trajectory import Trajectory


def entry(task: str, skill: str, *, kind: str = "heat", iteration: int = 1) -> LibrarySkill:
    return LibrarySkill(iteration, kind, task, skill)


def test_the_most_similar_task_of_the_type_answers():
    entries = [entry("heat an egg", "A"), entry("heat a mug", "B"), entry("heat a mug", "C", kind="cool")]
    library = SkillLibrary(entries=entries)
    assert library.look_up("heat some mug", "heat") == "B"
    assert library.look_up("heat the egg", "heat") == "A"
    assert library.look_up("heat the egg", "clean") is None


def test_of_equals_the_newest_answers_and_the_oldest_are_forgotten():
    library = SkillLibrary(size=2, entries=[entry("heat an egg", text) for text in "ABA"])
    assert library.look_up("heat an egg", "heat") == "A"
    library.add([entry("heat an egg", "C")])
    assert len(library) == 2
    library.add([entry("heat an egg", "D")])
    assert library.look_up("heat an egg", "heat") == "D"


def test_only_successes_are_kept_and_the_file_gives_them_back(tmp_path):
    won, lost = Trajectory("1", "heat", "heat an egg", success=True), Trajectory("2", "heat", "heat a mug")
    found = successes(3, [won, lost, won], [Skills("", "use the microwave"), Skills("", "avoid it"), None])
    assert found == [LibrarySkill(3, "heat", "heat an egg", "use the microwave")]
    assert len(SkillLibrary.load(tmp_path / "library.jsonl")) == 0
    append(tmp_path / "library.jsonl", found)
    append(tmp_path / "library.jsonl", [entry("heat a pan", "hold it")])
    library = SkillLibrary.load(tmp_path / "library.jsonl")
    assert len(library) == 2
    assert library.look_up("heat a pan", "heat") == "hold it"


def test_a_library_of_nothing():
    with pytest.raises(ValueError, match="size must be >= 1, got 0"):
        SkillLibrary(size=0)


ROUTES = [Route("E1", None), Route(None, "S1"), Route(), Route("E2", "S2"), Route("E3", None)]
TASKS = ["a", "a", "a", "b", "c"]


def kinds(routes):
    return [(way.episode is not None, way.step is not None) for way in routes]


def test_shuffled_skills_are_real_ones_on_the_same_steps():
    seen = set()
    for seed in range(20):
        routes = shuffle_skills(ROUTES, random.Random(seed))
        assert kinds(routes) == kinds(ROUTES)
        assert {way.episode for way in routes} <= {"E1", "E2", "E3", None}
        assert {way.step for way in routes} <= {"S1", "S2", None}
        seen.add(tuple(routes))
    assert len(seen) > 5


def test_skills_of_another_task_are_never_ones_own():
    for seed in range(20):
        routes = other_task_skills(ROUTES, TASKS, random.Random(seed))
        assert kinds(routes) == kinds(ROUTES)
        assert routes[0].episode in ("E2", "E3")
        assert routes[1].step == "S2"
        assert routes[3] in (Route("E1", "S1"), Route("E3", "S1"))


def test_where_no_other_task_has_a_skill_none_is_heard():
    assert other_task_skills([Route("E1", "S1"), Route("E2", None)], ["a", "b"], random.Random(0))[0] == Route("E2")
