"""The plan of a recipe in one call."""

from __future__ import annotations

import time
from collections.abc import Callable

from opid_agents.planning.estimate import Plan, estimate
from opid_agents.planning.machine import gpu, this_machine
from opid_agents.planning.shape import shape_of
from opid_agents.planning.workload import sample_here
from opid_agents.recipes.recipe import Recipe, RecipeError
from opid_agents.starts import bundled_start
from opid_agents.training.setup import load_policy, set_threads


def make_plan(
    recipe: Recipe,
    *,
    gpus: int,
    kind: str = "h100",
    reply_tokens: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Plan:
    """What a recipe needs of memory, tokens and time.

    Args:
        recipe: what is to be run.
        gpus: how many; 0: this machine's CPU, which is calibrated by playing and training for some seconds.
        kind: of the GPUs, a name of ``gpus.json``.
        reply_tokens: mean tokens of a reply, for GPUs; see `opid_agents.planning.workload.sample_here`.
        clock: for the CPU; see `opid_agents.planning.machine.this_machine`.

    Raises:
        RecipeError: the model's shape is not known; or, for the CPU, there is no model to calibrate with.
        ValueError: there is no such GPU.
    """
    shape, source = shape_of(recipe)
    known = [f"the model: {shape.weights:,} weights, from {source}"]
    if gpus == 0:
        path = recipe.model.path or bundled_start(recipe)
        if path is None:
            raise RecipeError(
                f"recipe {recipe.name!r} has no model to calibrate with: name one with model.path=DIR "
                "(`opid-gym pretrain` makes one)"
            )
        set_threads(recipe)
        machine, work = this_machine(recipe, shape, load_policy(path, recipe.model), clock)
        known.append("tokens: of the calibration's games, played by the start; it is as good in all other tasks")
    else:
        machine = gpu(kind, gpus, shape)
        work = sample_here(recipe, shape, reply_tokens=reply_tokens)
        mean = work.reply_tokens / work.steps
        known += [
            "tokens: of a few games played at random until they end; a policy's may be shorter or longer",
            "tokens of texts are counted by a stand-in for the model's tokenizer",
            f"replies: {mean:.0f} tokens on average (--reply-tokens), the longest of a round {work.longest_reply:.0f}",
            "all groups are trained; every episode has a skill, and as many of its steps as may have one",
        ]
    return estimate(recipe, shape, work, machine, known=tuple(known))
