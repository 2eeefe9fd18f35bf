"""Do learners differ? Paired runs over seeds, from one starting model a seed, with intervals.

    python benchmarks/study.py --learners grpo opid gigpo opid_constant --seeds 10 --out runs/study --json

For each seed the recipe's warm start makes one model, and every learner trains a copy of it on the same tasks in the
same order with the same random streams; all are evaluated on the same held-back tasks. Seeds are what is paired: the
interval of a difference is Student's over the seeds' differences. `opid_constant` is OPID without a teacher; a gain of
distillation is claimed against it, not against GRPO alone. Fewer than ten seeds have misled before.

The study lives in ``--out`` and goes on where it was stopped. Changes to the recipe (``key=value``) hold for all
learners; those written ``learner:key=value`` for one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from opid_agents.commands import load_recipe
from opid_agents.learning.analysis import load_for_test
from opid_agents.learning.checkpoint import latest_checkpoint
from opid_agents.learning.learner import LEARNERS
from opid_agents.learning.train import evaluate_policy, train
from opid_agents.learning.warm import make_start
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, change
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

progress = Console(stderr=True, highlight=False)


Run = dict[str, float | None]


def one_run(recipe: Recipe, start: Path, out: Path) -> Run:
    """Train and evaluate one learner on one seed, or read what an earlier part of the study found.

    Returns:
        ``final``: success on the held-back tasks; ``rollouts``: mean success while training, None without any.
    """
    file = out / "result.json"
    if not file.is_file():
        began = latest_checkpoint(out / "checkpoints") is not None
        policy = train(recipe, out, policy=None if began else Policy.load(start), resume=True)
        evaluation = evaluate_policy(recipe, policy, library=load_for_test(recipe, out))
        metrics = out / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        curve = [json.loads(line)["success"] for line in lines]
        found = {"final": evaluation.success.estimate, "rollouts": fmean(curve) if curve else None}
        file.write_text(json.dumps(found), encoding="utf-8")
    result: Run = json.loads(file.read_text(encoding="utf-8"))
    progress.print(f"{out.parent.name} {recipe.learner}: {result['final']:.1%} of the held-back tasks")
    return result


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean over seeds with Student's 95 % interval; no interval for one seed."""
    mean = fmean(values)
    if len(values) < 2:
        return {"mean": mean, "half": None, "seeds": len(values)}
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half": half, "seeds": len(values)}


def summarise(runs: dict[str, list[Run]], against: str) -> dict[str, Any]:
    """For each learner and each measure of `one_run`: its interval, and that of its paired difference to `against`;
    None where it was not measured."""
    summary: dict[str, Any] = {}
    for name, found in runs.items():
        summary[name] = {}
        for measure in ("final", "rollouts"):
            pairs = [(run[measure], base[measure]) for run, base in zip(found, runs[against], strict=True)]
            known = [(value, base) for value, base in pairs if value is not None and base is not None]
            summary[name][measure] = (
                None
                if not known
                else {
                    "value": interval([value for value, _ in known]),
                    "difference": interval([value - base for value, base in known]),
                }
            )
    return summary


def show(summary: dict[str, Any], against: str) -> Table:
    """The summary as a table, in points of per cent."""
    table = Table(title="Success, mean ± half of the 95 % interval over seeds")
    for column in ("learner", "held-back tasks", f"less {against}", "rollouts", f"less {against}"):
        table.add_column(column)
    for name, measures in summary.items():
        cells = []
        for measure in ("final", "rollouts"):
            for part in ("value", "difference"):
                if not measures[measure] or (part == "difference" and name == against):
                    cells.append("")
                    continue
                of = measures[measure][part]
                half = "" if of["half"] is None else f" ± {100 * of['half']:.1f}"
                sign = "+" if part == "difference" else ""
                cells.append(f"{100 * of['mean']:{sign}.1f}{half}")
        table.add_row(name, *cells)
    return table


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="[LEARNER:]KEY=VALUE", help="changes to the recipe")
    parser.add_argument("--learners", nargs="+", default=["grpo", "opid", "gigpo", "opid_constant"], choices=LEARNERS)
    parser.add_argument("--against", help="the learner to compare with (the first)")
    parser.add_argument("--recipe", default="tiny-alfworld")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    options = parser.parse_args()
    against = options.against or options.learners[0]
    if against not in options.learners:
        parser.error(f"--against {against} is not among --learners {' '.join(options.learners)}")
    own = {name: [c.partition(":")[2] for c in options.changes if c.startswith(f"{name}:")] for name in LEARNERS}
    common = [c for c in options.changes if c.partition("=")[0].partition(":")[0] not in LEARNERS]
    runs: dict[str, list[Run]] = {name: [] for name in options.learners}
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        recipe = change(load_recipe(options.recipe, common), {"seed": seed})
        start = folder / "start"
        if not (start / "config.json").is_file():
            make_start(recipe).policy.save(start)
        for name in options.learners:
            chosen = change(change(recipe, {"learner": name}), own[name])
            runs[name].append(one_run(chosen, start, folder / name))
    summary = summarise(runs, against)
    if options.json:
        print(json.dumps({"recipe": options.recipe, "against": against, "runs": runs, "learners": summary}))
    else:
        progress.print(show(summary, against))


if __name__ == "__main__":
    main()
