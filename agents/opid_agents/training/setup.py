"""From a recipe to what it describes: the model with its limits, prompts and replies, environments, threads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from opid_agents.distributed import Processes
from opid_agents.lm import LMSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Model, Recipe, RecipeError
from opid_gym import registration
from opid_gym.actions import ActionFormat
from opid_gym.panel import load_panel, panel_tasks
from opid_gym.prompting import load_template
from opid_gym.vector import TextVectorEnv


def load_policy(path: str | Path, model: Model) -> Policy:
    """Read the model in a folder; device, precision, attention and limits are those of a recipe.

    Raises:
        ValueError: it cannot be used so; the message names what is wrong.
    """
    policy = Policy.load(path, device=model.device, dtype=model.dtype, attn_implementation=model.attn_implementation)
    return configure(policy, model)


def configure(policy: Policy, model: Model) -> Policy:
    """Give a policy the device, attention and limits of a recipe. Its precision stays.

    Raises:
        ValueError: the model does not take them.
    """
    policy.to(model.device)
    policy.max_tokens, policy.train_tokens = model.score_tokens, model.train_tokens
    policy.mask_entries = model.mask_entries
    if model.context_limit is not None:
        policy.context_limit = model.context_limit
    if model.attn_implementation is not None:
        policy.set_attention(model.attn_implementation)
    if model.gradient_checkpointing:
        policy.checkpoint_layers()
    return policy


def lm_settings(recipe: Recipe) -> LMSettings:
    """Prompt, reply and evaluation temperature of a recipe."""
    prompting = recipe.prompting
    template = load_template(prompting.template)
    if prompting.history_length is not None:
        template = replace(template, history_length=prompting.history_length)
    return LMSettings(
        template=template,
        action_format=ActionFormat(
            tag=prompting.action_tag,
            elements=prompting.action_elements,
            lower=prompting.lower,
            reasoning=prompting.reasoning_tag,
            admissible=prompting.require_admissible,
            spaces=prompting.spaces,
        ),
        max_reply_tokens=prompting.max_reply_tokens,
        reply=prompting.reply,
        stop=prompting.stop,
        max_prompt_tokens=prompting.max_prompt_tokens,
        template_arguments=recipe.model.template,
        temperature=recipe.evaluation.temperature,
        constrain=recipe.sampler.constrain,
        actions=recipe.sampler.actions,
    )


def make_envs(recipe: Recipe, split: str | None, num_envs: int) -> TextVectorEnv:
    """The recipe's world, `num_envs` games at once, without autoreset.

    Args:
        recipe: its part ``world`` is used.
        split: which tasks; None: the world is not asked for a split.
        num_envs: number of games.

    Raises:
        RecipeError: the world does not know an argument; the message says which value of the recipe to set.
    """
    world = recipe.world
    arguments = world.arguments if split is None else {**world.arguments, "split": split}
    try:
        return registration.make_envs(world.env, num_envs, max_episode_steps=world.max_episode_steps, **arguments)
    except TypeError as error:
        advice = "arguments of the environment are set with world.arguments, e.g. world.arguments={}"
        if split is not None:
            advice += "; for a world without splits set world.train_split=none and world.eval_split=none"
        raise RecipeError(f"{world.env}: {error}; {advice}") from None


def task_ids(recipe: Recipe, envs: TextVectorEnv, split: str | None) -> list[str]:
    """The tasks of a split that a recipe plays: those of its panel, or all.

    Raises:
        PanelError: the panel has no list of this split, or its tasks are not here.
        RecipeError: a panel is named and no split.
    """
    if recipe.panel is None:
        return list(envs.world.task_ids)
    if split is None:
        raise RecipeError(f"panel={recipe.panel} lists tasks by split: set world.train_split and world.eval_split")
    panel = load_panel(recipe.panel)
    return panel_tasks(panel, panel.list_of(split), envs.world)


def check_parallel(recipe: Recipe, processes: Processes) -> None:
    """Check that a recipe can be run by this number of processes.

    Raises:
        RecipeError: it cannot; the message says what to change.
    """
    if recipe.staleness and recipe.parallel == "shard":
        raise RecipeError(f"parallel: got 'shard' with staleness={recipe.staleness}; allowed: replicate, auto")
    if recipe.model.rollout_device is not None and not recipe.staleness:
        raise RecipeError(
            f"model.rollout_device={recipe.model.rollout_device} is for a process that plays while another learns: "
            "set staleness=1, or model.rollout_device=none"
        )
    if processes.size == 1:
        return
    if recipe.parallel == "none":
        raise RecipeError(
            f"parallel: got 'none' for {processes.size} processes; allowed: replicate, shard, auto, or one process"
        )
    if recipe.parallel == "shard" and recipe.lora.rank:
        raise RecipeError("parallel: got 'shard' with adapters (lora.rank); allowed: replicate, auto")
    if recipe.parallel == "shard" and recipe.sampler.kind != "hf":
        raise RecipeError(f"parallel: got 'shard' with sampler.kind={recipe.sampler.kind}; allowed: replicate, auto")


ParallelMode = Literal["none", "replicate", "shard"]


def parallel_mode(recipe: Recipe, policy: Policy, processes: Processes) -> ParallelMode:
    """How the processes of a run learn together, with ``auto`` decided."""
    on_gpu = policy.device.type == "cuda"
    memory = torch.cuda.get_device_properties(policy.device).total_memory if on_gpu else None
    return choose_parallel(recipe, policy.model.num_parameters(), policy.has_lora, processes.size, memory)


def choose_parallel(recipe: Recipe, weights: int, lora: bool, processes: int, memory: float | None) -> ParallelMode:
    """How processes learn together that have a GPU each.

    A weight that is trained takes at most 18 bytes: itself (2 to 4), its gradient (4), AdamW's two moments (8) and the
    float32 copy of one in lower precision. The other half of a GPU is for activations and caches.

    Args:
        recipe: may name the mode; ``auto`` is decided here.
        weights: of the model.
        lora: adapters are trained in their place.
        processes: how many there are.
        memory: bytes of a GPU; None: there is none.
    """
    if processes == 1 or recipe.parallel == "none":
        return "none"
    if recipe.parallel != "auto":
        return recipe.parallel
    if recipe.sampler.kind != "hf" or recipe.staleness or lora or memory is None:
        return "replicate"
    return "shard" if 18 * weights > memory / 2 else "replicate"


def set_threads(recipe: Recipe) -> None:
    """Use as many CPU threads as the recipe says; results are the same only for the same number."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
