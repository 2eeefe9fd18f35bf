"""The recipes of every world, from the warm start to a trained model, cut down to seconds."""

import json

import pytest
from opid_agents.recipes import RECIPES, get_recipe
from opid_agents.recipes.recipe import change
from opid_agents.training.demonstrations import as_element
from opid_agents.training.setup import lm_settings, make_envs
from opid_agents.training.warm_start import make_start

from opid_gym.actions import parse_action
from tests.agents.models import train

SECONDS = [
    "threads=1",
    "model.hidden_size=16",
    "model.layers=1",
    "model.mlp_size=16",
    "warm_start.demonstrations=8",
    "warm_start.steps=4",
    "warm_start.short_steps=1",
    "warm_start.read_steps=1",
    "warm_start.check_tasks=2",
    "iterations=1",
    "tasks_per_iteration=2",
    "group_size=2",
    "evaluation.tasks=2",
    "train_uniform_groups=true",
]


@pytest.mark.parametrize("name", ["tiny-alfworld", "tiny-webshop", "tiny-searchqa"])
def test_a_tiny_recipe_runs_from_nothing_to_a_trained_model(name, tmp_path):
    recipe = change(get_recipe(name), SECONDS)
    start = make_start(recipe)
    assert start.demonstration_success > (0.2 if name == "tiny-webshop" else 0.7)  # its shopper is in haste
    train(recipe, tmp_path / "run", policy=start.policy)
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    # Of babble on the shop's first page hindsight has nothing to say, and then there is nothing to learn.
    speaks = name != "tiny-webshop"
    assert (line["updates"] > 0, line["opid/routed/any"] > 0) == (speaks, speaks)
    assert line["opid/occupancy"] == (1.0 if speaks else None)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_fits_its_world(name):
    recipe = RECIPES[name]
    settings = lm_settings(recipe)
    for split in (recipe.world.train_split, recipe.world.eval_split):
        envs = make_envs(recipe, split, 1)
        assert len(envs.world.task_ids) > 0
        envs.close()
    # What an expert does, written as a reply, must be read back as what it did.
    action = "answer[the Nile]" if "search" in name else "go to shelf 1"
    reply = settings.reply.replace("{action}", as_element(action, settings.action_format.elements))
    parsed = parse_action(reply, settings.action_format)
    assert parsed.valid
    assert parsed.action in (action.lower(), action, "<answer>the Nile</answer>")
