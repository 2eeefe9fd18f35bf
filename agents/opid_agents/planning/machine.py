"""What a machine does in a second: GPUs by their data sheets and stated shares of them, this machine by measurement."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from opid_agents.planning.shape import ModelShape
from opid_agents.planning.workload import Workload, workload
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, RecipeError, change
from opid_agents.training.batch import StepSample, step_samples
from opid_agents.training.rescoring import skilled_prompts
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route, update
from opid_gym.named import did_you_mean
from opid_gym.trajectory import Trajectory

_TABLE = Path(__file__).parent / "gpus.json"
# Shares of a data sheet's figures that are reached, and what eager kernels cost; assumed, not measured by us.
_FORWARD_SHARE, _BACKWARD_SHARE, _BANDWIDTH_SHARE = 0.40, 0.35, 0.60
_LAYER_SECONDS = 0.25e-3
_ROW_SECONDS = 5e-6
_CALIBRATION_TASKS = (2, 6)  # of the smaller sample, and at least of the larger
_CALIBRATION_SECONDS = 10.0  # that the larger sample may play where that is more tasks: games differ much in length


@dataclass(frozen=True, slots=True)
class Machine:
    """Some equal devices, and what each of them does.

    Attributes:
        name: of the device.
        count: of devices.
        memory: bytes of one; None: not looked at.
        forward, backward: operations a second that passes without and with gradients reach.
        bandwidth: bytes a second that sampling reads of weights and caches.
        link: bytes a second from one device to the others.
        step_seconds: fixed part of sampling one more token in all games.
        row_seconds: and the part of each game.
        host_seconds: of an environment step outside of the model; None: as the sample of the workload took.
        episode_seconds: of extraction and routing.
        assumptions: where these figures come from, a sentence each.
    """

    name: str
    count: int
    memory: float | None
    forward: float
    backward: float
    bandwidth: float
    link: float
    step_seconds: float
    row_seconds: float
    host_seconds: float | None
    episode_seconds: float
    assumptions: tuple[str, ...]


def gpu(kind: str, count: int, shape: ModelShape) -> Machine:
    """Some GPUs of a kind.

    Args:
        kind: a name in ``gpus.json``.
        count: of GPUs.
        shape: of the model that they run.

    Raises:
        ValueError: no GPU of that name is in the table.
    """
    table: dict[str, dict[str, Any]] = json.loads(_TABLE.read_text(encoding="utf-8"))
    if kind not in table:
        hint = did_you_mean(kind, table)
        raise ValueError(f"unknown GPU {kind!r}; {hint and hint + ' '}allowed: {', '.join(sorted(table))}")
    sheet = table[kind]
    peak, bandwidth = 1e12 * sheet["bf16_tflops"], 1e9 * sheet["bandwidth_gb_s"]
    return Machine(
        name=sheet["name"],
        count=count,
        memory=2**30 * sheet["memory_gib"],
        forward=_FORWARD_SHARE * peak,
        backward=_BACKWARD_SHARE * peak,
        bandwidth=_BANDWIDTH_SHARE * bandwidth,
        link=1e9 * sheet["link_gb_s"],
        step_seconds=_LAYER_SECONDS * shape.layers,
        row_seconds=_ROW_SECONDS,
        host_seconds=None,
        episode_seconds=0.0,
        assumptions=(
            f"{sheet['name']}: {sheet['bf16_tflops']} TFLOP/s in bfloat16, {sheet['bandwidth_gb_s']} GB/s, "
            f"{sheet['link_gb_s']} GB/s between GPUs, {sheet['memory_gib']} GiB (data sheet)",
            f"reached (assumed, not measured): {_FORWARD_SHARE:.0%} of the operations in passes without gradients, "
            f"{_BACKWARD_SHARE:.0%} with, {_BANDWIDTH_SHARE:.0%} of the bandwidth when sampling",
            f"our engine with eager kernels (assumed): {1000 * _LAYER_SECONDS:g} ms a layer and sampled token, "
            f"{1e6 * _ROW_SECONDS:g} µs for each game",
            "environment steps, prompts and tokens take as long on each GPU's host as here",
        ),
    )


def this_machine(
    recipe: Recipe, shape: ModelShape, policy: Policy, clock: Callable[[], float] = time.perf_counter
) -> tuple[Machine, Workload]:
    """This machine's CPU, by a short calibration: the stages of a recipe on a few of its tasks.

    Rollouts are played twice, with few games and with more, which tells what a sampled token costs in all games
    together and in each of them; the larger sample, of as many tasks as can be played in some seconds, is scored and
    trained once. The policy is trained by it.

    Args:
        recipe: whose iteration is calibrated for.
        shape: of the model.
        policy: the recipe's start.
        clock: gives the seconds; with one thread `time.process_time` does not count what else the machine does.

    Returns:
        The machine, and the workload of a whole iteration that the sample shows.

    Raises:
        RecipeError: the recipe plays so few tasks that one of its iterations is as short.
    """
    few, least = _CALIBRATION_TASKS
    if recipe.tasks_per_iteration <= few:
        raise RecipeError(
            f"tasks_per_iteration={recipe.tasks_per_iteration}: an iteration is as short as a calibration; run it"
        )
    short = change(recipe, {"num_envs": None, "iterations": 1, "model.device": "cpu", "loggers": ()})
    with tempfile.TemporaryDirectory() as scratch:
        with Run.open(change(short, {"tasks_per_iteration": few}), Path(scratch) / "few", policy=policy) as run:
            _, first = _timed(run, clock)
        affordable = int(_CALIBRATION_SECONDS * few / first[-1])
        more = min(max(least, affordable), recipe.tasks_per_iteration)
        with Run.open(change(short, {"tasks_per_iteration": more}), Path(scratch) / "more", policy=policy) as run:
            trajectories, second = _timed(run, clock)
            return _calibrated(run, recipe, shape, trajectories, (first, second), clock)


_Round = tuple[float, float, float]  # rounds of sampling, sampled tokens, seconds


def _timed(run: Run, clock: Callable[[], float]) -> tuple[list[Trajectory], _Round]:
    started = clock()
    trajectories = roll_out(run, 1)
    seconds = clock() - started
    samples = step_samples(trajectories)
    return trajectories, (_decoding_steps(samples), sum(len(sample.reply_ids) for sample in samples), seconds)


def _calibrated(
    run: Run,
    recipe: Recipe,
    shape: ModelShape,
    trajectories: Sequence[Trajectory],
    rounds: tuple[_Round, _Round],
    clock: Callable[[], float],
) -> tuple[Machine, Workload]:
    samples = step_samples(trajectories)
    started = clock()
    skills, _ = extract(run, trajectories, 1)
    batch = route(run, trajectories, skills, 1)
    extracted = clock()
    batch = rescore(run, batch, 1)
    rescored = clock()
    update(run, batch, 1)
    updated = clock()
    skilled = [
        (prompt.ids, batch.samples[prompt.sample].reply_ids)
        for prompt in skilled_prompts(run.policy, run.settings, batch, batch.routes)
    ]
    turns = max(map(len, trajectories))
    work = workload(recipe, shape, trajectories, samples, batch.samples, skilled, _decoding_steps(samples) / turns, 0.0)
    share = len(trajectories) / work.episodes
    passes = 4 if recipe.model.gradient_checkpointing else 3
    spent = passes * work.train.flops(shape) * share * recipe.optimizer.epochs
    backward = spent / (updated - rescored) if len(batch) else 1e9
    forward = work.score.flops(shape) * share / (rescored - extracted) if skilled else backward
    # What passes cost is known now; the rest of rollouts is divided between rounds and games.
    prefill = work.prefill.flops(shape) * share / rounds[-1][1] / forward
    token = prefill + shape.flops(1, work.context, 1) / forward
    step_seconds, row_seconds = _two_parts([(d, n, max(0.0, s - n * token)) for d, n, s in rounds])
    threads, played = torch.get_num_threads(), len(trajectories) // recipe.group_size
    machine = Machine(
        name=f"this machine's CPU, {threads} thread{'s' * (threads > 1)}",
        count=1,
        memory=None,
        forward=forward,
        backward=backward,
        bandwidth=float("inf"),
        link=float("inf"),
        step_seconds=step_seconds,
        row_seconds=row_seconds,
        host_seconds=0.0,
        episode_seconds=(extracted - started) / len(trajectories),
        assumptions=(
            f"calibrated here on {_CALIBRATION_TASKS[0]} tasks of the recipe and on {played}: "
            f"{forward / 1e9:.3g} GFLOP/s in passes without gradients, {backward / 1e9:.3g} with, "
            f"{1e3 * step_seconds:.3g} ms for each round of sampling, {1e6 * row_seconds:.3g} µs for each game in it",
        ),
    )
    return machine, work


def _decoding_steps(samples: Sequence[StepSample]) -> float:
    """Rounds of sampling of games that are played side by side: at every turn as many as its longest reply."""
    longest: dict[int, int] = {}
    for sample in samples:
        longest[sample.step] = max(longest.get(sample.step, 0), len(sample.reply_ids))
    return float(sum(longest.values()))


def _two_parts(measured: Sequence[_Round]) -> tuple[float, float]:
    """Costs a and b, neither negative, with ``a * x + b * y = z`` as nearly as two measurements (x, y, z) allow.

    >>> _two_parts([(1.0, 1.0, 5.0), (1.0, 3.0, 9.0)])
    (3.0, 2.0)
    >>> _two_parts([(1.0, 1.0, 1.0), (1.0, 3.0, 9.0)])
    (0.0, 2.8)
    """
    (x, y, z), (u, v, w) = measured
    determinant = x * v - u * y
    if determinant:
        a, b = (z * v - w * y) / determinant, (x * w - u * z) / determinant
        if a >= 0 and b >= 0:
            return a, b
        if a >= 0:
            return (x * z + u * w) / (x * x + u * u), 0.0
    return 0.0, (y * z + v * w) / (y * y + v * v)
