"""The planner solves everything that can be solved, from wherever it is asked."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import Unsolvable, solve
from opid_gym_envs.alfworld.game import COOL, HOT, SLICED, Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem, load_problem
from tests.alfworld.households import extract_games


@pytest.fixture(scope="module")
def shared_games(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return [load_problem(path) for path in extract_games(tmp_path_factory.mktemp("games"))]


def play(engine: Engine, commands: list[str]) -> None:
    for command in commands:
        assert command in engine.admissible_commands()
        assert not engine.won
        engine.step(command)


def assert_solves(engine: Engine) -> list[str]:
    before = engine.state_key()
    plan = solve(engine)
    assert engine.state_key() == before
    play(engine, plan)
    assert engine.won
    return plan


def start(problem: Problem, goal: Any = None) -> Engine:
    return Engine(Game.compile(problem if goal is None else replace(problem, goal=goal)))


def wander(engine: Engine, rng: random.Random, steps: int) -> None:
    """Play at random, with a liking for commands that change things."""
    for _ in range(steps):
        commands = engine.admissible_commands()
        doing = [c for c in commands if not c.startswith(("go to", "examine", "look", "help", "inventory"))]
        engine.step(rng.choice(doing if doing and rng.random() < 0.6 else commands))


# --------------------------------------------------------------------------------------- it solves every game


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT], ids=lambda d: d.name)
@pytest.mark.parametrize("size", ["small", "real"])
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_generated_games(task_type: str, size: str, dialect: Dialect) -> None:
    longest = {"pick_and_place_simple": 6, "look_at_obj_in_light": 5, "pick_two_obj_and_place": 12}.get(task_type, 8)
    for seed in range(20):
        plan = assert_solves(start(generate(seed, task_type=task_type, size=size, dialect=dialect)))
        assert 0 < len(plan) <= longest


def test_the_shared_official_format_games(shared_games: list[Problem]) -> None:
    assert len(shared_games) == 17
    for problem in shared_games:
        assert_solves(start(problem))


def test_any_state_that_play_leads_to(shared_games: list[Problem]) -> None:
    games = [*shared_games, *(generate(seed, size=("small", "real")[seed % 2]) for seed in range(40))]
    for number, problem in enumerate(games):
        rng = random.Random(number)
        for _ in range(3):
            engine = start(problem)
            wander(engine, rng, rng.randrange(5, 60))
            plan = solve(engine)
            assert (plan == []) == engine.won
            assert_solves(engine)


def test_plans_are_the_shortest_where_that_can_be_checked() -> None:
    """Against a search that knows nothing but the commands: in fewer steps it wins nowhere."""

    def can_win(engine: Engine, steps: int) -> bool:
        states = {engine.state_key(): engine}
        for _ in range(steps):
            reached = {}
            for state in states.values():
                for command in state.admissible_commands():
                    if not command.startswith(("examine", "look", "inventory", "help", "close")):
                        after = state.copy()
                        after.step(command)
                        if after.won:
                            return True
                        reached[after.state_key()] = after
            states = reached
        return False

    for seed in range(6):
        for task_type in ("look_at_obj_in_light", "pick_and_place_simple"):
            engine = start(generate(seed, task_type=task_type, size="small"))
            plan = solve(engine)
            if len(plan) <= 5:
                assert not can_win(engine, len(plan) - 1)
                assert can_win(engine, len(plan))


# ------------------------------------------------------------------------------------------- named situations


def kitchen(task_type: str, seed: int = 0) -> Engine:
    return start(generate(seed, task_type=task_type, room="kitchen", size="real"))


def test_hands_full_of_something_else() -> None:
    tried = 0
    for seed in range(20):
        engine, rng = kitchen("pick_heat_then_place_in_recep", seed), random.Random(seed)
        while not engine.held:
            wander(engine, rng, 1)
        name = engine.game.object_names[engine.held[0]]
        if not name.startswith(engine.game.problem.task.split()[2]):
            tried += 1
            plan = assert_solves(engine)
            assert next(command for command in plan if name in command).startswith(f"move {name} to ")
    assert tried > 10


def test_hot_already() -> None:
    engine = kitchen("pick_heat_then_place_in_recep")
    plan = solve(engine)
    heat = next(i for i, command in enumerate(plan) if command.startswith("heat"))
    play(engine, plan[: heat + 1])
    assert assert_solves(engine) == plan[heat + 1 :]


def test_hot_and_then_cooled_again() -> None:
    engine = kitchen("pick_heat_then_place_in_recep")
    plan = solve(engine)
    heat = next(i for i, command in enumerate(plan) if command.startswith("heat"))
    play(engine, plan[: heat + 1])
    thing = engine.held[0]
    engine.step("go to fridge 1")
    engine.step(f"cool {engine.game.object_names[thing]} with fridge 1")
    assert engine.marks(thing) & (HOT | COOL) == COOL
    assert any(command.startswith("heat") for command in assert_solves(engine))


def test_in_place_but_not_yet_treated() -> None:
    engine = kitchen("pick_clean_then_place_in_recep", 3)
    for command in solve(engine):
        if not command.startswith("clean"):
            play(engine, [command])
    assert not engine.held
    assert not engine.won
    assert any(command.startswith("clean") for command in assert_solves(engine))


def test_one_of_two_is_there() -> None:
    for seed in range(5):
        engine = start(generate(seed, task_type="pick_two_obj_and_place"))
        plan = solve(engine)
        first = next(i for i, command in enumerate(plan) if command.startswith("move"))
        play(engine, plan[: first + 1])
        assert assert_solves(engine) == plan[first + 1 :]


def test_start_at_a_receptacle_and_receptacles_that_share_a_spot() -> None:
    """Between receptacles at one location "go to" is refused, so a plan must do without."""
    problem = generate(1, task_type="pick_cool_then_place_in_recep", size="small")
    spots = {r: spot for name, r, spot in (f for f in problem.facts if f[0] == "receptacleatlocation")}
    one = next(iter(spots.values()))
    facts = tuple(
        (f[0], f[1], one) if f[0] in ("receptacleatlocation", "objectatlocation", "atlocation") else f
        for f in problem.facts
    )
    engine = start(replace(problem, facts=facts))
    assert not any(command.startswith("go to") for command in engine.admissible_commands())
    assert not any(command.startswith("go to") for command in assert_solves(engine))


def test_a_thing_in_two_receptacles() -> None:
    problem = generate(2, task_type="pick_clean_then_place_in_recep", room="kitchen", size="small")
    thing = next(f[1] for f in problem.facts if f[0] == "objecttype" and f[2] == problem.goal[1][2][2][2][2])
    fridge = next(f[1] for f in problem.facts if f[0] == "receptacletype" and f[2] == "fridgetype")
    assert_solves(start(replace(problem, facts=(*problem.facts, ("inreceptacle", thing, fridge)))))


# --------------------------------------------------------------------------------------- goals of other forms


def with_type(problem: Problem, kind: str) -> list[str]:
    return [f[1] for f in problem.facts if f[0] in ("objecttype", "receptacletype") and f[2] == kind]


@pytest.fixture(scope="module")
def stocked_kitchen() -> Problem:
    """A small kitchen with something to slice, a knife, and three of one kind of thing."""
    wanted = {"knifetype", "potatotype", "countertoptype"}
    for seed in range(2000):
        problem = generate(seed, room="kitchen", size="small")
        if wanted <= {f[2] for f in problem.facts if f[0] in ("objecttype", "receptacletype")}:
            return problem
    raise AssertionError("no such kitchen")


def a_potato(*parts: tuple[Any, ...]) -> tuple[Any, ...]:
    return ("exists", ("?o", "-", "object"), ("and", ("objecttype", "?o", "potatotype"), *parts))


def in_a(kind: str) -> tuple[Any, ...]:
    return ("exists", ("?r", "-", "receptacle"), ("and", ("receptacletype", "?r", kind), ("inreceptacle", "?o", "?r")))


def test_sliced_goals(stocked_kitchen: Problem) -> None:
    for parts in (
        [("issliced", "?o")],
        [("issliced", "?o"), in_a("fridgetype")],
        [("issliced", "?o"), ("ishot", "?o"), in_a("countertoptype")],
        [("issliced", "?o"), ("isclean", "?o"), ("iscool", "?o"), in_a("microwavetype")],
        [("issliced", "?o"), ("exists", ("?a", "-", "agent"), ("holds", "?a", "?o"))],
    ):
        engine = start(stocked_kitchen, a_potato(*parts))
        plan = assert_solves(engine)
        assert any(engine.marks(o) & SLICED for o in range(len(engine.game.objects)))
        assert any(command.startswith("slice potato") for command in plan)
        for seed in range(5):  # whatever is in the hands, and wherever things have got to
            engine.reset()
            wander(engine, random.Random(seed), 30)
            assert_solves(engine)


def test_goals_with_every_connective(stocked_kitchen: Problem) -> None:
    fridge, microwave = (with_type(stocked_kitchen, kind)[0] for kind in ("fridgetype", "microwavetype"))
    all_potatoes = (
        "forall",
        ("?o", "-", "object"),
        ("imply", ("objecttype", "?o", "potatotype"), ("inreceptacle", "?o", fridge)),
    )
    for goal in (
        all_potatoes,
        ("and", all_potatoes, ("not", ("opened", fridge)), ("opened", microwave)),
        ("or", ("and", ("opened", fridge), ("opened", microwave)), all_potatoes),
        ("not", a_potato(("not", ("iscool", "?o")))),  # all are cool
        ("exists", ("?a", "-", "agent"), ("holdsany", "?a")),
        ("and", a_potato(("ishot", "?o")), ("exists", ("?a", "-", "agent"), ("not", ("holdsany", "?a")))),
        ("checked", fridge),
    ):
        assert_solves(start(stocked_kitchen, goal))


def test_a_goal_that_holds_needs_no_plan(stocked_kitchen: Problem) -> None:
    assert solve(start(stocked_kitchen, ("and",))) == []


@pytest.mark.parametrize(
    "goal",
    [
        ("or",),
        a_potato(in_a("stoveburnertype")),  # no such thing here, and it would not hold a potato
        ("exists", ("?r", "-", "receptacle"), ("full", "?r")),  # nothing brings that about
        a_potato(("and", ("ishot", "?o"), ("iscool", "?o"))),
    ],
)
def test_what_cannot_be_done_is_said(stocked_kitchen: Problem, goal: Any) -> None:
    engine = start(stocked_kitchen, goal)
    before = engine.state_key()
    with pytest.raises(Unsolvable, match=f"no plan found for game '{stocked_kitchen.id}'"):
        solve(engine, max_nodes=500)
    assert engine.state_key() == before


def test_a_missing_appliance_makes_a_game_unsolvable() -> None:
    problem = generate(0, task_type="pick_heat_then_place_in_recep", size="small")
    microwave = with_type(problem, "microwavetype")[0]
    facts = tuple(f for f in problem.facts if f[:2] != ("receptacletype", microwave))
    with pytest.raises(Unsolvable):
        solve(start(replace(problem, facts=facts)), max_nodes=500)
