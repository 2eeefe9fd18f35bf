"""The recipes of the paper, the page about them, and what was published hold together."""

import json
import re
from pathlib import Path

import pytest
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import flatten

PAGE = Path(__file__).parents[3] / "docs" / "published.md"
WORLDS = ("alfworld", "webshop", "searchqa")

# From the paper (arXiv 2606.26790) and its scripts: ALFWorld, WebShop, search QA.
PUBLISHED = {
    "iterations": (160, 160, 150),
    "tasks_per_iteration": (16, 16, 128),
    "group_size": (8, 8, 8),
    "world.max_episode_steps": (30, 15, 4),
    "prompting.history_length": (5, 2, 4),
    "prompting.max_prompt_tokens": (2048, 4096, 4096),
    "prompting.max_reply_tokens": (512, 512, 512),
    "prompting.reasoning_tag": (True, True, False),
    "reward": ("success", "success", "return"),
    "reward_scale": (10, 10, 1),
    "invalid_penalty": (0.1, 0.1, 0.01),
    "advantage.mode": ("mean_std_norm", "mean_norm", "mean_std_norm"),
    "advantage.episode_weight": (0.001,) * 3,
    "advantage.step_weight": (0.001,) * 3,
    "advantage.clip": (None,) * 3,
    "skills.max_step_skills": (5, 5, 2),
    "analyzer.max_tokens": (4096,) * 3,
    "analyzer.concurrency": (128,) * 3,
    "analyzer.seconds": (None,) * 3,
    "loss.kl_coef": (0.01, 0.01, 0.001),
    "loss.entropy_coef": (0.001, 0.001, 0),
    "loss.aggregation": ("token_mean",) * 3,
    "optimizer.learning_rate": (1e-6,) * 3,
    "optimizer.warmup": (0, 0, 0.1),
    "optimizer.minibatch_size": (256, 64, 512),
    "temperature": (1, 1, 1),
    "evaluation.temperature": (0.4,) * 3,
    "train_uniform_groups": (True,) * 3,
}


def table() -> dict[str, list[str]]:
    """Rows of the page's first table by their key."""
    text = PAGE.read_text(encoding="utf-8").partition("## What differs")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+) \|$", text, re.MULTILINE)
    return {key: cells.split(" | ") for key, cells in rows}


@pytest.mark.parametrize("world", WORLDS)
def test_the_recipe_has_what_was_published(world):
    values = flatten(get_recipe(f"paper-{world}"))
    expected = {key: by_world[WORLDS.index(world)] for key, by_world in PUBLISHED.items()}
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("world", WORLDS)
def test_the_page_says_what_the_recipe_has(world):
    values = flatten(get_recipe(f"paper-{world}"))
    rows = table()
    assert set(PUBLISHED) <= set(rows)
    assert {key: json.loads(cells[WORLDS.index(world)]) for key, cells in rows.items()} == {
        key: values[key] for key in rows
    }


def test_evaluation_is_on_128_games_of_valid_seen():
    recipe = get_recipe("paper-alfworld")
    assert (recipe.world.eval_split, recipe.evaluation.tasks) == ("valid_seen", 128)


@pytest.mark.parametrize("world", WORLDS)
def test_qwen3_does_not_think(world):
    published, qwen3 = flatten(get_recipe(f"paper-{world}")), flatten(get_recipe(f"paper-{world}-qwen3"))
    changed = {key: value for key, value in qwen3.items() if published[key] != value and key not in ("name", "about")}
    expected = {"model.path": "Qwen/Qwen3-1.7B", "model.template": {"enable_thinking": False}}
    assert changed == expected | ({"advantage.mode": "mean_norm"} if world == "alfworld" else {})
