"""GEM drives an environment by `reset(seed)` and five values from `step`; ours take that as they are."""

from __future__ import annotations

import random
from typing import Any

import gymnasium as gym
import pytest

import opid_gym

gym.register_envs(opid_gym)


def collect(env: Any, seed: int, limit: int) -> tuple[list[tuple[str, str, float]], bool]:
    """A rollout as GEM's examples write it; knows nothing of this package."""
    rng = random.Random(seed)
    observation, info = env.reset(seed=seed)
    transitions = []
    for _ in range(limit):
        action = rng.choice(info["admissible_actions"] or ["search[Kenya]", "answer[Nairobi]"])
        following, reward, terminated, truncated, info = env.step(action)
        transitions.append((observation, action, reward))
        observation = following
        if terminated or truncated:
            return transitions, True
    return transitions, False


@pytest.mark.parametrize(
    ("env_id", "arguments"),
    [("opid/ALFWorld-v0", {"size": "small"}), ("opid/WebShop-v0", {}), ("opid/SearchQA-v0", {})],
)
def test_a_rollout_of_gems_shape(env_id: str, arguments: dict[str, Any]) -> None:
    env = gym.make(env_id, max_episode_steps=6, **arguments)
    first, over = collect(env, 3, 10)
    assert over
    assert 1 <= len(first) <= 6
    assert all(
        isinstance(observation, str) and isinstance(action, str) and isinstance(reward, float)
        for observation, action, reward in first
    )
    assert collect(env, 3, 10) == (first, over)
    assert collect(env, 4, 10)[0] != first
    env.close()
