"""`opid/WebShop-v0` from the outside."""

from __future__ import annotations

import copy
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from opid_agents.expert import ExpertAgent

import opid_gym
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.env import WebShop
from opid_gym_envs.webshop.goals import Goals
from tests.processes import printed
from tests.webshop.stock_data import FOLDER, stock_episodes, stock_goals

gym.register_envs(opid_gym)


def stock_actions(step: dict[str, Any]) -> tuple[str, ...]:
    search = ("search[<your query>]",) if step["search"] else ()
    return search + tuple(f"click[{text}]" for text in step["clickables"])


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize("mode", ["text", "rich"])
def test_stock_episodes_replay_byte_for_byte(human: bool, mode: str) -> None:
    """Observations, available actions, rewards and their parts of every recorded stock episode."""
    goals = stock_goals(human)
    env = gym.make(
        "opid/WebShop-v0",
        data_dir=FOLDER,
        goals="human" if human else "synthetic",
        observation_mode={"text": "text", "rich": "text_rich"}[mode],
        prices=goals["prices"],
        max_episode_steps=30,
    )
    world = env.unwrapped.world  # type: ignore[attr-defined]
    for episode in stock_episodes(human):
        start, *steps = episode["steps"]
        goal = world.goals[episode["goal"]]
        record = {**goals["goals"][episode["goal"]]}
        for name in ("category", "query", "name", "product_category"):
            record.setdefault(name, getattr(goal, name))
        observation, info = env.reset(options={"goal": record})
        assert (observation, info["admissible_actions"]) == (start[mode], stock_actions(start))
        for step in steps:
            observation, reward, terminated, _, info = env.step(step["action"])
            assert observation == step[mode]
            assert info["admissible_actions"] == stock_actions(step)
            assert (reward, terminated) == (step["reward"], step["done"])
            parts = {
                key: value
                for key, value in info.items()
                if key[:2] in ("r_", "w_") or key in ("query_match", "category_match", "title_score")
            }
            assert parts == step.get("info", {})
            assert info["won"] == (step["reward"] == 1.0)


@pytest.mark.parametrize("human", [False, True])
def test_goals_are_those_of_stock_seeded_first(human: bool) -> None:
    stock = stock_goals(human)
    world = gym.make("opid/WebShop-v0", data_dir=FOLDER, goals="human" if human else "synthetic").unwrapped.world
    assert len(world.goals) == len(stock["goals"])
    assert {asin: world.goals.price(asin) for asin in stock["prices"]} == stock["prices"]
    for ours, theirs in zip(world.goals, stock["goals"], strict=True):
        options = theirs["goal_options"]
        assert ours.options == tuple(options if human else options.items())
        assert (ours.asin, ours.instruction, list(ours.attributes), ours.price_upper, ours.weight) == (
            theirs["asin"],
            theirs["instruction_text"],
            theirs["attributes"],
            theirs["price_upper"],
            theirs["weight"],
        )


def test_generated_goals_are_the_default_and_the_same_in_every_process() -> None:
    code = (
        "import gymnasium as gym, opid_gym\n"
        "env = gym.make('opid/WebShop-v0', split='eval', seed=4, num_products=300)\n"
        "print([(o, sorted(i.items())) for o, i in (env.reset() for _ in range(5))])\n"
    )
    assert printed(code, "1") == printed(code, "2") != ""


def test_splits_are_stocks_where_there_are_enough_goals_and_always_disjoint() -> None:
    large, small = (gym.make("opid/WebShop-v0", num_products=count).unwrapped.world.goals for count in (1000, 50))  # type: ignore[attr-defined]
    assert (large.split("test"), large.split("eval")) == (range(500), range(500, 1500))
    assert large.split("train") == range(1500, len(large))
    numbers = [number for name in ("test", "eval", "train") for number in small.split(name)]
    assert numbers == list(range(len(small)))
    with pytest.raises(KeyError, match=r"no task 'generated/synthetic-0-.*' in this split"):
        gym.make("opid/WebShop-v0").reset(options={"task_id": f"generated/synthetic-0-{large.asin(0)}"})


def test_nothing_tells_of_the_score_before_the_end() -> None:
    env = gym.make("opid/WebShop-v0")
    _, info = env.reset(seed=1)
    infos = [info]
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
        over = terminated or truncated
        infos.append(info)
    contract = {"page", "task", "task_id", "task_type", "source", "admissible_actions", "anchor", "won"}
    assert all(set(info) == contract for info in infos[:-1])
    assert {"r_type", "r_att", "r_price", "w_att", "w_price", "query_match", "category_match", "title_score"} <= set(
        infos[-1]
    )


def test_the_anchor_tells_chosen_options_apart_where_text_mode_does_not() -> None:
    env = gym.make("opid/WebShop-v0", data_dir=FOLDER)
    env.reset()
    env.step("search[title with bold and quotes]")
    before, *_, info_before = env.step("click[b0nasty001]")
    after, *_, info_after = env.step("click[small]")
    assert before == after
    assert info_before["anchor"] == before
    assert info_after["anchor"] == f"{before} [SEP] size: small"


def test_the_short_mode_is_the_same_shop_in_fewer_words() -> None:
    played = {}
    for mode in ("text", "short"):
        envs = make_envs("opid/WebShop-v0", 8, num_products=200, observation_mode=mode, max_episode_steps=15)
        ids = list(envs.world.task_ids)[:16]
        played[mode] = sorted(play(envs, ExpertAgent.make(envs), ids), key=lambda t: t.task_id)
    assert [t.episode_return for t in played["short"]] == [t.episode_return for t in played["text"]]
    assert [len(t.steps) for t in played["short"]] == [len(t.steps) for t in played["text"]]
    lengths = {mode: sum(len(step.observation) for t in ts for step in t.steps) for mode, ts in played.items()}
    assert lengths["short"] < 0.7 * lengths["text"]
    for trajectory in played["short"]:
        assert trajectory.task in trajectory.steps[0].observation
        for step in trajectory.steps:
            assert step.action in (step.admissible_actions or ()) or step.action.startswith("search[")
            assert not re.search(r"\bB0[A-Z0-9]{8}\b", step.observation)  # no product ids
        assert any(step.action.startswith("click[item ") for step in trajectory.steps)
        assert all(step.hindsight is not None for step in trajectory.steps)


def test_the_short_mode_takes_spaces_within_brackets() -> None:
    env = gym.make("opid/WebShop-v0", num_products=50, observation_mode="short")
    env.reset(seed=0)
    results, *_ = env.step("search[ everyday ]")
    title = results.split("\nitem 2\n")[1].split("\n")[0]
    page, *_ = env.step("click[ item 2]")
    assert title in page
    assert "item 2" not in page


def test_prices_decide_what_is_affordable_and_can_come_from_a_file(tmp_path: Path) -> None:
    cheap = {product.asin: 1.0 for product in Catalogue.load(FOLDER)}
    (tmp_path / "prices.json").write_text(json.dumps(cheap))
    dear = dict.fromkeys(cheap, 2_000_000.0)
    goal = {**stock_goals(True)["goals"][0], "price_upper": 30.0}
    for prices, affordable in ((cheap, True), (tmp_path / "prices.json", True), (dear, False)):
        envs = gym.make_vec("opid/WebShop-v0", num_envs=2, data_dir=FOLDER, prices=prices)
        envs.reset(options={"goals": [goal, goal]})
        over = np.zeros(2, dtype=bool)
        while not over.any():
            _, _, over, _, infos = envs.step(envs.unwrapped.expert_actions())  # type: ignore[attr-defined]
        assert infos["r_price"].tolist() == [affordable] * 2


def test_lucene_plays_the_same_shop() -> None:
    pytest.importorskip("pyserini", reason="search='lucene' needs pyserini")
    native, lucene = (gym.make("opid/WebShop-v0", num_products=100, search=search) for search in ("native", "lucene"))
    words = native.reset(seed=0)[1]["task"]
    assert lucene.reset(seed=0)[1]["task"] == words
    for action in (f"search[{words}]", "click[next >]", f"search[{'many different words ' * 400}]"):
        assert native.step(action)[0] == lucene.step(action)[0]
    assert "Total results: 0" in lucene.step("search[" + " ".join(map(str, range(2000))) + "]")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"goals": "real"}, r"goals must be one of \('synthetic', 'human'\), got 'real'"),
        ({"goals": "human"}, r"goals='human' needs a data_dir with items_human_ins.json"),
        ({"split": "valid"}, r"split must be one of \('train', 'eval', 'test'\), got 'valid'"),
        ({"observation_mode": "html"}, r"observation_mode must be one of \('text', 'text_rich', 'short'\), got 'html'"),
        ({"search": "google"}, r"search must be one of \('native', 'lucene'\), got 'google'"),
        ({"num_products": 0}, "num_products must be an integer of 1 or more, got 0"),
        ({"num_products": "5"}, "num_products must be an integer of 1 or more, got '5'"),
        ({"num_products": 10, "data_dir": FOLDER}, "give one"),
        ({"prices": {"B0": "cheap"}}, "prices: the price of 'B0' must be a number of 0 or more, got 'cheap'"),
        ({"prices": {"B0": True}}, "of 0 or more, got True"),
        ({"prices": {"B0": math.nan}}, "of 0 or more, got nan"),
        ({"prices": {"B0": math.inf}}, "of 0 or more, got inf"),
        ({"prices": {"B0": -5}}, "of 0 or more, got -5"),
        ({"prices": {"B0": 10**400}}, "of 0 or more, got 1000"),
        ({"prices": {"B0": 5.0}}, "prices: not one of its products is in this shop, e.g. 'B0'"),
    ],
)
def test_bad_arguments_name_what_is_allowed(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make("opid/WebShop-v0", **arguments)


def test_a_price_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.json"
    for text, message in (
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "must hold a JSON object"),
        ('{"B0": null}', "got None"),
        ('{"B0": NaN}', "got nan"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"prices.json.*{message}"):
            gym.make("opid/WebShop-v0", prices=path)
    for prices in ("nowhere.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"prices='.*(nowhere\.json|0)' is no file"):
            gym.make("opid/WebShop-v0", prices=prices)
    with pytest.raises(TypeError, match=r"prices must be \{asin: price\} or the path of a JSON file with that, got 5"):
        gym.make("opid/WebShop-v0", prices=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asin": 5}, r"goal\['asin'\] must be text, got 5"),
        ({"instruction_text": None}, r"goal\['instruction_text'\] must be text, got None"),
        ({"attributes": []}, r"goal\['attributes'\] must be a list of at least one text, got \[\]"),
        ({"goal_options": "red"}, r"goal\['goal_options'\] must be .*, got 'red'"),
        ({"price_upper": 0}, r"goal\['price_upper'\] must be a number above 0, got 0"),
        ({"price_upper": "5"}, r"goal\['price_upper'\] must be a number above 0, got '5'"),
        ({"weight": math.nan}, r"goal\['weight'\] must be a number above 0, got nan"),
    ],
)
def test_a_goal_that_cannot_be_played_is_explained(change: dict[str, Any], message: str) -> None:
    env = gym.make("opid/WebShop-v0", data_dir=FOLDER)
    with pytest.raises(ValueError, match=message):
        env.reset(options={"goal": {**stock_goals(True)["goals"][0], **change}})
    with pytest.raises(ValueError, match="a goal must be a mapping of stock's shape, got list"):
        env.reset(options={"goal": []})


def test_a_goal_may_have_no_limit_and_half_a_character() -> None:
    env = gym.make("opid/WebShop-v0", data_dir=FOLDER)
    record = {**stock_goals(True)["goals"][0], "price_upper": 10**400, "name": "half a \ud800 character"}
    _, info = env.reset(options={"goal": record})
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
        over = terminated or truncated
    assert info["r_price"]


class TestSplits:
    def test_by_product_no_product_is_in_two_splits(self) -> None:
        goals = Goals(Catalogue.generated(1000), "synthetic")
        by_goal, by_product = (
            {name: goals.split(name, by) for name in ("test", "eval", "train")} for by in ("goal", "product")
        )
        products = {name: {goals.asin(number) for number in numbers} for name, numbers in by_product.items()}
        assert not products["test"] & products["eval"]
        assert not products["train"] & (products["test"] | products["eval"])
        assert sorted(number for numbers in by_product.values() for number in numbers) == list(range(len(goals)))
        wanted = sum(map(len, products.values()))
        assert len(products["test"]) == -(-wanted // 5)
        assert wanted // 5 <= len(products["eval"]) <= len(products["test"])
        first = [goals.asin(number) for number in by_product["test"][:128]]
        assert len(set(first)) > 40  # few tasks show many products
        seen = {goals.asin(number) for number in by_goal["train"]}
        assert sum(goals.asin(number) in seen for number in by_goal["test"]) > 450  # why there is the option

    def test_it_is_an_option_of_the_world(self) -> None:
        shop = WebShop(split="test", split_by="product", num_products=200)
        task, _ = shop.start([0], [shop.task_ids[0]])[0]
        assert task.id == shop.task_ids[0]
        other = WebShop(split="train", split_by="product", num_products=200)
        with pytest.raises(KeyError, match="in this split"):
            other.start([0], [task.id])
        with pytest.raises(ValueError, match=r"split_by must be one of \('goal', 'product'\), got 'colour'"):
            WebShop(split_by="colour")


def test_a_world_says_where_its_products_come_from() -> None:
    made, official = WebShop(num_products=50), WebShop(data_dir=FOLDER)
    assert (made.source, made.data) == ("generated", None)
    assert made.task_ids[0].startswith("generated/synthetic-")
    assert (official.source, official.data) == ("official", str(FOLDER / "items_shuffle.json"))
    assert official.task_ids[0].startswith("synthetic-")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda world: pickle.loads(pickle.dumps(world))])
def test_a_copy_goes_on_where_the_world_stands(copied: Callable[[WebShop], WebShop]) -> None:
    shop = WebShop(num_products=50)
    shop.start([0], [shop.task_ids[3]])
    shop.step([0], ["search[gift]"])
    again = copied(shop)
    assert again.task_ids[5] == shop.task_ids[5]
    for _ in range(12):
        [action] = shop.expert_actions([0])
        assert again.expert_actions([0]) == [action]
        [turn], [other] = shop.step([0], [action]), again.step([0], [action])
        assert turn == other
        if turn.terminated:
            break
    assert turn.won
