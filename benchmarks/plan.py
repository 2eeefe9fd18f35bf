"""How near `opid-gym plan` comes to a real run on this CPU: the predicted iteration next to measured ones.

    python benchmarks/plan.py --json > results/plan.json

The plan is made first, from a calibration on a few tasks; then some whole iterations of the same recipe are trained.
One process, one thread; seconds are CPU time (``time.process_time``) on both sides, which does not count what else the
machine does. ``ratio`` is predicted over measured, for all stages together.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from itertools import pairwise
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from opid_agents.commands import load_recipe
from opid_agents.planning.plan import make_plan
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.training.batch import step_samples
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route, update

from opid_gym.console import out
from opid_gym.console import talk as progress


def main() -> None:
    """Predict, measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--recipe", default="tiny-alfworld")
    parser.add_argument("--iterations", type=int, default=4, help="that are measured, after one that warms up")
    parser.add_argument("--rounds", type=int, default=3, help="each makes a plan and trains, with another seed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of lines of text")
    arguments = parser.parse_args()
    rounds = []
    for seed in range(arguments.rounds):
        progress.print(f"round {seed + 1}/{arguments.rounds}")
        recipe = change(load_recipe(arguments.recipe, arguments.changes), {"seed": seed, "threads": 1})
        rounds.append(compare(change(recipe, {"iterations": arguments.iterations + 1})))
    figures = {"rounds": rounds, "machine": machine(), "recipe": arguments.recipe, "changes": arguments.changes}
    if arguments.json:
        print(json.dumps(figures))
        return
    for found in rounds:
        for stage, (predicted, measured) in found["seconds"].items():
            out.print(f"{stage}: predicted {predicted:.3g} s, measured {measured:.3g} s")
        out.print(f"ratio {found['ratio']:.2f}")


def compare(recipe: Recipe) -> dict[str, Any]:
    """Predicted and measured seconds of an iteration by stage, and the same for its tokens."""
    made = make_plan(recipe, gpus=0, clock=time.process_time)
    with tempfile.TemporaryDirectory() as scratch, Run.open(recipe, scratch) as run:
        rows = [iterate(run, iteration) for iteration in run.iterations()][1:]
    means = {name: fmean(row[name] for row in rows) for name in rows[0]}
    seconds = {stage: (predicted, means[stage]) for stage, predicted in made.seconds.items()}
    return {
        "seed": recipe.seed,
        "seconds": seconds,
        "ratio": made.iteration / sum(measured for _, measured in seconds.values()),
        "tokens": {name: (made.tokens[name], means[name]) for name in ("prompt", "reply", "rescored")},
        "assumptions": made.assumptions,
    }


def iterate(run: Run, iteration: int) -> dict[str, float]:
    """Seconds and tokens of one iteration."""
    marks = [time.process_time()]
    trajectories = roll_out(run, iteration)
    marks.append(time.process_time())
    skills, _ = extract(run, trajectories, iteration)
    batch = route(run, trajectories, skills, iteration)
    marks.append(time.process_time())
    batch = rescore(run, batch, iteration)
    marks.append(time.process_time())
    update(run, batch, iteration)
    marks.append(time.process_time())
    samples = step_samples(trajectories)
    stages = ("roll out", "extract and route", "re-score", "update")
    return {stage: end - start for stage, (start, end) in zip(stages, pairwise(marks), strict=True)} | {
        "prompt": sum(len(sample.prompt_ids) for sample in samples),
        "reply": sum(len(sample.reply_ids) for sample in samples),
        "rescored": 0 if batch.teacher is None else batch.teacher.rescored_tokens,
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions = {name: version(name) for name in ("torch", "transformers")}
    return {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(), **versions}


if __name__ == "__main__":
    main()
