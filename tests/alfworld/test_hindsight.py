"""What can be seen of an episode afterwards, step by step."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from opid_gym.hindsight import StepHindsight
from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import solve
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.hindsight import SUBGOALS, hindsight
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem
from opid_gym_envs.alfworld.searching import demonstrate
from opid_gym_envs.alfworld.workflow import workflow


def record(problem: Problem, commands: list[str]) -> Trajectory:
    engine = Engine(Game.compile(problem))
    trajectory = Trajectory(problem.id, problem.task_type, problem.task)
    observation = engine.reset()
    for command in commands:
        admissible = tuple(engine.admissible_commands())
        answer = engine.step(command)
        trajectory.steps.append(Step(observation, command, float(engine.won), answer, admissible_actions=admissible))
        observation = answer
        if engine.won:
            trajectory.success = True
            break
    return trajectory


def told(task: str, *turns: tuple[str, str], success: bool = False) -> list[StepHindsight]:
    """Hindsight on an episode written down as (command, answer) pairs."""
    steps, observation = [], f"You are in the middle of a room.\n\nYour task is to: {task}."
    for command, answer in turns:
        steps.append(Step(observation, command, 0.0, answer))
        observation = answer
    return hindsight(Trajectory("id", "type", task, steps, success=success))


MUST_REACH = {
    "pick_and_place_simple": ["found the target", "took the target", "found the place", "won"],
    "look_at_obj_in_light": ["found the target", "took the target", "turned on the lamp", "won"],
    "pick_clean_then_place_in_recep": ["found the target", "took the target", "cleaned the target", "won"],
    "pick_heat_then_place_in_recep": ["found the target", "took the target", "heated the target", "won"],
    "pick_cool_then_place_in_recep": ["found the target", "took the target", "cooled the target", "won"],
    "pick_two_obj_and_place": ["took the target", "placed one", "took the second", "placed both", "won"],
}


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT], ids=lambda d: d.name)
@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_solution_reaches_its_sub_goals_in_order(task_type: str, dialect: Dialect) -> None:
    for seed in range(8):
        problem = generate(seed, task_type=task_type, dialect=dialect)
        plan = solve(Engine(Game.compile(problem)))
        progress = hindsight(record(problem, plan))
        reached = [goal for step in progress for goal in step.reached]
        assert len(progress) == len(plan)
        assert all(step.changed_state and not step.wasted for step in progress)
        assert len(reached) == len(set(reached))
        assert set(reached) <= set(SUBGOALS)
        assert [goal for goal in reached if goal in MUST_REACH[task_type]] == MUST_REACH[task_type]
        assert progress[-1].reached[-1] == "won"


def test_changes_are_those_of_the_game() -> None:
    """On random play, a step is said to change the state exactly when the engine's state changed.

    But for a lamp switched again: its switch moves, and nothing that text or task can tell.
    """
    for seed in range(30):
        problem = generate(("play", seed), size="small", dialect=(Dialect.MOVE, Dialect.PUT)[seed % 2])
        engine, rng = Engine(Game.compile(problem)), random.Random(seed)
        changed, used, commands = [], set(), []
        for _ in range(40):
            command = rng.choice([*engine.admissible_commands(), "dance", " look "])
            before = engine.state_key()
            engine.step(command)
            changed.append(engine.state_key() != before and command not in used)
            commands.append(command)
            if command.startswith("use "):
                used.add(command)
            if engine.won:
                break
        progress = hindsight(record(problem, commands))
        assert [step.changed_state for step in progress] == changed
        assert not any(step.wasted and step.changed_state for step in progress)


def test_waste() -> None:
    see = "On the desk 1, you see a mug 1."
    progress = told(
        "put a pen in drawer",
        ("go to desk 1", f"You arrive at desk 1. {see}"),
        ("examine desk 1", see),  # known since the arrival
        ("look", "You are facing the desk 1, and shelf 1. Next to it, you see nothing."),  # tells of the shelf
        ("look", "You are facing the desk 1, and shelf 1. Next to it, you see nothing."),
        ("dance", "Nothing happens."),
        ("inventory", "You are not carrying anything."),
        ("take mug 1 from desk 1", "You pick up the mug 1 from the desk 1."),
        ("examine desk 1", "On the desk 1, you see nothing."),  # to be expected
        ("examine mug 1", "There's nothing special about mug 1."),
        ("examine mug 1", "There's nothing special about mug 1."),
        ("help", "Available commands:\n  look\n"),
        ("help", "Available commands:\n  look\n"),
    )
    assert [step.wasted for step in progress] == [
        False, True, False, True, True, True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert [step.changed_state for step in progress] == [True] + 5 * [False] + [True] + 5 * [False]


def test_heating_twice_is_waste_and_cooling_in_between_is_not() -> None:
    heat = ("heat egg 1 with microwave 1", "You heat the egg 1 using the microwave 1.")
    cool = ("cool egg 1 with fridge 1", "You cool the egg 1 using the fridge 1.")
    progress = told("heat some egg and put it in fridge", heat, heat, cool, heat)
    assert [step.changed_state for step in progress] == [True, False, True, True]
    assert [step.wasted for step in progress] == [False, True, False, False]
    assert [step.reached for step in progress] == [("heated the target",), (), (), ()]


def test_things_of_other_types_are_no_sub_goals() -> None:
    progress = told(
        "put a clean mug in shelf",
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see a cup 1, and a pen 2."),
        ("take cup 1 from desk 1", "You pick up the cup 1 from the desk 1."),
        ("clean cup 1 with sinkbasin 1", "You clean the cup 1 using the sinkbasin 1."),
        ("heat mug 1 with microwave 1", "You heat the mug 1 using the microwave 1."),
    )
    assert [step.reached for step in progress] == [(), (), (), ()]


def test_two_things_count_only_in_the_same_place() -> None:
    take = ("take cd {} from desk 1", "You pick up the cd {} from the desk 1.")

    def turns(first: str, second: str) -> list[tuple[str, str]]:
        return [
            (take[0].format(1), take[1].format(1)),
            (f"move cd 1 to {first}", f"You move the cd 1 to the {first}."),
            (take[0].format(2), take[1].format(2)),
            (f"move cd 2 to {second}", f"You move the cd 2 to the {second}."),
        ]

    same = told("put two cd in drawer", *turns("drawer 1", "drawer 1"))
    apart = told("put two cd in drawer", *turns("drawer 1", "drawer 2"))
    assert [step.reached for step in same] == [
        ("took the target",), ("placed one",), ("took the second",), ("placed both",),
    ]  # fmt: skip
    assert apart[-1].reached == ()


def test_a_task_in_other_words_has_one_sub_goal() -> None:
    progress = told(
        "Warm up a potato and leave it in the basin.",
        ("heat potato 1 with microwave 1", "You heat the potato 1 using the microwave 1."),
        ("move potato 1 to sinkbasin 1", "You move the potato 1 to the sinkbasin 1."),
        success=True,
    )
    assert [step.reached for step in progress] == [(), ("won",)]


def test_an_empty_episode_has_no_progress() -> None:
    assert hindsight(Trajectory("id", "type", "put a mug in desk")) == []


def random_play(seed: int, steps: int = 40) -> Trajectory:
    problem = generate(("play", seed), size="small", dialect=(Dialect.MOVE, Dialect.PUT)[seed % 2])
    engine, rng = Engine(Game.compile(problem)), random.Random(seed)
    commands: list[str] = []
    for _ in range(steps):
        commands.append(rng.choice([*engine.admissible_commands(), "dance"]))
        engine.step(commands[-1])
        if engine.won:
            break
    return record(problem, commands)


def test_what_was_better_was_admissible_and_is_known_at_the_time() -> None:
    """The advice for a step follows from the record up to its observation: what comes after changes nothing."""
    advised = decisive = 0
    for seed in range(30):
        trajectory = random_play(seed)
        told = hindsight(trajectory)
        for number, (step, look) in enumerate(zip(trajectory.steps, told, strict=True)):
            assert look.better is None or look.better in (step.admissible_actions or ())
            assert look.better != step.action
            assert bool(look.better) == bool(look.reason) or look.wasted
            advised += look.better is not None
            decisive += look.decisive
            if number % 7 == 0:
                here = replace(step, next_observation="", reward=0.0)
                then = hindsight(replace(trajectory, steps=[*trajectory.steps[:number], here], success=False))[-1]
                assert trajectory.success or (then.better, then.decisive) == (look.better, look.decisive)
    assert 0 < decisive < advised


def test_solutions_and_the_readers_own_play_leave_nothing_to_say() -> None:
    for seed in range(20):
        problem = generate(("own", seed), size="small")
        engine = Engine(Game.compile(problem))
        commands = [command for _, command in demonstrate(engine, random.Random(problem.id))]
        assert [look.better for look in hindsight(record(problem, commands))] == [None] * len(commands)


KITCHEN = ("go to desk 1", "go to sinkbasin 1", "go to drawer 1", "inventory", "look")
HERE = (*KITCHEN, "examine desk 1", "take pen 1 from desk 1", "take mug 2 from desk 1", "take mug 3 from desk 1")
DESK = "You arrive at desk 1. On the desk 1, you see a mug 2, a mug 3, and a pen 1."


def last_look(task: str, *turns: tuple[str, str, tuple[str, ...]]) -> StepHindsight:
    """Hindsight of the last of some (command, answer, commands admissible before) turns."""
    observation = f"You are in the middle of a room.\n\nYour task is to: {task}."
    steps = []
    for command, answer, admissible in turns:
        steps.append(Step(observation, command, 0.0, answer, admissible_actions=admissible))
        observation = answer
    return hindsight(Trajectory("id", "type", task, steps))[-1]


def test_the_wanted_thing_was_in_sight_and_not_taken() -> None:
    go = ("go to desk 1", DESK, KITCHEN)
    look = last_look("put a clean mug in drawer", go, ("go to drawer 1", "The drawer 1 is closed.", HERE))
    assert (look.better, look.decisive) == ("take mug 2 from desk 1", True)
    assert look.reason == "The mug 2 is wanted, was in sight and could be taken."
    other = last_look("put a clean mug in drawer", go, ("take mug 3 from desk 1", "You pick up the mug 3.", HERE))
    assert other.better is None  # another of the kind does as well
    wrong = last_look("put a clean mug in drawer", go, ("take pen 1 from desk 1", "You pick up the pen 1.", HERE))
    assert (wrong.better, wrong.decisive) == ("take mug 2 from desk 1", True)


def test_the_thing_was_in_the_hand_and_its_place_was_there() -> None:
    take = ("take mug 2 from desk 1", "You pick up the mug 2 from the desk 1.", HERE)
    sink = (*KITCHEN, "examine mug 2", "examine sinkbasin 1", "clean mug 2 with sinkbasin 1")
    arrive = ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing.", KITCHEN)
    start = (("go to desk 1", DESK, KITCHEN), take)
    away = last_look("put a clean mug in drawer", *start, ("go to drawer 1", "", (*KITCHEN, "examine mug 2")))
    assert (away.better, away.decisive) == ("go to sinkbasin 1", False)
    look = last_look("put a clean mug in drawer", *start, arrive, ("look", "", sink))
    assert (look.better, look.decisive) == ("clean mug 2 with sinkbasin 1", True)
    open_drawer = (*KITCHEN, "examine mug 2", "examine drawer 1", "move mug 2 to drawer 1", "close drawer 1")
    there = ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is open. In it, you see nothing.", KITCHEN)
    put = last_look("put a mug in drawer", *start, there, ("close drawer 1", "You close the drawer 1.", open_drawer))
    assert (put.better, put.decisive) == ("move mug 2 to drawer 1", True)


def test_a_search_that_goes_on_is_not_corrected_and_one_that_stands_still_is() -> None:
    task = "put a cup in desk"
    new = last_look(task, ("go to sinkbasin 1", "On the sinkbasin 1, you see nothing.", KITCHEN))
    assert new.better is None
    refused = last_look(task, ("dance", "Nothing happens.", KITCHEN))
    assert refused.wasted
    assert not refused.decisive
    assert refused.better is not None
    assert refused.better.startswith("go to ")


def test_tasks_in_other_words_and_unknown_actions_get_no_advice() -> None:
    turns = (("dance", "Nothing happens.", KITCHEN),)
    assert last_look("Warm up a potato", *turns).better is None
    [look] = told("put a mug in desk", ("dance", "Nothing happens."))
    assert (look.better, look.wasted, look.reason) == (None, True, "This changed nothing and told nothing new.")


@pytest.mark.parametrize("dialect", [Dialect.MOVE, Dialect.PUT], ids=lambda d: d.name)
def test_the_workflow_of_a_solution_names_kinds_in_order(dialect: Dialect) -> None:
    for seed in range(8):
        problem = generate(seed, task_type="pick_clean_then_place_in_recep", dialect=dialect)
        phrases = workflow(record(problem, solve(Engine(Game.compile(problem)))))
        verbs = [phrase.split()[0] for phrase in phrases if phrase.split()[0] in ("take", "clean", "move", "put")]
        assert verbs in (["take", "clean", "move"], ["take", "clean", "put"])
        assert not any(character.isdigit() for phrase in phrases for character in phrase)
