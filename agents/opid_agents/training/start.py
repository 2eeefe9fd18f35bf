"""The policy that a run starts from, and the reference it is compared with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from opid_agents.algorithms import Algorithm
from opid_agents.lm import LMSettings
from opid_agents.lora import LoraSettings, is_untrained
from opid_agents.policy import Policy, find_model
from opid_agents.recipes.recipe import Recipe
from opid_agents.starts import bundled_start
from opid_agents.streams import stream
from opid_agents.training.kept_teacher import Teacher
from opid_agents.training.run_folder import RECIPE, RunFolder
from opid_agents.training.scoring import Scorer
from opid_agents.training.setup import configure, load_policy
from opid_agents.training.warm_start import make_start
from opid_agents.training.watcher import Watcher
from opid_gym.files import replacing_folder


def starting_policy(
    recipe: Recipe, folder: RunFolder, given: Policy | None, settings: LMSettings, watch: Watcher
) -> Policy:
    """The policy a run starts from, kept in the run's folder. What an interruption left of one is made anew.

    It is, in this order: the folder's own, from an earlier part of the run; the one given; the model at
    ``model.path``; the one that comes with the package for this recipe; one that the recipe's warm start makes.

    Args:
        recipe: names the model, its adapters, and the warm start.
        folder: the run's.
        given: a policy to start from.
        settings: prompt and reply, saved with the policy.
        watch: is told about the warm start.
    """
    model = recipe.model
    if folder.start_damage() is None:
        _finish(folder.warm_start)
        return load_policy(folder.start, model)
    if given is None and recipe.start == "auto" and (path := model.path or bundled_start(recipe)):
        given = load_policy(path, model)
    if given is None:
        given = make_start(recipe, watch, watch.check, checkpoints=folder.warm_start).policy
        given.set_dtype(model.dtype)  # one made from nothing has learned in float32
    policy = configure(given, model)
    policy.settings = settings.to_json()
    if recipe.lora.rank and not policy.has_lora:
        shape = LoraSettings(recipe.lora.rank, recipe.lora.alpha, recipe.lora.targets)
        base = find_model(model.path) if model.path and recipe.start == "auto" else folder.base
        shutil.rmtree(folder.base, ignore_errors=True)
        policy.add_lora(shape, base, seed=stream(recipe.seed, "adapters"))
    with replacing_folder(folder.start) as scratch:
        policy.save(scratch)
        (scratch / RECIPE).write_text(json.dumps(recipe.model_dump(mode="json"), indent=2) + "\n", encoding="utf-8")
    _finish(folder.warm_start)
    return policy


def _finish(warm_start: Path) -> None:
    """Remove what is needed no more once the start is on the disk."""
    shutil.rmtree(warm_start, ignore_errors=True)


def make_reference(recipe: Recipe, policy: Policy, folder: RunFolder) -> Scorer:
    """What scores for the KL term: the policy the run started from."""
    if policy.has_lora and is_untrained(folder.start):
        return policy.base_scores  # the same weights without their adapters: no second model
    return load_policy(folder.start, recipe.model).score


def make_teacher(recipe: Recipe, algorithm: Algorithm, folder: RunFolder, checkpoint: Path | None) -> Teacher | None:
    """What scores with skills in the prompts, where that is not the policy itself; as `checkpoint` left it."""
    if algorithm.teacher_weights == "policy":
        return None
    rate = algorithm.with_constants(recipe.constants)["ema_rate"] if algorithm.teacher_weights == "ema" else 0.0
    teacher = Teacher(load_policy(folder.start, recipe.model), rate)
    if checkpoint is not None:
        teacher.load(checkpoint)
    return teacher
