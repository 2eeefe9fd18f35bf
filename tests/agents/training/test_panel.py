"""Training on a panel: its tasks and no others, and its hash in what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opid_agents import change, get_recipe, run
from opid_agents.recipes.recipe import RecipeError

from opid_gym.panel import load_panel, make_panel, save_panel
from opid_gym.trajectory import read_jsonl
from tests.agents.models import tiny_recipe


def test_a_panel_sets_the_world_and_keeps_where_its_data_lies() -> None:
    recipe = change(get_recipe("tiny-alfworld"), ["panel=households-small"])
    panel = load_panel("households-small")
    assert recipe.world.env == panel.env
    assert recipe.world.arguments == {"size": "small"}
    assert (recipe.world.train_split, recipe.world.eval_split) == ("train", "valid_unseen")
    assert recipe.world.max_episode_steps == panel.max_episode_steps
    shop = change(get_recipe("tiny-webshop"), {"panel": "shop", "world.arguments": {"data_dir": "mine"}})
    assert shop.world.arguments == {"data_dir": "mine"}
    with pytest.raises(RecipeError, match="unknown panel 'household'; did you mean 'households'"):
        change(get_recipe("tiny-alfworld"), ["panel=household"])


def test_a_run_plays_the_panels_tasks_and_writes_its_hash(tmp_path: Path) -> None:
    lists = {"train": ("train", 3), "test": ("valid_unseen", 2)}
    panel = make_panel("mine", "opid/ALFWorld-v0", lists, arguments={"size": "small"}, max_episode_steps=3)
    save_panel(panel, tmp_path / "mine.json")
    small = ["algorithm=grpo", "start=fresh", "iterations=2", "tasks_per_iteration=2", "warm_start.demonstrations=2"]
    recipe = change(tiny_recipe(*small), [f"panel={tmp_path / 'mine.json'}", "warm_start.check_tasks=1"])
    result = run(recipe, tmp_path / "run")
    played = {trajectory.task_id for trajectory in read_jsonl(tmp_path / "run" / "trajectories.jsonl")}
    assert played == set(panel.lists["train"].tasks)  # four tasks of three: each once before any comes again
    assert [e.task_id for e in result.evaluation.episodes] == list(panel.lists["test"].tasks)
    written = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (written["panel_hash"], written["panel_list"]) == (panel.hash, "test")
