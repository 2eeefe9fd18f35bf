"""`backend="textworld"` is stock itself behind the same API: both backends give the same episode."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import opid_gym
from opid_gym_envs.alfworld.problem import GameFileError

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
    stock.reset()
    with pytest.raises(NotImplementedError, match="backend='native'"):
        stock.unwrapped.expert_action()  # type: ignore[attr-defined]
    stock.close()


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
