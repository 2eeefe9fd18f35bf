"""`opid/WebShop-v0` from the outside."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest

import opid_gym
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
