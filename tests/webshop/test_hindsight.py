"""What can be seen of a visit afterwards, step by step."""

from __future__ import annotations

import gymnasium as gym
import pytest

from opid_gym.hindsight import StepHindsight
from opid_gym.trajectory import Step, Trajectory
from opid_gym_envs.webshop.hindsight import SUBGOALS, hindsight
from opid_gym_envs.webshop.reading import Instruction
from opid_gym_envs.webshop.session import SEARCH_ACTION
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


def played(mode: str, *actions: str) -> list[StepHindsight]:
    env = gym.make("opid/WebShop-v0", data_dir=FOLDER, observation_mode=mode)
    observation, info = env.reset(options={"goal": GOAL})
    trajectory = Trajectory(info["task_id"], info["task_type"], info["task"])
    for action in actions:
        admissible = info["admissible_actions"]
        after, reward, _, _, info = env.step(action)
        trajectory.steps.append(Step(observation, action, float(reward), after, admissible_actions=admissible))
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


OPENED = ("search[title with bold and quotes]", "click[b0nasty001]")


@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_options_that_the_instruction_names_come_before_buying(mode: str) -> None:
    told = played(mode, *OPENED, "click[medium]", "click[small]", "click[buy now]")
    assert [look.better for look in told[1:]] == [None, "click[small]", None, "click[café]"]
    assert [look.decisive for look in told[1:]] == [False, True, False, True]
    assert "'café'" in told[-1].reason


def test_a_search_leaves_nothing_out_that_the_instruction_names() -> None:
    task = "Find me soft blue mugs with size: big, and color: sky blue, and price lower than 20.00 dollars"

    def at(action: str, task: str = task) -> StepHindsight:
        actions = (SEARCH_ACTION, "click[search]")
        step = Step("Search", action, 0.0, "another page", admissible_actions=actions)
        return hindsight(Trajectory("id", "type", task, [step]))[0]

    for short in ("search[mugs]", "search[Soft blue mugs]", "search[soft blue mugs with size: big]", "search[]"):
        assert (at(short).better, at(short).decisive) == (
            "search[soft blue mugs with size: big, and color: sky blue]",
            False,
        )
    assert at("search[big soft mug, sky blue, color and size]").better is None
    assert at("search[mug]", "i need a mug that is soft and blue").better is None  # a person's words are many


def test_a_product_without_an_option_that_is_named_is_not_bought() -> None:
    def at(task: str) -> StepHindsight:
        page = ITEM.format(task, "$9.99")
        steps = [
            Step(page, deed, 0.0, page, admissible_actions=ITEM_ACTIONS) for deed in ("click[big]", "click[buy now]")
        ]
        return hindsight(Trajectory("id", "type", task, steps))[-1]

    for lacking in ("size: huge", "size: big, and color: red"):
        look = at(f"Find me mugs with {lacking}, and price lower than 20.00 dollars")
        assert (look.better, look.decisive) == ("click[< prev]", True)
        assert "does not have" in look.reason
    for sold in ("size: big", "lid with size: big", "soft grip, a lid for tea with size: big"):
        assert at(f"Find me mugs with {sold}, and price lower than 20.00 dollars").better is None
    assert at("i need a mug with color: red").better is None  # a person's


HEAD = "Instruction: [SEP] {} [SEP] Back to Search [SEP] "
ITEM = HEAD + "< Prev [SEP] Size [SEP] big [SEP] small [SEP] Soft mug [SEP] Price: {} [SEP] Rating: N.A. [SEP] Buy Now"
ITEM_ACTIONS = ("click[back to search]", "click[< prev]", "click[buy now]", "click[big]", "click[small]")


def test_what_is_chosen_and_affordable_is_bought_and_not_left() -> None:
    task = "Find me mugs with size: big, and price lower than 20.00 dollars"
    page = ITEM.format(task, "$9.99")

    def at(action: str, *chosen: str) -> StepHindsight:
        steps = [Step(page, deed, 0.0, page, admissible_actions=ITEM_ACTIONS) for deed in (*chosen, action)]
        return hindsight(Trajectory("id", "type", task, steps))[-1]

    for leaving in ("click[< prev]", "click[back to search]", "search[mugs]", "click[big]"):
        look = at(leaving, "click[big]")
        assert (look.better, look.decisive) == ("click[buy now]", True)
    assert at("click[< prev]").better is None  # not chosen yet
    assert at("click[< prev]", "click[big]", "click[small]").better is None  # and here no more


@pytest.mark.parametrize(
    ("price", "better"), [("$30.5", "click[< prev]"), ("$9.99", None), ("$15.0 to $1,030.5", None), ("", None)]
)
def test_a_price_above_the_limit_is_not_paid(price: str, better: str | None) -> None:
    task = "Find me blue mugs, and price lower than 20.00 dollars"
    page = ITEM.format(task, price)
    step = Step(page, "click[buy now]", 0.1, "Thank you for shopping with us!", admissible_actions=ITEM_ACTIONS)
    [look] = hindsight(Trajectory("id", "type", task, [step]))
    assert (look.better, look.decisive) == (better, better is not None)


RESULTS = HEAD + (
    "Page 1 (Total results: 3) [SEP] Next > [SEP] B000000001 [SEP] Steel pan [SEP] $9.0 [SEP] "
    "B000000002 [SEP] Soft blue mugs for tea [SEP] $8.0 [SEP] B000000003 [SEP] Soft blue mug for tea [SEP] $80.0"
)
LISTED = ("click[back to search]", "click[next >]", "click[b000000001]", "click[b000000002]", "click[b000000003]")


def test_a_clearly_better_match_stood_in_the_results() -> None:
    task = "Find me soft blue tea mugs with size: big, and price lower than 20.00 dollars"
    page = RESULTS.format(task)

    def at(action: str) -> StepHindsight:
        step = Step(page, action, 0.0, "another page", admissible_actions=LISTED)
        return hindsight(Trajectory("id", "type", task, [step]))[0]

    for other in ("click[b000000001]", "click[b000000003]"):  # hardly one of the words; above the limit
        assert (at(other).better, at(other).decisive) == ("click[b000000002]", False)
    assert at("click[b000000002]").better is None
    assert at("click[next >]").better is None  # a search that goes on


def test_instructions_say_which_value_of_an_option_is_meant() -> None:
    said = Instruction.read("Find me red mugs with size: 8 fl oz, and color: blue, and price lower than 9.00 dollars")
    assert said.named("size", ["1.8 fl oz", "8 fl oz"]) == "8 fl oz"
    assert said.named("color", ["red", "green"]) is None  # blue is asked for, which is not for sale
    person = Instruction.read("i need a red mug that holds 8 fl oz, and price lower than 9.00 dollars")
    assert person.named("color", ["red", "blue"]) == "red"
    assert person.named("volume", ["1.8 fl oz", "fl"]) == "fl"


def test_the_workflow_has_what_was_bought_and_no_ids() -> None:
    env = gym.make("opid/WebShop-v0", num_products=50)
    observation, info = env.reset(seed=3)
    trajectory = Trajectory(info["task_id"], info["task_type"], info["task"])
    while not info["won"]:
        action = env.unwrapped.expert_action()  # type: ignore[attr-defined]
        after, reward, _, _, info = env.step(action)
        trajectory.steps.append(Step(observation, action, float(reward), after))
        observation = after
    assert env.unwrapped.world.workflow(trajectory) == []  # type: ignore[attr-defined]  # not said to have succeeded
    trajectory.success = True
    phrases = env.unwrapped.world.workflow(trajectory)  # type: ignore[attr-defined]
    assert [phrase.split()[0] for phrase in (phrases[0], phrases[1], phrases[-1])] == ["search", "open", "buy"]
    asin = next(step.action[6:-1] for step in trajectory.steps if step.action.startswith("click[b0"))
    assert not any(asin in phrase for phrase in phrases)
