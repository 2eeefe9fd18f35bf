"""`backend="textworld"` is stock itself behind the same API: both backends give the same episode."""

from __future__ import annotations

import copy
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import opid_gym
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.generator import GeneratedSplit
from opid_gym_envs.alfworld.problem import GameFileError
from opid_gym_envs.alfworld.stock import StockEngine
from tests.processes import printed

gym.register_envs(opid_gym)
DATA = Path(__file__).parents[1] / "data" / "alfworld"


@pytest.mark.parametrize("source", ["file", "generated"])
def test_both_backends_play_the_same_episode(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    arguments: dict[str, Any] = {"size": "small", "split": "valid_seen", "count": 6}
    if source == "file":
        with tarfile.open(DATA / "games.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        arguments = {"games": sorted(tmp_path.glob("train/*heat*/*/game.tw-pddl"))}
    ours, stock = (
        gym.make("opid/ALFWorld-v0", backend=backend, max_episode_steps=12, **arguments)
        for backend in ("native", "textworld")
    )
    rng = np.random.default_rng(0)
    a, b = ours.reset(seed=1), stock.reset(seed=1)
    assert a == b
    ended = False
    while not ended:
        actions = a[-1]["admissible_actions"]
        action = str(rng.choice(actions)) if rng.random() < 0.8 else "juggle"
        a, b = ours.step(action), stock.step(action)  # type: ignore[assignment]
        assert a == b
        ended = a[2] or a[3]
    stock.close()
    assert "ALFWORLD_DATA" not in os.environ  # importing stock sets it, which would redirect every later gym.make
    with pytest.raises(gym.error.ClosedEnvironmentError):
        stock.reset()
    again = gym.make("opid/ALFWorld-v0", backend="textworld", max_episode_steps=12, **arguments)
    again.reset()
    with pytest.raises(NotImplementedError, match="backend='native'"):
        again.unwrapped.expert_action()  # type: ignore[attr-defined]
    again.close()


def test_stock_plays_a_game_whose_rules_are_not_ours(tmp_path: Path) -> None:
    with tarfile.open(DATA / "games.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    [path] = tmp_path.glob("train/*heat*/*/game.tw-pddl")
    data = json.loads(path.read_text())
    data["grammar"] = data["grammar"].replace("You open the", "You carefully open the")
    path.write_text(json.dumps(data))
    with pytest.raises(GameFileError, match="textworld"):
        gym.make("opid/ALFWorld-v0", games=[path]).reset()
    env = gym.make("opid/ALFWorld-v0", games=[path], backend="textworld")
    _, info = env.reset()
    assert info["task_type"] == "pick_heat_then_place_in_recep"
    assert info["task"].startswith(("put a hot", "heat some"))
    for command in info["admissible_actions"]:
        if command.startswith("go to drawer"):
            _, _, _, _, info = env.step(command)
            break
    [opening] = [command for command in info["admissible_actions"] if command.startswith("open ")]
    assert env.step(opening)[0].startswith("You carefully open the")
    env.close()


def test_memory_does_not_grow_with_the_episodes() -> None:
    """Each episode's game is loaded anew, and stock's planner library is never unloaded: it has to be used again."""
    code = (
        "import resource, gymnasium as gym, opid_gym\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "def play(resets):\n"
        "    env = gym.make('opid/ALFWorld-v0', backend='textworld', size='small', count=4)\n"
        "    for _ in range(resets):\n"
        "        env.reset()\n"
        "    env.close()\n"
        "play(6)\n"
        "before = peak()\n"
        "for _ in range(3):\n"
        "    play(4)\n"
        "print(peak() - before)\n"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if 'libdownward' in line}))\n"
    )
    growth, libraries = printed(code, "1").splitlines()[-2:]
    assert float(growth) < 8  # MB; some 20 with a library for every episode
    assert libraries == "1"


def test_an_engine_after_a_broken_file_plays_as_a_new_one(tmp_path: Path) -> None:
    """The environment that failed is used again."""
    good, _, bad = (export_game(problem, tmp_path) for problem in GeneratedSplit("train", size="small", count=3))
    first = StockEngine(good)
    shown = [first.reset(), first.step("look"), first.step("go to nowhere"), first.admissible_commands()]
    first.close()
    data = json.loads(bad.read_text())
    for change in ({"pddl_problem": "(define"}, {"grammar": "{"}, {"pddl_domain": ""}):
        bad.write_text(json.dumps(data | change))
        with pytest.raises(GameFileError, match="stock cannot load the file"):
            StockEngine(bad)
    again = StockEngine(good)
    assert [again.reset(), again.step("look"), again.step("go to nowhere"), again.admissible_commands()] == shown
    again.close()
    again.close()


def test_stock_is_neither_copied_nor_pickled() -> None:
    env = gym.make("opid/ALFWorld-v0", backend="textworld", size="small", count=2)
    for how in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"backend='textworld' cannot be copied or pickled: .*planner"):
            how(env)
