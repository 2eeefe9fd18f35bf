"""Games for tests: the recorded ones, and small odd households made at random, full of what real games rarely have."""

from __future__ import annotations

import gzip
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opid_gym_envs.alfworld.export import problem_text
from opid_gym_envs.alfworld.problem import Dialect, Fact, Formula, Problem
from opid_gym_envs.alfworld.rules import domain_text, grammar_text

DATA = Path(__file__).parents[1] / "data" / "alfworld"

# Id stem -> type. The capital letters of the originals do not matter, the "basin" does.
RECEPTACLES = {
    "cabinet": "cabinettype",
    "countertop": "countertoptype",
    "fridge": "fridgetype",
    "microwave": "microwavetype",
    "sink": "sinkbasintype",
}
THINGS = {
    "apple": "appletype",
    "mug": "mugtype",
    "knife": "knifetype",
    "butterknife": "butterknifetype",
    "desklamp": "desklamptype",
    "box": "boxtype",
}
PROPERTIES = ("pickupable", "cleanable", "heatable", "coolable", "sliceable", "toggleable", "isreceptacleobject")
MARKS = ("isclean", "ishot", "iscool", "issliced", "istoggled", "ison")


def extract_games(folder: Path) -> list[Path]:
    """Unpack the 17 shared game files below a folder; returns their paths, sorted."""
    for name in ("games.tar.gz", "games_old_generation.tar.gz"):
        with tarfile.open(DATA / name) as archive:
            archive.extractall(folder, filter="data")
    return sorted(folder.rglob("game.tw-pddl"))


def transcripts() -> list[dict[str, Any]]:
    """The episodes recorded from the original: ``game`` (a path below the folder) and ``steps``."""
    episodes = []
    for name in ("stock_transcripts.jsonl.gz", "stock_transcripts_old_generation.jsonl.gz"):
        with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
            episodes += [json.loads(line) for line in file]
    return episodes


def make_problem(
    facts: Sequence[Fact], goal: Formula, dialect: Dialect = Dialect.MOVE, task: str = "tidy up"
) -> Problem:
    return Problem("test/game", task, "unknown", tuple(dict.fromkeys(facts)), goal, dialect)


def game_data(problem: Problem) -> dict[str, Any]:
    """What a game file of the problem holds."""
    return {
        "pddl_domain": domain_text(problem.dialect),
        "grammar": grammar_text(problem.dialect, problem.task),
        "pddl_problem": problem_text(problem),
        "solvable": True,
        "walkthrough": None,
    }


def write_game(problem: Problem, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(game_data(problem)), encoding="utf-8")
    return path


def random_household(rng: random.Random, dialect: Dialect = Dialect.MOVE) -> Problem:
    """A small game at odds with most assumptions.

    Receptacles share locations or have two; things are in several receptacles or somewhere else than they are said to
    be, are held, sliced, hot and cool from the start, have no type or two, contain each other, or bear no number.
    """
    places = [f"loc_bar_{n}_bar__minus_{n}" for n in range(rng.randint(2, 4))]
    facts: list[Fact] = [("atlocation", "agent1", rng.choice([*places, "loc_bar_9_bar_9"]))]
    receptacles, things = [], []
    for stem, kind in RECEPTACLES.items():
        for number in range(rng.choice([0, 1, 1, 2])):
            name = f"{stem}_bar__plus_0{number}_dot_{rng.randint(10, 99)}" + "_bar_sinkbasin" * (stem == "sink")
            receptacles.append(name)
            for _ in range(rng.choice([1, 1, 1, 1, 2])):
                facts.append(("receptacleatlocation", name, rng.choice(places)))
            if rng.random() < 0.9:
                facts.append(("receptacletype", name, kind))
            for predicate in ("openable", "opened"):
                if rng.random() < (0.5 if stem in ("cabinet", "fridge", "microwave") else 0.1):
                    facts.append((predicate, name))
    if not receptacles:
        return random_household(rng, dialect)
    for stem, kind in THINGS.items():
        for number in range(rng.choice([1, 1, 2])):
            name = stem if rng.random() < 0.1 else f"{stem}_bar__minus_0{number}_dot_{rng.randint(10, 99)}"
            things.append(name)
            facts.append(("objecttype", name, kind if rng.random() < 0.9 else rng.choice(list(THINGS.values()))))
            for _ in range(rng.choice([0, 1, 1, 1, 2])):
                facts.append(("inreceptacle", name, rng.choice(receptacles)))
            for _ in range(rng.choice([0, 1, 1, 2])):
                facts.append(("objectatlocation", name, rng.choice(places)))
            facts += [(predicate, name) for predicate in PROPERTIES if rng.random() < 0.6]
            facts += [(predicate, name) for predicate in MARKS if rng.random() < 0.08]
    for _ in range(rng.choice([0, 0, 1, 3])):
        facts.append(("inreceptacleobject", rng.choice(things), rng.choice(things)))
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        facts.append(("holds", "agent1", rng.choice(things)))
    if any(fact[0] == "holds" for fact in facts) and rng.random() < 0.7:
        facts.append(("holdsany", "agent1"))
    kinds = sorted({fact[2] for fact in facts if fact[0] == "receptacletype"})
    facts += [("cancontain", kind, other) for kind in kinds for other in THINGS.values() if rng.random() < 0.8]
    rng.shuffle(facts)
    return make_problem(facts, random_goal(rng, places, receptacles, things), dialect)


def random_goal(rng: random.Random, places: list[str], receptacles: list[str], things: list[str]) -> Formula:
    """A goal with quantifiers of both kinds, over facts that play can change and facts it cannot."""
    ids = {"object": things, "receptacle": receptacles, "location": places, "agent": ["agent1"]}
    ids["otype"] = list(THINGS.values())
    shapes: list[tuple[str, ...]] = [
        ("inreceptacle", "object", "receptacle"),
        ("inreceptacle", "object", "receptacle"),
        ("opened", "receptacle"),
        ("holds", "agent", "object"),
        ("holdsany", "agent"),
        ("atlocation", "agent", "location"),
        ("objectatlocation", "object", "location"),
        ("receptacleatlocation", "receptacle", "location"),
        ("objecttype", "object", "otype"),
        ("pickupable", "object"),
        ("openable", "receptacle"),
        ("checked", "receptacle"),
        ("checked", "object"),
        ("checked", "agent"),
        ("=", "object", "object"),
        *((mark, "object") for mark in MARKS),
    ]

    def atom(scope: dict[str, str]) -> Formula:
        predicate, *kinds = rng.choice(shapes)
        arguments = []
        for kind in kinds:
            variables = [name for name, other in scope.items() if other == kind]
            arguments.append(rng.choice(variables if variables and rng.random() < 0.85 else ids[kind]))
        return (predicate, *arguments)

    def formula(depth: int, scope: dict[str, str]) -> Formula:
        choice = rng.random()
        if depth == 0 or choice < 0.25:
            return ("not", atom(scope)) if rng.random() < 0.3 else atom(scope)
        if choice < 0.5:
            return (rng.choice(("and", "or")), *(formula(depth - 1, scope) for _ in range(rng.randint(1, 3))))
        if choice < 0.57:
            return ("imply", formula(depth - 1, scope), formula(depth - 1, scope))
        if choice < 0.64:
            return ("not", formula(depth - 1, scope))
        # Names are sometimes used again inside, where they mean something else.
        added = {
            f"?x{rng.randint(0, 3)}": rng.choice(["object", "receptacle", "location"])
            for _ in range(rng.choice([1, 1, 2]))
        }
        variables = tuple(word for name, kind in added.items() for word in (name, "-", kind))
        return (rng.choice(("exists", "exists", "forall")), variables, formula(depth - 1, {**scope, **added}))

    return ("and", formula(3, {}), formula(1, {}))
