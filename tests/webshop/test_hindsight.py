"""What can be seen of a visit afterwards, step by step."""

from __future__ import annotations

import gymnasium as gym
import pytest

from opid_gym.hindsight import StepProgress
from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.webshop.hindsight import SUBGOALS, hindsight
from tests.webshop.stock_data import FOLDER

GOAL = {
    "asin": "B0NASTY001",
    "category": "fashion",
    "query": "",
    "name": "Title",
    "product_category": "",
    "instruction_text": "find me a swimsuit with color: café, and size: small",
    "attributes": ["machine wash"],
    "price_upper": 50.0,
    "goal_options": {"color": "café", "size": "small"},
}


def played(mode: str, *actions: str) -> list[StepProgress]:
    env = gym.make("opid/WebShop-v0", data_dir=FOLDER, observation_mode=mode)
    observation, info = env.reset(options={"goal": GOAL})
    trajectory = Trajectory(info["task_id"], info["task_type"], info["task"])
    for action in actions:
        after, reward, _, _, info = env.step(action)
        trajectory.steps.append(Step(observation, action, float(reward), after))
        observation = after
    trajectory.success = info["won"]
    return env.unwrapped.world.hindsight(trajectory)  # type: ignore[attr-defined]


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_a_purchase_is_told_step_by_step(mode: str) -> None:
    progress = played(
        mode,
        "search[quick drying swimsuits]",
        "search[title with bold and quotes]",
        "click[b0nasty001]",
        "click[medium]",
        "click[small]",
        "click[small]",
        "click[features]",
        "click[< prev]",
        "click[nonsense]",
        "click[Café]",
        "look around",
        "click[buy now]",
    )
    assert [step.reached for step in progress] == [
        (), ("found the product",), ("opened the product",), (), ("chose an option",), (), (), (), (),
        ("chose all options",), (), ("bought", "won"),
    ]  # fmt: skip
    assert [step.wasted for step in progress] == [number in (5, 8, 10) for number in range(12)]
    assert all(step.changed_state != step.wasted for step in progress)
    assert {goal for step in progress for goal in step.reached} <= set(SUBGOALS)


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_without_a_purchase_no_product_is_known_to_be_wanted(mode: str) -> None:
    progress = played(mode, "search[title with bold and quotes]", "click[b0nasty001]", "click[small]", "click[small]")
    assert [step.reached for step in progress] == [(), (), (), ()]
    assert [step.changed_state for step in progress] == [True, True, True, False]


def test_going_back_to_the_results_forgets_the_options() -> None:
    back = ("click[< prev]", "click[b0nasty001]", "click[small]")
    progress = played("text", "search[title with bold and quotes]", "click[b0nasty001]", "click[small]", *back)
    assert progress[-1].changed_state


def test_an_empty_episode_has_no_progress() -> None:
    assert hindsight(Trajectory("id", "type", "buy something")) == []
