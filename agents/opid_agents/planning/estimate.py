"""From a workload and a machine to memory, seconds and GPU-hours."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from opid_agents.algorithms import get_algorithm
from opid_agents.planning.machine import Machine
from opid_agents.planning.shape import ModelShape
from opid_agents.planning.workload import Workload
from opid_agents.recipes.recipe import Recipe
from opid_agents.training.setup import choose_parallel

_MOST_LOGITS = 2**26  # made at once by `Policy`
_FREE = 0.10  # of a GPU's memory, for what allocators lose


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe needs.

    Attributes:
        recipe: its name.
        machine: name and number of devices.
        parameters: of the model.
        parallel: as the run would choose (`opid_agents.training.setup.choose_parallel`).
        memory: bytes on one device, by purpose; ``peak`` is the most at once.
        fits: whether the peak fits; None: not looked at.
        tokens: of an iteration, all devices together: ``prompt`` and ``reply`` as sampled, ``rescored`` with skills as
            written, and what is computed of them when beginnings are shared: ``prefilled``, ``scored``, ``trained``.
        seconds: of an iteration, by stage.
        hours: of all devices together over the whole run, by stage.
        assumptions: what all of this rests on, a sentence each.
    """

    recipe: str
    machine: str
    parameters: int
    parallel: str
    memory: dict[str, float]
    fits: bool | None
    tokens: dict[str, float]
    seconds: dict[str, float]
    hours: dict[str, float]
    assumptions: tuple[str, ...]

    @property
    def iteration(self) -> float:
        """Seconds of an iteration."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        sums = {"iteration_seconds": self.iteration, "total_hours": sum(self.hours.values())}
        return asdict(self) | sums | {"assumptions": list(self.assumptions)}


def estimate(recipe: Recipe, shape: ModelShape, work: Workload, machine: Machine, *, known: tuple[str, ...]) -> Plan:
    """The plan of a recipe.

    Args:
        recipe: what is run.
        shape: of its model.
        work: of one of its iterations.
        machine: what runs it.
        known: what the shape and the workload rest on, a sentence each.
    """
    parallel = choose_parallel(recipe, shape.weights, bool(recipe.lora.rank), machine.count, machine.memory)
    memory = memory_of(recipe, shape, work, machine, shard=parallel == "shard")
    fits = None if machine.memory is None else memory["peak"] <= (1 - _FREE) * machine.memory
    seconds = seconds_of(recipe, shape, work, machine, shard=parallel == "shard")
    return Plan(
        recipe=recipe.name,
        machine=machine.name if machine.count == 1 else f"{machine.count} x {machine.name}",
        parameters=shape.weights,
        parallel=parallel,
        memory=memory,
        fits=fits,
        tokens={
            "prompt": work.prompt_tokens,
            "reply": work.reply_tokens,
            "rescored": work.scored_prompt_tokens,
            "prefilled": work.prefill.tokens,
            "scored": work.score.tokens,
            "trained": work.train.tokens * recipe.optimizer.epochs,
        },
        seconds=seconds,
        hours={stage: value * recipe.iterations * machine.count / 3600 for stage, value in seconds.items()},
        assumptions=(*known, *machine.assumptions, *_notes(recipe)),
    )


def memory_of(recipe: Recipe, shape: ModelShape, work: Workload, machine: Machine, *, shard: bool) -> dict[str, float]:
    """Bytes on one device, by purpose.

    ``peak`` is what stays (weights, gradients, optimizer, frozen copies) and the larger of what sampling (keys and
    values) and learning (activations, logits) need besides. Weights that are divided are whole while games are played.
    """
    number = _bytes_each(recipe)
    trained = _trained(recipe, shape)
    parts = machine.count if shard else 1
    games = _games(recipe, machine)
    length = work.longest_prompt + work.longest_reply
    copies = bool(recipe.loss.kl_coef and not recipe.lora.rank) + (
        get_algorithm(recipe.algorithm).teacher_weights != "policy"
    )
    logits = min(_MOST_LOGITS, recipe.model.train_tokens * shape.vocabulary)
    kept = shape.activation_bytes(number)
    if recipe.model.gradient_checkpointing:  # each layer's input, and all of one layer
        kept = shape.layers * shape.hidden * number + kept // shape.layers
    memory = {
        "weights": shape.weights * number / parts,
        # Gradients are added up in float32; weights in bfloat16 have float32 copies, and AdamW keeps two moments.
        "gradients": trained * 4 / parts,
        "optimizer": trained * (8 if number == 4 or recipe.lora.rank else 12) / parts,
        "frozen copies": copies * shape.weights * number / parts,
        "whole weights for playing": shape.weights * number if shard else 0.0,
        "keys and values": games * length * shape.cache_bytes(number),
        "activations": recipe.model.train_tokens * kept + 3 * 4 * logits,
    }
    playing = memory["keys and values"] + memory["whole weights for playing"]
    stays = sum(memory[name] for name in ("weights", "gradients", "optimizer", "frozen copies"))
    return memory | {"peak": stays + max(playing, memory["activations"])}


def seconds_of(
    recipe: Recipe, shape: ModelShape, work: Workload, machine: Machine, *, shard: bool = False
) -> dict[str, float]:
    """Seconds of an iteration, by stage; those of the device with the most groups."""
    algorithm, optimizer = get_algorithm(recipe.algorithm), recipe.optimizer
    passes = 4 if recipe.model.gradient_checkpointing else 3  # forward, and twice as much backward
    share = math.ceil(recipe.tasks_per_iteration / machine.count) / recipe.tasks_per_iteration
    number, trained = _bytes_each(recipe), _trained(recipe, shape)
    host = work.host_seconds if machine.host_seconds is None else machine.host_seconds
    # One after the other, as many episodes as do not fit side by side.
    turns = work.longest_episode * math.ceil(share * work.episodes / _games(recipe, machine))
    rounds = turns * work.longest_reply
    rows = share * work.reply_tokens / rounds
    read = shape.weights * number + rows * work.context * shape.cache_bytes(number)
    token = max(read / machine.bandwidth, rows * shape.flops(1, work.context, 1) / machine.forward)
    rollout = rounds * (machine.step_seconds + rows * machine.row_seconds + token)
    rollout += share * (work.prefill.flops(shape) / machine.forward + work.steps * host)
    forward = work.train.flops(shape) * share
    exchanged = 2 * 4 * trained * (machine.count - 1) / machine.count / machine.link
    if shard:  # the weights are gathered in each of two passes, besides
        exchanged += 2 * shape.weights * number / machine.link
    # A step reads and writes gradients, moments and weights once each.
    steps = optimizer.epochs * optimizer.updates(max(1, round(work.steps)))
    stepping = steps * (28 * trained / machine.bandwidth + exchanged)
    seconds = {
        "roll out": rollout,
        "extract and route": share * work.episodes * machine.episode_seconds,
        "re-score": share * work.score.flops(shape) / machine.forward if algorithm.teacher == "scores" else 0.0,
        "update": optimizer.epochs * passes * forward / machine.backward + stepping,
    }
    if recipe.sampler.rescore_old is True or (recipe.sampler.rescore_old == "auto" and number < 4):
        seconds["re-score"] += forward / machine.forward
    if recipe.loss.kl_coef:
        seconds["update"] += forward / machine.forward
    if recipe.evaluation.every and recipe.evaluation.tasks:
        seconds["evaluate"] = rollout * recipe.evaluation.tasks / work.episodes / recipe.evaluation.every
    return seconds


def _bytes_each(recipe: Recipe) -> int:
    return 4 if recipe.model.dtype == "float32" else 2


def _trained(recipe: Recipe, shape: ModelShape) -> float:
    """Weights that training changes; adapters on every layer's seven projections."""
    if not recipe.lora.rank:
        return shape.weights
    attention = 4 * shape.hidden + 2 * shape.head_size * (shape.heads + shape.kv_heads)
    return recipe.lora.rank * shape.layers * (attention + 3 * (shape.hidden + shape.mlp))


def _games(recipe: Recipe, machine: Machine) -> int:
    """Games that one device plays side by side."""
    most = math.ceil(recipe.tasks_per_iteration / machine.count) * recipe.group_size
    return min(most, recipe.num_envs or most)


def _notes(recipe: Recipe) -> tuple[str, ...]:
    notes = []
    if recipe.skills.extractor == "llm" and get_algorithm(recipe.algorithm).needs_skills:
        notes.append("the analyzer is served elsewhere: neither its time nor its memory is counted")
    if recipe.evaluation.every and not recipe.evaluation.tasks:
        notes.append("evaluations of a whole split are not counted")
    notes.append("not counted: start-up, the warm start, checkpoints, evaluations before and after")
    return tuple(notes)
