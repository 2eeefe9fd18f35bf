"""What `gymnasium.make_vec` users rely on: Gymnasium's own vector semantics, and groups."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from opid_gym.env import TextEnv
from opid_gym.vector import TextVectorEnv
from tests.corridor import Corridor

MODES = list(AutoresetMode)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return a.dtype == b.dtype and a.tolist() == b.tolist()


def without_group(infos: dict[str, Any]) -> dict[str, Any]:
    infos = {key: value for key, value in infos.items() if key not in ("group", "_group")}
    if "final_info" in infos:
        infos["final_info"] = without_group(infos["final_info"])
    return infos


@pytest.mark.parametrize("mode", MODES)
def test_it_behaves_as_gymnasiums_own_vector_environment(mode: AutoresetMode) -> None:
    """Differential: the same games under SyncVectorEnv give the same observations, rewards, flags and infos."""
    count, lengths = 3, (1, 2, 3)
    # One task a world, so that the order of tasks cannot differ between the two.
    sync = SyncVectorEnv([lambda n=n: TimeLimit(TextEnv(Corridor([n])), 4) for n in lengths], autoreset_mode=mode)

    class Fixed(Corridor):
        """Game i always plays walk-(i+1)."""

        def start(self, slots: Any, task_ids: Any) -> Any:
            return super().start(slots, [f"walk-{slot + 1}" for slot in slots])

    ours = TextVectorEnv(Fixed(lengths), count, max_episode_steps=4, autoreset_mode=mode)
    a, b = sync.reset(seed=0), ours.reset(seed=0)
    assert a[0] == b[0]
    assert same(a[1], without_group(b[1]))
    rng = np.random.default_rng(0)
    ended = np.zeros(count, dtype=bool)
    episodes = 0
    for _ in range(200):
        if mode == AutoresetMode.DISABLED and ended.any():
            a = sync.reset(options={"reset_mask": ended.copy()})
            b = ours.reset(options={"reset_mask": ended.copy()})
            assert a[0] == b[0]
            assert same(a[1], without_group(b[1]))
        actions = tuple(rng.choice(["left", "right", "jump"], size=count, p=[0.2, 0.6, 0.2]).tolist())
        x, y = sync.step(actions), ours.step(actions)
        assert x[0] == y[0]
        for left, right in zip(x[1:4], y[1:4], strict=True):
            assert same(left, right)
        assert same(x[4], without_group(y[4]))
        ended = y[2] | y[3]
        episodes += ended.sum()
    assert episodes > 50


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_groups_share_their_tasks_though_their_episodes_differ_in_length(mode: AutoresetMode) -> None:
    envs = TextVectorEnv(Corridor(), 6, group_size=3, max_episode_steps=9, autoreset_mode=mode)
    _, infos = envs.reset(seed=5)
    tasks: dict[int, set[str]] = {}
    members: dict[int, set[int]] = {}

    def note(infos: dict[str, Any]) -> None:
        for i in range(6):
            if "_group" in infos and infos["_group"][i]:
                tasks.setdefault(int(infos["group"][i]), set()).add(infos["task_id"][i])
                members.setdefault(int(infos["group"][i]), set()).add(i)

    note(infos)
    rng = np.random.default_rng(1)
    for _ in range(120):
        note(envs.step(rng.choice(["left", "right"], size=6, p=[0.3, 0.7]).tolist())[4])
    assert len(tasks) > 10
    assert all(len(names) == 1 for names in tasks.values())
    assert all(len({i // 3 for i in games}) == 1 for games in members.values())
    # In the order of their numbers, groups play the seeded order: each task once before any comes again.
    order = [next(iter(tasks[group])) for group in sorted(tasks)][:5]
    assert sorted(order) == sorted(envs.world.task_ids)


def test_one_call_into_the_world_steps_all_games() -> None:
    world = Corridor()
    envs = TextVectorEnv(world, 16)
    envs.reset()
    envs.step(["left"] * 16)
    assert world.calls == 1


def test_given_tasks_are_played_and_only_where_the_mask_says() -> None:
    envs = TextVectorEnv(Corridor(), 3, autoreset_mode=AutoresetMode.DISABLED)
    _, infos = envs.reset(options={"task_ids": ["walk-3", "walk-1", "walk-5"]})
    assert infos["task_id"].tolist() == ["walk-3", "walk-1", "walk-5"]
    mask = np.array([False, True, False])
    observations, infos = envs.reset(options={"reset_mask": mask, "task_ids": ["", "walk-2", ""]})
    assert len(observations) == 3
    assert infos["_task_id"].tolist() == [False, True, False]
    assert infos["task_id"][1] == "walk-2"


def test_tasks_the_user_describes_are_played_one_for_each_game() -> None:
    envs = TextVectorEnv(Corridor(), 3, autoreset_mode=AutoresetMode.DISABLED)
    _, infos = envs.reset(options={"lengths": [7, 8, 9]})
    assert infos["task_id"].tolist() == ["walk-7", "walk-8", "walk-9"]
    mask = np.array([False, True, False])
    assert envs.reset(options={"reset_mask": mask, "lengths": [None, 6, None]})[1]["task_id"][1] == "walk-6"
    with pytest.raises(ValueError, match=r"options\['lengths'\] must have num_envs=3 entries, got 1"):
        envs.reset(options={"lengths": [7]})
    with pytest.raises(ValueError, match=r"\['lengths', 'task_ids'\] name the tasks each"):
        envs.reset(options={"lengths": [7, 8, 9], "task_ids": ["walk-1"] * 3})
    with pytest.raises(ValueError, match="length must be a positive integer, got None"):
        envs.reset(options={"lengths": [7, None, 9]})


def test_none_leaves_a_game_alone() -> None:
    envs = TextVectorEnv(Corridor([3]), 2, max_episode_steps=2, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset()
    observations, _, _, truncations, infos = envs.step(["right", None])
    assert observations == ("You are at 1.", "You are at 0.")
    assert infos["_task"].tolist() == [True, False]
    _, _, _, truncations, infos = envs.step(["right", "left"])
    assert truncations.tolist() == [True, False]
    assert infos["_task"].tolist() == [True, True]
    with pytest.raises(gym.error.ResetNeeded, match="game 0"):
        envs.step(["right", "right"])
    assert envs.step([None, "right"])[3].tolist() == [False, True]


def test_bad_arguments_name_what_is_allowed() -> None:
    with pytest.raises(ValueError, match="group_size must be a positive divisor of num_envs=6, got 4"):
        gym.make_vec("opid/ALFWorld-v0", num_envs=6, group_size=4, size="small")
    with pytest.raises(ValueError, match="num_envs must be a positive integer, got 0"):
        TextVectorEnv(Corridor(), 0)
    with pytest.raises(ValueError, match=r"autoreset_mode must be one of .*'Disabled'.* got 'never'"):
        TextVectorEnv(Corridor(), 1, autoreset_mode="never")
    envs = TextVectorEnv(Corridor(), 2)
    with pytest.raises(gym.error.ResetNeeded, match="game 0"):
        envs.step(["left", "left"])
    envs.reset()
    with pytest.raises(ValueError, match="num_envs=2 actions, got 3"):
        envs.step(["left"] * 3)
    with pytest.raises(ValueError, match="num_envs=2 actions, got one str"):
        envs.step("up")
    with pytest.raises(ValueError, match="num_envs=2 actions, got one NoneType"):
        envs.step(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="str, got int"):
        envs.step([1, 2])
    with pytest.raises(TypeError, match="numpy array of bool"):
        envs.reset(options={"reset_mask": [True, False]})
    with pytest.raises(ValueError, match=r"shape \(2,\), got \(3,\)"):
        envs.reset(options={"reset_mask": np.array([True] * 3)})
    with pytest.raises(ValueError, match="True somewhere"):
        envs.reset(options={"reset_mask": np.array([False] * 2)})
    with pytest.raises(ValueError, match=r"task_ids.*num_envs=2.*got 1"):
        envs.reset(options={"task_ids": ["walk-1"]})
    with pytest.raises(TypeError, match="a task id must be a str, got int: 5"):
        envs.reset(options={"task_ids": ["walk-1", 5]})


def test_seeds_repeat_and_actions_may_be_an_array() -> None:
    def run(seed: int) -> list[str]:
        envs = TextVectorEnv(Corridor(), 4, autoreset_mode="SameStep", max_episode_steps=3)
        _, infos = envs.reset(seed=seed)
        seen = list(infos["task_id"])
        for _ in range(10):
            seen += list(envs.step(np.array(["right"] * 4))[4]["task_id"])
        return seen

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_make_vec_gives_the_native_environment_with_the_benchmarks_limit() -> None:
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=2, size="small")
    assert isinstance(envs, TextVectorEnv)
    envs.reset(seed=0)
    for _ in range(49):
        assert not envs.step(["look"] * 2)[3].any()
    assert envs.step(["look"] * 2)[3].all()
    assert len(envs.action_space.sample()) == 2
    assert envs.action_space.contains(("look", "🙂"))


def test_gymnasiums_async_environment_works_without_shared_memory() -> None:
    envs = gym.make_vec(
        "opid/ALFWorld-v0",
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"shared_memory": False},
        size="small",
        max_episode_steps=2,
    )
    envs.reset(seed=0)
    assert envs.step(("look", "look"))[3].tolist() == [False, False]
    assert envs.step(("look", "look"))[3].tolist() == [True, True]
    envs.close()


def tasks(envs: TextVectorEnv, **reset: Any) -> list[str]:
    return envs.reset(**reset)[1]["task_id"].tolist()


def test_limits_mean_in_make_vec_what_they_mean_in_make() -> None:
    def length(**arguments: Any) -> int:
        envs = gym.make_vec("tests.corridor:tests/Corridor-v0", num_envs=1, lengths=(30,), **arguments)
        envs.reset()
        return next(step for step in range(1, 31) if np.any(envs.step(["right"])[2:4]))

    assert [length(), length(max_episode_steps=None), length(max_episode_steps=np.int64(7))] == [4, 4, 7]
    assert length(max_episode_steps=-1) == 30
    with pytest.raises(ValueError, match="positive integer, or -1 or None for no limit, got 0"):
        length(max_episode_steps=0)


def test_without_a_seed_two_batches_play_different_tasks() -> None:
    assert len({tuple(tasks(TextVectorEnv(Corridor(range(1, 60)), 4))) for _ in range(4)}) == 4


def test_a_list_of_seeds_gives_each_game_its_own_order_as_gymnasium_does() -> None:
    lengths, seeds = range(1, 60), [3, 7, 3, np.int64(11)]
    sync = SyncVectorEnv([lambda: TextEnv(Corridor(lengths))] * 4)
    ours = TextVectorEnv(Corridor(lengths), 4)
    expected = sync.reset(seed=[int(seed) for seed in seeds])[1]["task_id"].tolist()
    assert tasks(ours, seed=seeds) == expected
    assert expected[0] == expected[2]
    for _ in range(5):
        assert tasks(ours) == sync.reset()[1]["task_id"].tolist()
    # None: that game's order goes on.
    before = deepcopy(ours)
    mixed, went_on = tasks(ours, seed=[5, None, None, None]), tasks(before)
    assert mixed[1:] == went_on[1:]
    assert mixed[0] == TextEnv(Corridor(lengths), seed=5).reset()[1]["task_id"]
    with pytest.raises(ValueError, match="a list of seeds must have num_envs=4 entries, got 2"):
        ours.reset(seed=[1, 2])
    grouped = TextVectorEnv(Corridor(lengths), 4, group_size=2)
    first = tasks(grouped, seed=[1, 1, 2, 2])
    assert first[0] == first[1] != first[2] == first[3]
    with pytest.raises(ValueError, match=r"games \[0, 1\] are one group and need the same seed, got \[1, 2\]"):
        grouped.reset(seed=[1, 2, 2, 2])
    assert tasks(deepcopy(grouped)) == tasks(grouped)  # the refused reset changed nothing


@pytest.mark.parametrize("given", [False, True])
def test_groups_have_one_task_whatever_is_reset_with_whatever_seed(given: bool) -> None:
    """Resets of any games with any seeds and tasks, at any time: a group has one task, and no game is in it twice."""
    envs = TextVectorEnv(Corridor(range(1, 9)), 6, group_size=3, max_episode_steps=9, autoreset_mode="Disabled")
    rng = np.random.default_rng(int(given))
    seen: dict[int, str] = {}
    members: set[tuple[int, int]] = set()

    def note(infos: dict[str, Any]) -> None:
        for i in np.flatnonzero(infos["_group"]):
            group, task = int(infos["group"][i]), infos["task_id"][i]
            assert seen.setdefault(group, task) == task
            assert (group, i) not in members
            members.add((group, i))

    note(envs.reset(seed=0)[1])
    for _ in range(300):
        mask = rng.random(6) < 0.4
        mask[rng.integers(6)] = True
        mask[rng.integers(6)] = False
        if not mask.any():
            continue
        options: dict[str, Any] = {"reset_mask": mask}
        if given and rng.random() < 0.5:
            options["task_ids"] = [f"walk-{n}" for n in rng.integers(1, 4, size=6)]
        seed = int(rng.integers(100)) if rng.random() < 0.3 else None
        note(envs.reset(seed=seed, options=options)[1])
    counts = [sum((group, i) in members for i in range(6)) for group in seen]
    assert counts.count(3) > 5  # games of a team still meet


def test_after_close_a_step_says_so() -> None:
    envs = TextVectorEnv(Corridor(), 2)
    envs.reset()
    envs.close()
    for use in (envs.reset, lambda: envs.step(["left"] * 2)):
        with pytest.raises(gym.error.ClosedEnvironmentError, match="the environment was closed: make another one"):
            use()


@pytest.mark.parametrize("copy", [deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copied_batch_goes_on_where_the_original_is(copy: Any) -> None:
    envs = TextVectorEnv(Corridor(range(1, 9)), 4, group_size=2, max_episode_steps=6, autoreset_mode="SameStep", seed=1)
    envs.reset()
    rng = np.random.default_rng(0)
    for _ in range(9):
        envs.step(rng.choice(["left", "right"], size=4))
    other = copy(envs)
    for _ in range(20):
        actions = rng.choice(["left", "right"], size=4)
        a, b = envs.step(actions), other.step(actions)
        assert a[0] == b[0]
        assert all(same(x, y) for x, y in zip(a[1:4], b[1:4], strict=True))
        assert a[4]["group"].tolist() == b[4]["group"].tolist()
        assert a[4]["task_id"].tolist() == b[4]["task_id"].tolist()
