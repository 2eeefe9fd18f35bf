"""What `gymnasium.make` users rely on."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from opid_gym.env import TextEnv
from opid_gym.order import TaskOrder
from opid_gym.spaces import UnicodeText
from tests.contract.repeat_and_swallow import Repeat, Swallow
from tests.corridor import Corridor


def test_check_env_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TextEnv(Corridor()), skip_render_check=True)
        check_env(gym.make("opid/ALFWorld-v0", size="small", disable_env_checker=True).unwrapped)


def test_one_episode_tells_the_whole_contract() -> None:
    env = TextEnv(Corridor([2]))
    observation, info = env.reset(seed=0)
    assert observation == "You are at 0."
    assert info == {
        "task": "walk 2 to the right",
        "task_id": "walk-2",
        "task_type": "even",
        "source": "generated",
        "admissible_actions": ("left", "right"),
        "anchor": "You are at 0.",
        "won": False,
        "distance": 2,
    }
    assert env.step("right")[1:4] == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("right")
    assert (observation, reward, terminated, truncated) == ("You are at 2.", 1.0, True, False)
    assert info["won"]
    with pytest.raises(gym.error.ResetNeeded):
        env.step("right")


def test_misuse_is_explained() -> None:
    env = TextEnv(Corridor())
    with pytest.raises(gym.error.ResetNeeded, match=r"call reset\(\) before expert_action\(\)"):
        env.expert_action()
    with pytest.raises(TypeError, match="reset options must be a dict, got int: 5"):
        env.reset(options=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a task id must be a str, got int: 5"):
        env.reset(options={"task_id": 5})
    env.reset()
    env.close()
    for use in (env.reset, lambda: env.step("right"), env.expert_action):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="the environment was closed: make another one"):
            use()


def test_tasks_come_each_once_before_any_comes_again_and_reset_with_a_seed_restarts_the_order() -> None:
    env = TextEnv(Corridor(), seed=3)
    first = [env.reset()[1]["task_id"] for _ in range(10)]
    assert sorted(first[:5]) == sorted(first[5:]) == sorted(env.world.task_ids)
    assert [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(9))] == first
    assert len({tuple(TextEnv(Corridor(), seed=s).reset()[1]["task_id"] for _ in range(1)) for s in range(20)}) > 1


def cart_pole() -> gym.Env[Any, Any]:
    return gym.make("CartPole-v1", max_episode_steps=-1)


def corridor() -> gym.Env[Any, Any]:
    return gym.make("tests.corridor:tests/Corridor-v0", lengths=(99,), max_episode_steps=-1)


@pytest.mark.parametrize("limits", [(4, None), (None, 4), (4, 7), (7, 4)], ids=str)
@pytest.mark.parametrize("between", [None, lambda env: Repeat(env, 2), lambda env: Repeat(env, 3), Swallow])
def test_limits_inside_and_outside_of_any_wrapper_truncate_where_they_do_on_cart_pole(
    limits: tuple[int | None, int | None], between: Callable[[Any], Any] | None
) -> None:
    def truncations(env: gym.Env[Any, Any], action: Any) -> list[bool]:
        inside, outside = limits
        env = TimeLimit(env, inside) if inside else env
        env = between(env) if between else env
        env = TimeLimit(env, outside) if outside else env
        seen = []
        for episode in range(2):
            env.reset(seed=episode)
            for step in range(8):
                # Left and right in turn, so that the pole stands upright and only limits end the episode.
                _, _, terminated, truncated, _ = env.step(action(step))
                assert not terminated
                seen.append(truncated)
                if truncated:
                    break
        return seen

    expected = truncations(cart_pole(), lambda step: step % 2)
    assert truncations(corridor(), lambda step: ("left", "right")[step % 2]) == expected
    assert any(expected)


def test_the_limit_of_make_is_gymnasiums() -> None:
    def length(**arguments: Any) -> int:
        env = gym.make("tests.corridor:tests/Corridor-v0", lengths=(30,), **arguments)
        env.reset()
        for step in range(1, 31):
            if any(env.step("right")[2:4]):
                return step
        raise AssertionError

    assert [length(), length(max_episode_steps=None), length(max_episode_steps=7)] == [4, 4, 7]
    assert length(max_episode_steps=-1) == 30


def test_a_given_task_is_played() -> None:
    env = TextEnv(Corridor())
    assert env.reset(options={"task_id": "walk-4"})[1]["task_id"] == "walk-4"
    with pytest.raises(KeyError, match="walk-9"):
        env.reset(options={"task_id": "walk-9"})
    with pytest.raises(ValueError, match=r"taskid.*allowed.*task_id"):
        env.reset(options={"taskid": "walk-4"})


def test_a_task_the_user_describes_is_played_where_the_world_takes_descriptions() -> None:
    env = TextEnv(Corridor())
    assert env.reset(options={"length": 9})[1]["task_id"] == "walk-9"
    with pytest.raises(ValueError, match="length must be a positive integer, got 'far'"):
        env.reset(options={"length": "far"})
    with pytest.raises(ValueError, match=r"\['length', 'task_id'\] name a task each"):
        env.reset(options={"length": 9, "task_id": "walk-1"})
    household = gym.make("opid/ALFWorld-v0", size="small").unwrapped
    with pytest.raises(ValueError, match=r"length.*allowed: \['task_id'\]"):
        household.reset(options={"length": 9})
    with pytest.raises(NotImplementedError, match="ALFWorld takes no tasks but its own"):
        household.world.add_task("length", 9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("action", ["\0", "", "x" * 2**20, "naïve 🙂", "\ud800", "right\n"])
def test_any_string_is_an_action(action: str) -> None:
    env = TextEnv(Corridor())
    env.reset()
    assert action in env.action_space
    assert env.step(action)[0] == "You are at 0."


def test_what_is_no_string_is_refused_by_name() -> None:
    env = TextEnv(Corridor())
    env.reset()
    with pytest.raises(TypeError, match="str, got int: 3"):
        env.step(3)  # type: ignore[arg-type]


def test_bad_arguments_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"render_mode must be one of .*'ansi'.* got 'rgb_array'"):
        TextEnv(Corridor(), render_mode="rgb_array")
    for seed in (-1, 1.5, True, "1"):
        with pytest.raises(ValueError, match=f"seed must be a non-negative integer, got {seed!r}"):
            TextEnv(Corridor(), seed=seed)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"seed must be a non-negative integer, got {seed!r}"):
            TextEnv(Corridor()).reset(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\['colour'\]; allowed: .*'split'"):
        gym.make("opid/ALFWorld-v0", colour="red")


def test_spaces_hold_what_the_environment_shows_and_samples_are_valid() -> None:
    env = TextEnv(Corridor())
    observation, _ = env.reset()
    assert observation in env.observation_space
    assert isinstance(env.observation_space, gym.spaces.Text)
    space = UnicodeText(5, min_length=2, seed=1)
    samples = [space.sample() for _ in range(200)]
    assert all(sample in space for sample in samples)
    assert {len(sample) for sample in samples} == {2, 3, 4, 5}
    assert "abcdef" not in space
    assert b"abc" not in space
    assert space == UnicodeText(5, min_length=2)
    assert space != UnicodeText(6, min_length=2)


def test_rendering_shows_the_latest_command_and_answer(capsys: pytest.CaptureFixture[str]) -> None:
    env = TextEnv(Corridor(), render_mode="ansi")
    env.reset()
    assert env.render() == "You are at 0."
    env.step("left")
    assert env.render() == "> left\nYou are at -1."
    human = TextEnv(Corridor(), render_mode="human")
    human.reset()
    assert "You are at 0." in capsys.readouterr().out


def test_the_order_is_a_pure_function_of_seed_and_position() -> None:
    order = TaskOrder(7, seed=2)
    walked = [order.next() for _ in range(30)]
    assert walked == [TaskOrder(7, seed=2).at(i) for i in range(30)]
    resumed = TaskOrder(7, seed=2, position=11)
    assert [resumed.next() for _ in range(19)] == walked[11:]


def test_closing_closes_the_world() -> None:
    world = Corridor()
    TextEnv(world).close()
    assert world.closed


def test_without_a_seed_copies_play_different_tasks_and_with_one_the_same() -> None:
    def orders(**arguments: Any) -> set[tuple[str, ...]]:
        envs = SyncVectorEnv(
            [lambda: gym.make("tests.corridor:tests/Corridor-v0", lengths=range(1, 60), **arguments)] * 4
        )
        rounds = [envs.reset()[1]["task_id"] for _ in range(3)]
        return set(zip(*rounds, strict=True))

    assert len(orders()) == 4
    assert len(orders(seed=0)) == 1


def test_numpy_integers_are_integers() -> None:
    seeded = TextEnv(Corridor(range(1, 30)), seed=np.int64(3))  # type: ignore[arg-type]
    expected = [seeded.reset()[1]["task_id"] for _ in range(5)]
    env = TextEnv(Corridor(range(1, 30)))
    assert [env.reset(seed=np.uint8(3))[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(4))] == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("copy", [deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copy_goes_on_where_the_original_is_and_apart_from_it(copy: Callable[[Any], Any]) -> None:
    env = gym.make("tests.corridor:tests/Corridor-v0", lengths=range(1, 30), max_episode_steps=40)
    env.reset(options={"length": 20})
    for _ in range(7):
        env.step("right")
    other = copy(env)
    assert other.step("right")[0] == "You are at 8."
    assert env.step("left")[0] == "You are at 6."
    assert other.step("right")[:4] == ("You are at 9.", 0.0, False, False)
    assert [env.reset()[1] for _ in range(5)] == [other.reset()[1] for _ in range(5)]


def test_a_spec_with_paths_is_json_and_makes_the_same_environment(tmp_path: Path) -> None:
    from opid_gym_envs.alfworld.export import export_game
    from opid_gym_envs.alfworld.generator import generate

    game = export_game(generate(3, size="small"), tmp_path)
    env = gym.make("opid/ALFWorld-v0", games=[game], render_mode="ansi")
    assert env.spec is not None
    assert json.loads(env.spec.to_json())["kwargs"]["games"] == [str(game)]
    again = gym.make(gym.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.reset(seed=0) == env.reset(seed=0)
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=2, games=[game], autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    assert envs.spec is not None
    again = gym.make_vec(gym.envs.registration.EnvSpec.from_json(envs.spec.to_json()))
    assert again.metadata["autoreset_mode"] == gym.vector.AutoresetMode.DISABLED
    assert again.reset(seed=0)[0] == envs.reset(seed=0)[0]


def test_frames_can_be_collected_as_a_list() -> None:
    env = gym.make("tests.corridor:tests/Corridor-v0", lengths=(3,), render_mode="ansi_list")
    env.reset()
    env.step("right")
    assert env.render() == ["You are at 0.", "> right\nYou are at 1."]
