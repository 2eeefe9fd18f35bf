"""The starting policies that come with the package."""

import pytest
import torch
from opid_agents import run
from opid_agents.expert import ExpertAgent
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import change
from opid_agents.starts import About, bundled_start, bundled_starts
from opid_agents.training.imitation import following_rate
from opid_agents.training.setup import lm_settings, make_envs
from opid_agents.training.teacher import AdvisedAgent

from opid_gym.files import damage
from opid_gym.rollout import play
from tests.agents.models import tiny_recipe

NAMES = bundled_starts()


def test_every_world_has_a_start():
    assert {"tiny-alfworld", "tiny-searchqa", "tiny-webshop"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_start_is_small_whole_and_says_how_it_was_made(name):
    folder = bundled_start(get_recipe(name))
    assert folder is not None, "the recipe was changed in what its start is bound to: make the start again"
    assert damage(folder, thorough=True) is None
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000
    about = About.load(folder)
    assert about.recipe == name
    assert about.command.startswith(f"opid-gym pretrain --recipe {name}")


@pytest.mark.parametrize("changed", ["model.hidden_size=32", "prompting.max_reply_tokens=9", "world.env=my/World-v0"])
def test_a_recipe_of_another_shape_has_no_start(changed):
    assert bundled_start(change(get_recipe("tiny-alfworld"), [changed])) is None


def test_a_recipe_with_other_constants_of_training_keeps_its_start():
    assert bundled_start(change(get_recipe("tiny-alfworld"), ["algorithm=grpo", "seed=3"])) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_start_reads_hints_and_does_better_with_them(name):
    """On few tasks, so with room for chance; `opid-gym teacher` measures it on many."""
    recipe = get_recipe(name)
    policy = Policy.load(bundled_start(recipe))
    envs = make_envs(recipe, recipe.world.eval_split, 32)
    ids = list(envs.world.task_ids)[:32]
    settings = lm_settings(recipe)
    plain = list(play(envs, LMAgent(policy, settings, temperature=recipe.temperature), ids))
    told = list(play(envs, AdvisedAgent(policy, settings, envs.world, temperature=recipe.temperature), ids))
    shown = list(play(envs, ExpertAgent(envs), ids))
    envs.close()
    assert following_rate(policy, settings, plain, texts=shown, samples=100) >= 0.9
    assert sum(t.success for t in told) >= sum(t.success for t in plain) + 6


def test_one_that_is_made_fresh_has_the_precision_of_the_recipe(tmp_path):
    """And the run goes on from the very weights that it began with."""
    changes = ["warm_start.steps=2", "warm_start.short_steps=1", "warm_start.read_steps=0", "model.dtype=bfloat16"]
    recipe = tiny_recipe("start=fresh", "iterations=0", "evaluation.tasks=1", *changes)
    made = run(recipe, tmp_path).policy
    again = run(recipe, tmp_path, resume=True).policy
    assert made.dtype == again.dtype == torch.bfloat16
    for weight, same in zip(made.trained(), again.trained(), strict=True):
        assert torch.equal(weight, same)
