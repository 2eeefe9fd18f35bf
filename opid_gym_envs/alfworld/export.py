"""Writing a game as the files stock ALFWorld plays: ``game.tw-pddl`` and, beside it, ``traj_data.json``.

The rules written are the engine's own compact ones (`opid_gym_envs.alfworld.rules`), which read back as the
same game, in stock as here.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from opid_gym_envs.alfworld.catalogue import TYPE_NAMES
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import Unsolvable, solve
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.problem import GAME_FILE, TRAJECTORY_FILE, Formula, Problem
from opid_gym_envs.alfworld.rules import PREDICATES, domain_text, grammar_text


def game_file(problem: Problem) -> dict[str, Any]:
    """The content of ``game.tw-pddl`` for a game.

    `opid_gym_envs.alfworld.problem.parse_problem` gives the same game back (facts in another order; the id is
    the file's business).

    Args:
        problem: any game the engine plays.

    Returns:
        A JSON object with the keys ``pddl_domain``, ``grammar``, ``pddl_problem``, ``solvable`` and
        ``walkthrough`` (the expert's plan; None where it finds none, and then ``solvable`` is false and stock
        leaves the game out).

    Raises:
        RulesError: the task's words cannot be written in a grammar.
    """
    walkthrough: list[str] | None
    try:
        walkthrough = solve(Engine(Game.compile(problem)))
    except Unsolvable:
        walkthrough = None
    return {
        "pddl_domain": domain_text(problem.dialect),
        "grammar": grammar_text(problem.dialect, problem.task),
        "pddl_problem": problem_text(problem),
        "solvable": walkthrough is not None,
        "walkthrough": walkthrough,
    }


def problem_text(problem: Problem) -> str:
    """The PDDL problem: what there is, what holds at the start, and the goal."""
    kinds: dict[str, str] = dict(problem.idle)
    for fact in sorted(problem.facts, key=lambda fact: fact[0] in ("checked", "examined")):
        # Those two, sorted to the end, are said of anything: their own argument kinds are a last resort.
        for name, kind in zip(fact[1:], PREDICATES[fact[0]], strict=True):
            kinds.setdefault(name, kind)
    objects = "\n".join(f"  {name} - {kind}" for name, kind in sorted(kinds.items(), key=lambda item: item[::-1]))
    facts = "\n".join(f"  {_text(fact)}" for fact in sorted(problem.facts))
    return (
        f"(define (problem game)\n(:domain alfred)\n(:objects\n{objects})\n(:init\n{facts})\n"
        f"(:goal {_text(problem.goal)}))\n"
    )


def _text(formula: Formula) -> str:
    return formula if isinstance(formula, str) else f"({' '.join(map(_text, formula))})"


def trajectory_file(problem: Problem) -> dict[str, Any]:
    """The content of ``traj_data.json``: the part of ALFRED's annotations that ALFWorld reads."""
    words = _goal_types(problem.goal)
    name = PurePosixPath(problem.id)
    scene = name.parent.name.rpartition("-")[2]
    return {
        "task_type": problem.task_type,
        "task_id": name.name,
        "pddl_params": {
            "object_target": words.get("objecttype", ""),
            "parent_target": words.get("receptacletype", ""),
            "toggle_target": words.get("lamp", ""),
            "mrecep_target": "",
            "object_sliced": "issliced" in words,
        },
        "turk_annotations": {"anns": [{"task_desc": problem.task, "high_descs": []}]},
        "scene": {"scene_num": int(scene) if scene.isdecimal() else 0},
    }


def _goal_types(goal: Formula) -> dict[str, str]:
    """The types that a goal of the usual forms names, as ALFRED spells them: of the thing, the receptacle, the lamp."""
    found: dict[str, str] = {}

    def visit(formula: Formula) -> None:
        if isinstance(formula, str):
            return
        if formula[0] == "issliced":
            found["issliced"] = ""
        elif formula[0] in ("objecttype", "receptacletype"):
            kind = formula[2].removesuffix("type")
            key = "lamp" if kind in ("desklamp", "floorlamp") else formula[0]
            found.setdefault(key, TYPE_NAMES.get(kind, kind))
        for part in formula:
            visit(part)

    visit(goal)
    return found


def export_game(problem: Problem, directory: str | Path) -> Path:
    """Write a game below a directory, in the folder its id names.

    Args:
        problem: any game the engine plays.
        directory: where stock is told to look for games, for instance; made if need be.

    Returns:
        The path of the ``game.tw-pddl``.

    Raises:
        ValueError: the id is no relative path below the directory.
        OSError: the files cannot be written.
    """
    name = PurePosixPath(problem.id)
    if not name.parts or name.is_absolute() or ".." in name.parts:
        raise ValueError(f"the id names the folder to write, so it must be a relative path; got {problem.id!r}")
    folder = Path(directory, *name.parts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / TRAJECTORY_FILE).write_text(json.dumps(trajectory_file(problem), indent=1), encoding="utf-8")
    path = folder / GAME_FILE
    path.write_text(json.dumps(game_file(problem)), encoding="utf-8")
    return path
