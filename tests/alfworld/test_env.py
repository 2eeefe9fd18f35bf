"""`opid/ALFWorld-v0` from the outside: where games come from, what an episode pays, and what happens to bad input."""

from __future__ import annotations

import copy
import gzip
import json
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

import opid_gym
from opid_gym_envs.alfworld.library import official_games
from opid_gym_envs.alfworld.problem import GameFileError
from tests.processes import printed

gym.register_envs(opid_gym)
DATA = Path(__file__).parents[1] / "data" / "alfworld"


@pytest.fixture(scope="session")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("games")
    for name in ("games.tar.gz", "games_old_generation.tar.gz"):
        with tarfile.open(DATA / name) as archive:
            archive.extractall(folder, filter="data")
    return folder


def transcripts() -> list[dict[str, Any]]:
    episodes = []
    for name in ("stock_transcripts.jsonl.gz", "stock_transcripts_old_generation.jsonl.gz"):
        with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
            episodes += [json.loads(line) for line in file]
    return episodes


@pytest.mark.parametrize("vector", [False, True])
def test_stock_transcripts_replay_through_gymnasium(games: Path, vector: bool) -> None:
    """Every recorded stock episode, byte for byte, through `gym.make` and through `gym.make_vec`."""
    steps = 0
    for episode in transcripts():
        path = games / episode["game"]
        start, *rest = episode["steps"]
        if vector:
            envs = gym.make_vec("opid/ALFWorld-v0", num_envs=1, games=[path], max_episode_steps=100)
            observations, infos = envs.reset()
            shown = [(observations[0], infos["admissible_actions"][0], infos["won"][0])]
        else:
            env = gym.make("opid/ALFWorld-v0", games=[path], max_episode_steps=100)
            observation, info = env.reset()
            shown = [(observation, info["admissible_actions"], info["won"])]
            assert start["obs"].endswith(f"Your task is to: {info['task']}.")
        assert shown == [(start["obs"], tuple(start["admissible"]), start["won"])]
        for step in rest:
            if vector:
                observations, rewards, ended, _, infos = envs.step([step["cmd"]])
                got = (observations[0], rewards[0], ended[0], infos["admissible_actions"][0], infos["won"][0])
            else:
                observation, reward, terminated, _, info = env.step(step["cmd"])
                got = (observation, reward, terminated, info["admissible_actions"], info["won"])
            assert got == (step["obs"], step["score"], step["done"], tuple(step["admissible"]), step["won"])
            steps += 1
    assert steps > 500


def test_generated_games_are_the_default_and_the_same_in_every_process() -> None:
    code = (
        "import gymnasium as gym, opid_gym\n"
        "for size in ('small', 'real'):\n"
        "    env = gym.make('opid/ALFWorld-v0', size=size, split='valid_seen', seed=4)\n"
        "    print([(o, sorted(i.items())) for o, i in (env.reset() for _ in range(5))])\n"
    )
    output = printed(code, "1")
    assert output == printed(code, "2")
    assert output.count("'anchor', '-= Welcome") == 10


@pytest.mark.parametrize("split", ["train", "valid_seen", "valid_unseen"])
@pytest.mark.parametrize("size", ["small", "real"])
def test_the_expert_wins_once_and_is_paid_once(split: str, size: str) -> None:
    env = gym.make("opid/ALFWorld-v0", split=split, size=size)
    for _ in range(8):
        _, info = env.reset()
        rewards, ended = [], False
        while not ended:
            _, reward, ended, truncated, info = env.step(env.unwrapped.expert_action())
            rewards.append(reward)
            assert not truncated
        assert info["won"]
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_official_data_is_found_and_filtered_as_stock_does(
    games: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "json_2.1.1"
    shutil.copytree(games / "train", home / "train")
    trials = sorted((home / "train").glob("*/*"))
    kept = [trial for trial in trials if "two" in trial.as_posix() or "heat" in trial.as_posix()]
    for trial, change in zip(
        [t for t in trials if t not in kept], ["traj", "solvable", "false", "movable"], strict=True
    ):
        game = trial / "game.tw-pddl"
        data = json.loads(game.read_text())
        if change == "traj":
            (trial / "traj_data.json").unlink()
        elif change == "solvable":
            game.write_text(json.dumps({key: value for key, value in data.items() if key != "solvable"}))
        elif change == "false":
            game.write_text(json.dumps({**data, "solvable": False}))
        else:
            trial.parent.rename(trial.parent.with_name("pick_and_place_with_movable_recep-Mug"))
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    env = gym.make("opid/ALFWorld-v0", split="train")
    assert len(env.unwrapped.world.task_ids) == len(kept) == 2
    assert {env.reset()[1]["task_type"] for _ in range(2)} == {
        "pick_heat_then_place_in_recep",
        "pick_two_obj_and_place",
    }
    assert (
        gym.make("opid/ALFWorld-v0", data_dir=home, split="train").unwrapped.world.task_ids
        == official_games(tmp_path, "train").ids
    )
    only = gym.make("opid/ALFWorld-v0", split="train", task_types=["pick_two_obj_and_place"])
    assert len(only.unwrapped.world.task_ids) == 1
    with pytest.raises(FileNotFoundError, match="no split 'valid_seen'"):
        gym.make("opid/ALFWorld-v0", split="valid_seen")
    # Asking for a size asks for generated games, whatever data there is.
    assert len(gym.make("opid/ALFWorld-v0", size="small", count=7).unwrapped.world.task_ids) == 7


def test_importing_stock_does_not_ask_for_official_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock sets $ALFWORLD_DATA to a folder of its own when it is imported, whether there is anything in it or not."""
    cache = tmp_path / ".cache" / "alfworld"
    cache.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ALFWORLD_DATA", str(cache))
    assert len(gym.make("opid/ALFWorld-v0", split="valid_seen").unwrapped.world.task_ids) == 140
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no split 'valid_seen'"):
        gym.make("opid/ALFWorld-v0", split="valid_seen")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"pddl_domain": "(define', "not valid JSON"),
        (b"\xff\xfe\x00", "cannot read the file"),
        (b"[1, 2]", "need a JSON object with the keys of a game, found list"),
        (b'{"pddl_domain": "x", "grammar": 3}', "key 'grammar' must be text, found int"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_a_broken_game_file_is_refused_before_anything_runs(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(GameFileError, match=rf"game\.tw-pddl: {message}"):
        gym.make_vec("opid/ALFWorld-v0", num_envs=2, games=[path])


def test_wrong_arguments_are_named(games: Path, tmp_path: Path) -> None:
    path = next(games.glob("train/*/*/game.tw-pddl"))
    for arguments, error, message in [
        ({"split": "test"}, ValueError, r"split must be one of \('train', 'valid_seen', 'valid_unseen'\), got 'test'"),
        ({"size": "huge"}, ValueError, "huge"),
        ({"backend": "unity"}, ValueError, "backend must be one of"),
        ({"task_types": ["juggle"]}, ValueError, "task_types must be some of"),
        ({"games": []}, ValueError, "games is empty"),
        ({"games": str(path)}, ValueError, "list of paths, got one path"),
        ({"games": [path, path]}, ValueError, "twice"),
        ({"games": [tmp_path / "none"]}, FileNotFoundError, "no game file at"),
        ({"games": [path], "split": "train"}, ValueError, "games= names the game files themselves"),
        ({"data_dir": tmp_path / "none"}, FileNotFoundError, "data_dir=.* is not a folder"),
        ({"data_dir": games, "size": "small"}, ValueError, "give one of them"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            gym.make("opid/ALFWorld-v0", **arguments)


@pytest.mark.parametrize("action", ["", "\0", "LOOK", "go  to desk 1", "x" * 2**20, "\ud800", "look\0", "{}[]#|"])
def test_nonsense_changes_nothing_and_counts_as_a_step(games: Path, action: str) -> None:
    env = gym.make("opid/ALFWorld-v0", games=[next(games.glob("train/*/*/game.tw-pddl"))], max_episode_steps=2)
    _, before = env.reset()
    observation, reward, terminated, truncated, info = env.step(action)
    assert (observation, reward, terminated, truncated) == ("Nothing happens.", 0.0, False, False)
    assert info["admissible_actions"] == before["admissible_actions"]
    assert env.step(action)[3]


def test_the_expert_answers_after_the_task_is_solved() -> None:
    env = gym.make("opid/ALFWorld-v0", size="small", count=4)
    for _ in range(4):
        _, info = env.reset()
        while not info["won"]:
            _, _, _, _, info = env.step(env.unwrapped.expert_action())
        assert env.unwrapped.expert_action() in info["admissible_actions"]


@pytest.mark.parametrize("source", ["generated", "given"])
@pytest.mark.parametrize("how", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
def test_a_copy_goes_on_with_the_same_text(games: Path, source: str, how: Callable[[Any], Any]) -> None:
    """In the middle of an episode, with the expert's plan half done; neither changes what the other plays."""
    arguments = (
        {"size": "small", "count": 9} if source == "generated" else {"games": sorted(games.rglob("game.tw-pddl"))}
    )
    env = gym.make("opid/ALFWorld-v0", **arguments)
    env.reset(seed=3)
    for _ in range(3):
        env.step(env.unwrapped.expert_action())
    other = how(env)

    def rest(env: Any) -> list[Any]:
        shown: list[Any] = []
        for number in range(120):
            ended = shown and (shown[-1][2] or shown[-1][3])
            odd = "look" if number % 5 == 4 else env.unwrapped.expert_action()
            shown.append((*env.reset(), False, False) if ended else env.step(odd))
        return shown

    assert rest(env) == rest(other)
    assert other.unwrapped.world.task_ids == env.unwrapped.world.task_ids


def test_a_pickle_of_a_world_that_played_much_is_small(games: Path) -> None:
    env = gym.make("opid/ALFWorld-v0", size="small", count=40)
    env.reset()
    before = len(pickle.dumps(env))
    for _ in range(39):
        env.reset()
    assert len(pickle.dumps(env)) < 2 * before


def test_hindsight_has_one_record_a_step(games: Path) -> None:
    from opid_agents.expert import ExpertAgent

    from opid_gym.rollout import play

    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=3, size="small", autoreset_mode="Disabled")
    world = envs.unwrapped.world
    for trajectory in play(envs, ExpertAgent(envs.unwrapped), world.task_ids[:6]):
        progress = world.hindsight(trajectory)
        assert len(progress) == len(trajectory)
        assert progress[-1].reached
        assert not any(step.wasted for step in progress)
