"""What `gymnasium.make` users rely on."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit

from opid_gym.env import TaskOrder, TextEnv
from opid_gym.spaces import UnicodeText
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
        "admissible_actions": ("left", "right"),
        "anchor": "You are at 0.",
        "won": False,
        "distance": 2,
    }
    assert env.step("right")[1:4] == (0.0, False, False)
    observation, reward, terminated, truncated, info = env.step("right")
    assert (observation, reward, terminated, truncated) == ("You are at 2.", 1.0, True, False)
    assert info["won"]
    assert info["episode"] == {"return": 1.0, "length": 2, "success": True}
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
    with pytest.raises(gym.error.ResetNeeded):
        env.step("right")


def test_tasks_come_each_once_before_any_comes_again_and_reset_with_a_seed_restarts_the_order() -> None:
    env = TextEnv(Corridor(), seed=3)
    first = [env.reset()[1]["task_id"] for _ in range(10)]
    assert sorted(first[:5]) == sorted(first[5:]) == sorted(env.world.task_ids)
    assert [env.reset(seed=3)[1]["task_id"], *(env.reset()[1]["task_id"] for _ in range(9))] == first
    assert len({tuple(TextEnv(Corridor(), seed=s).reset()[1]["task_id"] for _ in range(1)) for s in range(20)}) > 1


@pytest.mark.parametrize("own", [None, 3, 7])
@pytest.mark.parametrize("outer", [None, 3, 7])
def test_the_last_step_carries_the_episode_whoever_ends_it(own: int | None, outer: int | None) -> None:
    env: gym.Env[str, str] = TextEnv(Corridor([10]), max_episode_steps=own)
    if outer is not None:
        env = TimeLimit(env, outer)
    env.reset()
    limit = min((n for n in (own, outer) if n is not None), default=None)
    for step in range(1, 11):
        _, _, terminated, truncated, info = env.step("right")
        assert truncated == (step == limit)
        assert ("episode" in info) == (terminated or truncated)
        if truncated:
            assert info["episode"] == {"return": 0.0, "length": limit, "success": False}
            break
    else:
        assert limit is None


def test_a_limit_given_to_make_reaches_the_episode_record() -> None:
    env = gym.make("opid_gym:opid/ALFWorld-v0", size="small", max_episode_steps=4)
    env.reset(seed=0)
    for _ in range(3):
        assert "episode" not in env.step("look")[4]
    _, _, _, truncated, info = env.step("look")
    assert truncated
    assert info["episode"] == {"return": 0.0, "length": 4, "success": False}


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
    with pytest.raises(ValueError, match="max_episode_steps must be a positive integer or None, got 0"):
        TextEnv(Corridor(), max_episode_steps=0)
    with pytest.raises(ValueError, match="seed must be a non-negative integer, got -1"):
        TextEnv(Corridor(), seed=-1)
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
