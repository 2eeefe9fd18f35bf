"""What a successful episode did that mattered: detours are left out, and what is left solves the game."""

from __future__ import annotations

from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.workflow import workflow
from tests.alfworld.slips import play

NOTHING = "Nothing happens."
START = "You are in a room."


def episode(*moves: str, won: bool = False, task: str = "put a mug on shelf") -> Trajectory:
    """Moves are ``action -> what the world answers``; without an arrow the world says "Nothing happens."."""
    trajectory = Trajectory("task 1", "pick", task, success=won, truncated=not won)
    observation = START
    for move in moves:
        action, _, answer = move.partition(" -> ")
        answer = answer or NOTHING
        trajectory.steps.append(Step(observation, action, 0.0, answer, observation))
        observation = answer
    if won:
        trajectory.steps[-1].reward = 1.0
    return trajectory


DESK = "go to desk 1 -> On the desk 1, you see a mug 1."
TAKE = "take mug 1 from desk 1 -> You pick up the mug 1."
SHELF = "go to shelf 2 -> On the shelf 2, you see nothing."
PUT = "move mug 1 to shelf 2 -> You move the mug 1."
DRAWER = "go to drawer 1 -> The drawer 1 is closed."
OPEN = "open drawer 1 -> The drawer 1 is open. In it, you see nothing."


def test_generalised_and_compact() -> None:
    assert workflow(episode(DESK, TAKE, SHELF, PUT, won=True)) == [
        "go to desk",
        "take mug",
        "go to shelf",
        "move mug",
    ]


def test_with_numbers_it_is_the_very_actions() -> None:
    won = episode(DESK, TAKE, SHELF, PUT, won=True)
    assert workflow(won, keep_numbers=True) == [step.action for step in won.steps]


def test_detours_are_left_out() -> None:
    won = episode(
        "look -> You look around.", DRAWER, OPEN, DESK, "take pen 1 from desk 1 -> You pick up the pen 1.",
        "move pen 1 to desk 1 -> You move the pen 1.", "fly away", TAKE, "inventory -> You carry a mug 1.",
        DRAWER, "examine mug 1 -> A mug.", SHELF, PUT, won=True,
    )  # fmt: skip
    assert workflow(won) == ["go to desk", "take mug", "go to shelf", "move mug"]


def test_what_was_undone_is_left_out() -> None:
    won = episode(
        DESK, TAKE, "move mug 1 to desk 1 -> You move the mug 1.", TAKE, SHELF,
        "move mug 1 to shelf 2 -> You move the mug 1.", "take mug 1 from shelf 2 -> You pick up the mug 1.", PUT,
        won=True,
    )  # fmt: skip
    assert workflow(won) == ["go to desk", "take mug", "go to shelf", "move mug"]


def test_a_container_is_opened_once_where_it_is_needed() -> None:
    won = episode(
        DRAWER, OPEN, DESK, TAKE, DRAWER, "move mug 1 to drawer 1 -> You move the mug 1.",
        won=True, task="put a mug in drawer",
    )  # fmt: skip
    assert workflow(won) == ["go to desk", "take mug", "go to drawer", "open drawer", "move mug"]


def test_a_tool_that_was_needed_is_taken() -> None:
    won = episode(
        DESK, "take knife 1 from desk 1 -> You pick up the knife 1.", "go to fridge 1 -> It is closed.",
        "open fridge 1 -> In it, you see a apple 1.", "slice apple 1 with knife 1 -> You sliced the apple 1.",
        "move knife 1 to fridge 1 -> You move it.", "take apple 1 from fridge 1 -> You pick up the apple 1.",
        SHELF, "move apple 1 to shelf 2 -> You move the apple 1.", won=True, task="put a sliced apple on shelf",
    )  # fmt: skip
    plan = workflow(won)
    assert plan[:2] == ["go to desk", "take knife"]
    assert "slice apple with knife" in plan
    assert plan[-3:] == ["take apple", "go to shelf", "move apple"]


def test_the_last_action_is_the_goal_whatever_it_is() -> None:
    won = episode(DESK, TAKE, "go to lamp 1 -> A lamp.", "use lamp 1 -> It is on.", won=True, task="look at mug")
    assert workflow(won) == ["go to desk", "take mug", "go to lamp", "use lamp"]
    assert workflow(episode(SHELF, "go to desk 1 -> You are there.", won=True, task="visit the desk")) == ["go to desk"]


def test_the_older_wording() -> None:
    won = episode(DESK, TAKE, SHELF, "put mug 1 in/on shelf 2 -> You put the mug 1 in/on the shelf 2.", won=True)
    assert workflow(won) == ["go to desk", "take mug", "go to shelf", "put mug"]


def test_nothing_done() -> None:
    assert workflow(episode("fly", "look -> You look around.")) == []


def test_a_workflow_solves_the_game_it_came_from() -> None:
    """With its instances named, a plan without detours is a solution: replayed on the engine it wins."""
    won = [(seed, t) for seed in range(12) for k in range(6) if (t := play(seed, 0.45, 100 * seed + k)).success]
    assert len(won) > 30
    steps = planned = 0
    for seed, trajectory in won:
        engine = Engine(Game.compile(generate(seed, size="small")))
        engine.reset()
        plan = workflow(trajectory, keep_numbers=True)
        for action in plan:
            engine.step(action)
        assert engine.won
        steps, planned = steps + len(trajectory), planned + len(plan)
    assert planned < 0.6 * steps
