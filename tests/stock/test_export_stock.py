"""Stock ALFWorld collects exported games and plays them in exactly our words."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.expert import solve
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import GeneratedSplit, generate
from opid_gym_envs.alfworld.problem import TASK_TYPES, Dialect
from opid_gym_envs.alfworld.stock import StockEngine


@pytest.fixture(autouse=True)
def stock_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Stock's module of environments. Importing it sets $ALFWORLD_DATA, which must not outlive the test."""
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    return pytest.importorskip(
        "alfworld.agents.environment.alfred_tw_env",
        reason="stock ALFWorld is not installed (pip install opid-gym[stock])",
    )


@pytest.mark.parametrize(("seed", "task_type"), list(enumerate(TASK_TYPES)))
def test_stock_plays_an_exported_game_in_our_words(seed: int, task_type: str, tmp_path: Path) -> None:
    """A little random play, some of it nonsense, and then the expert's plan from there."""
    dialect = (Dialect.MOVE, Dialect.PUT)[seed % 2]
    problem = generate(seed, task_type=task_type, size="small", dialect=dialect)
    ours, stock = Engine(Game.compile(problem)), StockEngine(export_game(problem, tmp_path))
    rng = random.Random(seed)

    def agree(a: str, b: str) -> None:
        assert a == b
        assert ours.admissible_commands() == stock.admissible_commands()
        assert ours.won == stock.won

    agree(ours.reset(), stock.reset())
    commands = [rng.choice([*ours.admissible_commands(), "dance"])]
    for number in range(6):
        agree(ours.step(commands[-1]), stock.step(commands[-1]))
        doing = [c for c in ours.admissible_commands() if not c.startswith("go to")]
        commands.append(rng.choice(doing if number % 2 else ours.admissible_commands()))
    for command in solve(ours):
        agree(ours.step(command), stock.step(command))
    assert stock.won
    stock.close()


def test_stock_collects_exported_games(tmp_path: Path, stock_environment: Any) -> None:
    paths = {str(export_game(problem, tmp_path)) for problem in GeneratedSplit("train", size="small", count=14)}
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"data_path": str(tmp_path), "num_train_games": -1},
    }
    assert set(stock_environment.AlfredTWEnv(config, train_eval="train").game_files) == paths
    config["env"]["task_types"] = [2]
    looking = {path for path in paths if "/look_at_obj_in_light-" in path}
    assert set(stock_environment.AlfredTWEnv(config, train_eval="train").game_files) == looking
