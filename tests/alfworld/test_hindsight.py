"""What can be seen of an episode afterwards, step by step."""

from __future__ import annotations

import random

import pytest

from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import solve
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.hindsight import SUBGOALS, hindsight
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect, Problem


def record(problem: Problem, commands: list[str]) -> Trajectory:
    engine = Engine(Game.compile(problem))
    trajectory = Trajectory(problem.id, problem.task_type, problem.task)
    observation = engine.reset()
    for command in commands:
        answer = engine.step(command)
        trajectory.steps.append(Step(observation, command, float(engine.won), answer))
        observation = answer
        if engine.won:
            trajectory.success = True
            break
    return trajectory


def told(task: str, *turns: tuple[str, str], success: bool = False) -> list[StepProgress]:
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
