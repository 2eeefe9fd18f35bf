"""The shopper that reads: what it does is in the text, and a `Shopper` buys what is asked for."""

from __future__ import annotations

import random

import gymnasium as gym
import pytest

import opid_gym
from opid_gym_envs.webshop.shopper import HastyShopper, Shopper

gym.register_envs(opid_gym)


def success(shopper: type[Shopper], mode: str) -> float:
    """Share of 60 held-back goals of products that train does not have."""
    env = gym.make(
        "opid/WebShop-v0",
        num_products=1000,
        split="test",
        split_by="product",
        observation_mode=mode,
        max_episode_steps=9,
    )
    won = 0
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        player, over = shopper(info["task"], random.Random(seed)), False
        while not over:
            action = player.act(observation, info["admissible_actions"])
            assert action in info["admissible_actions"] or action.startswith("search[")
            observation, _, ended, cut, info = env.step(action)
            over = ended or cut
        won += info["won"]
    env.close()
    return won / 60


@pytest.mark.parametrize("mode", ["text", "short"])
def test_a_shopper_mostly_buys_what_is_asked_for_and_a_hasty_one_less_often(mode: str) -> None:
    careful, hasty = success(Shopper, mode), success(HastyShopper, mode)
    assert careful > 0.8
    assert 0.2 < hasty < careful - 0.2


def test_equal_generators_give_equal_play_and_others_other_searches() -> None:
    task = "Find me soft mugs for tea with size: big, and price lower than 9.00 dollars"
    page = ("Search", ["search[<your query>]", "click[search]"])
    searches = [HastyShopper(task, random.Random(seed)).act(*page) for seed in range(50)]
    assert searches == [HastyShopper(task, random.Random(seed)).act(*page) for seed in range(50)]
    assert set(searches) == {
        "search[soft mugs for tea with size: big]",
        "search[soft mugs for tea]",
        "search[soft mugs]",
    }
