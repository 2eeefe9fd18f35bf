"""Exported games read back as the same games."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.export import export_game, game_file, trajectory_file
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import GeneratedSplit, generate
from opid_gym_envs.alfworld.library import official_games
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem, load_problem, parse_problem
from opid_gym_envs.alfworld.rules import RulesError
from tests.alfworld.households import extract_games


def alike(a: Problem, b: Problem) -> bool:
    """Equal but for the order of the facts."""
    return set(a.facts) == set(b.facts) and replace(a, facts=()) == replace(b, facts=())


def won_by(problem: Problem, commands: Sequence[str]) -> bool:
    engine = Engine(Game.compile(problem))
    for command in commands:
        engine.step(command)
    return engine.won


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT], ids=lambda d: d.name)
@pytest.mark.parametrize("size", ["small", "real"])
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_game_file_reads_back_as_the_same_game(task_type: str, size: str, dialect: Dialect) -> None:
    for seed in range(3):
        problem = generate(seed, task_type=task_type, size=size, dialect=dialect)
        content = json.loads(json.dumps(game_file(problem)))
        assert sorted(content) == ["grammar", "pddl_domain", "pddl_problem", "solvable", "walkthrough"]
        assert alike(parse_problem(content, source=problem.id), problem)
        assert content["solvable"] is True
        assert won_by(problem, content["walkthrough"])


def test_official_format_games_survive_the_round_trip(tmp_path: Path) -> None:
    for path in extract_games(tmp_path / "in"):
        problem = load_problem(path)
        again = load_problem(export_game(problem, tmp_path / "out"))
        assert alike(again, problem)


def test_marks_hands_and_doors_survive_the_round_trip() -> None:
    problem = generate(0, task_type="pick_heat_then_place_in_recep", size="small")
    things = [fact[1] for fact in problem.facts if fact[0] == "pickupable"]
    fridge = next(fact[1] for fact in problem.facts if fact[0] == "receptacletype" and fact[2] == "fridgetype")
    odd = (
        ("ishot", things[0]),
        ("isclean", things[0]),
        ("issliced", things[1]),
        ("opened", fridge),
        ("holds", "agent1", things[2]),
        ("holdsany", "agent1"),
        ("inreceptacleobject", things[1], things[0]),
        ("checked", fridge),
        ("examined", "agent1"),
    )
    problem = replace(problem, facts=(*problem.facts, *odd))
    assert alike(parse_problem(game_file(problem), source=problem.id), problem)


def test_export_writes_what_the_official_data_has(tmp_path: Path) -> None:
    games = GeneratedSplit("valid_unseen", count=12)
    for problem in games:
        path = export_game(problem, tmp_path)
        assert path == tmp_path / problem.id / "game.tw-pddl"
        assert alike(load_problem(path), problem)
    library = official_games(tmp_path, "valid_unseen")
    assert set(library.ids) == set(games.task_ids)
    assert {library.load(task_id).task_type for task_id in library.ids} == set(TASK_TYPES)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_annotations_name_the_parts_of_the_task(task_type: str) -> None:
    problem = generate(7, task_type=task_type)
    name, thing, _, target, scene = problem.id.split("/")[-2].split("-")
    content = trajectory_file(problem)
    lamp = task_type == "look_at_obj_in_light"
    assert content["task_type"] == name
    assert content["task_id"] == "trial_7"
    assert content["scene"] == {"scene_num": int(scene)}
    assert content["turk_annotations"]["anns"][0]["task_desc"] == problem.task
    assert content["pddl_params"] == {
        "object_target": thing,
        "parent_target": "" if lamp else target,
        "toggle_target": target if lamp else "",
        "mrecep_target": "",
        "object_sliced": False,
    }


def test_a_game_nobody_can_solve_is_marked_so() -> None:
    problem = generate(0, task_type="pick_heat_then_place_in_recep", size="small")
    facts = tuple(fact for fact in problem.facts if fact[-1] != "microwavetype")
    content = game_file(replace(problem, facts=facts))
    assert content["solvable"] is False
    assert content["walkthrough"] is None


@pytest.mark.parametrize("id_", ["/etc/game", "../game", "a/../../game", ""])
def test_an_id_that_leads_elsewhere_is_refused(id_: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be a relative path"):
        export_game(replace(generate(0, size="small"), id=id_), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_task_that_would_break_the_grammar_is_refused() -> None:
    with pytest.raises(RulesError, match="task cannot contain '#'"):
        game_file(replace(generate(0, size="small"), task="put a #mug# in desk"))
