"""What Gymnasium's and Stable-Baselines3's own tools ask of an environment, asked of every world."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from gymnasium.wrappers.vector import RecordEpisodeStatistics as RecordVectorEpisodeStatistics

import opid_gym
from opid_gym.vector import TextVectorEnv
from opid_gym.wrappers import DiscreteActions, EmbedText, HashedWords
from tests.contract.repeat_and_swallow import Repeat, Swallow

gym.register_envs(opid_gym)

# A world with small tasks, and the limit of its benchmark.
WORLDS: dict[str, tuple[dict[str, Any], int]] = {
    "opid/ALFWorld-v0": ({"size": "small", "count": 12}, 50),
    "opid/SearchQA-v0": ({"split": "test"}, 4),
    "opid/WebShop-v0": ({"num_products": 60}, 15),
}
COPIES = {"copy": deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(world: str, **arguments: Any) -> gym.Env[str, str]:
    return gym.make(world, **WORLDS[world][0], **arguments)


def test_gymnasiums_checker_is_silent(world: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(world, disable_env_checker=True, render_mode="ansi").unwrapped)


def test_stable_baselines3s_checker_finds_nothing(world: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker", reason="pip install 'opid-gym[sb3]'")
    candidates = {"candidates": lambda observation, info: ("search[a]", "answer[b]")} if "Search" in world else {}
    env = EmbedText(DiscreteActions(make(world), 16, **candidates), HashedWords(32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A recommendation for its own policies, which want flat vectors; ours read matrices.
        warnings.filterwarnings("ignore", message="Your observation .* unconventional shape")
        checker.check_env(env)


def test_an_episode_keeps_the_contract_and_gymnasium_counts_it(world: str) -> None:
    env = RecordEpisodeStatistics(make(world))
    for seed in range(3):
        _, info = env.reset(seed=seed)
        assert "episode" not in info
        assert info["source"] == env.unwrapped.world.source == "generated"  # type: ignore[attr-defined]
        rewards, over = [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
            rewards.append(float(reward))
            over = terminated or truncated
            assert ("episode" in info) == over
            assert info["source"] == "generated"
        assert info["episode"]["l"] == len(rewards)
        assert info["episode"]["r"] == pytest.approx(sum(rewards))


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("native", [True, False])
def test_gymnasium_counts_the_episodes_of_a_batch(world: str, mode: AutoresetMode, native: bool) -> None:
    limit = 3
    envs: Any
    if native:
        envs = gym.make_vec(world, num_envs=3, max_episode_steps=limit, autoreset_mode=mode, **WORLDS[world][0])
        assert isinstance(envs, TextVectorEnv)
    else:
        envs = SyncVectorEnv([lambda: make(world, max_episode_steps=limit)] * 3, autoreset_mode=mode)
    counted = RecordVectorEpisodeStatistics(envs)
    counted.reset(seed=0)
    lengths = []
    for _ in range(4 * limit):
        _, _, terminations, truncations, infos = counted.step(["look"] * 3)
        over = terminations | truncations
        assert ("episode" in infos) == over.any()
        lengths += infos["episode"]["l"][over].tolist() if over.any() else []
        if mode == AutoresetMode.DISABLED and over.any():
            counted.reset(options={"reset_mask": over})
    assert len(lengths) >= 9
    if mode != AutoresetMode.SAME_STEP or tuple(map(int, gym.__version__.split(".")[:2])) >= (1, 4):
        assert set(lengths) == {limit}  # before 1.4, Gymnasium takes SAME_STEP for NEXT_STEP and miscounts


@pytest.mark.parametrize("wrapper", [Repeat, Swallow])
@pytest.mark.parametrize("inside", [True, False])
def test_time_limits_truncate_where_they_do_on_cart_pole(
    world: str, wrapper: type[gym.Wrapper[Any, Any, Any, Any]], inside: bool
) -> None:
    def truncations(env: gym.Env[Any, Any], action: Callable[[int], Any]) -> list[bool]:
        env = wrapper(TimeLimit(env, 3)) if inside else TimeLimit(wrapper(env), 3)
        seen = []
        for _ in range(2):
            env.reset(seed=1)
            seen += [False]
            while not seen[-1]:
                _, _, terminated, truncated, _ = env.step(action(len(seen)))
                assert not terminated
                seen.append(bool(truncated))
        return seen

    expected = truncations(gym.make("CartPole-v1", max_episode_steps=-1), lambda step: step % 2)
    assert truncations(make(world, max_episode_steps=-1), lambda step: "look") == expected


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_an_environment_is_copied_with_its_game(world: str, copy: Callable[[Any], Any]) -> None:
    env = make(world)
    env.reset(seed=3)
    env.step(env.unwrapped.expert_action())  # type: ignore[attr-defined]
    other = copy(env)
    over = False
    while not over:
        action = env.unwrapped.expert_action()  # type: ignore[attr-defined]
        assert other.unwrapped.expert_action() == action
        result = env.step(action)
        assert other.step(action) == result
        over = result[2] or result[3]
    env.reset()
    assert other.reset()[1]["task_id"] == env.unwrapped._episode.task.id  # type: ignore[attr-defined]


def test_copies_made_without_a_seed_play_different_tasks(world: str) -> None:
    envs = SyncVectorEnv([lambda: make(world)] * 4)
    rounds = [envs.reset()[1]["task_id"] for _ in range(4)]
    assert len(set(zip(*rounds, strict=True))) == 4


def test_a_batch_is_made_again_from_its_spec(world: str) -> None:
    envs = gym.make_vec(world, num_envs=2, autoreset_mode=AutoresetMode.DISABLED, **WORLDS[world][0])
    assert envs.spec is not None
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert again.reset(seed=4)[1]["task_id"].tolist() == envs.reset(seed=4)[1]["task_id"].tolist()
    assert np.array_equal(again.step(["look"] * 2)[1], envs.step(["look"] * 2)[1])
