"""Playing ahead against playing in turn: learning curves, seconds an iteration, staleness.

    python benchmarks/asynchronous.py --seeds 5 --out results/asynchronous
    python benchmarks/asynchronous.py --out results/asynchronous --report

For each seed one run with ``staleness=0`` and one with ``staleness=1``, one after the other, from the same bundled
start and on the same tasks; each process has one thread. A run that is in ``results.jsonl`` already is not made again.
The report has Student's 95 % intervals of the differences, paired by seed; seconds are the clock's, from one
iteration's end to the next one's. On a busy machine they say little; what two free cores would take at least is the CPU
time of the process that has more of it (``longest path``), if each process has one thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
from opid_agents.recipes import get_recipe
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.training.loop import run
from opid_agents.training.watcher import Silent
from scipy.stats import t as student

_KEPT = ("sampler/mean", "sampler/kl", "importance/mean", "importance/largest", "importance/effective")
_KEPT = (*_KEPT, "train/clip_fraction", "seconds/rollout", "seconds/rescore old", "seconds/update", "ahead/seconds")


class Clock(Silent):
    """Notes when iterations end, and what this process and those that it started have computed until then."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[list[float]] = []

    def iteration(self, metrics: dict[str, Any]) -> None:
        """See `Watcher`."""
        self.ends.append(time.perf_counter())
        processes = [psutil.Process(), *psutil.Process().children()]
        self.cpu.append([sum(process.cpu_times()[:2]) for process in processes])


def measure(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """One run; what is kept of it."""
    clock, load = Clock(), os.getloadavg()[0]
    cpu = _cpu_seconds()
    result = run(recipe, folder, watch=clock)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    ages: Counter[str] = Counter()
    for row in rows:
        ages.update({k.split("/")[1]: int(v) for k, v in row.items() if k.startswith("staleness/") and k[-1].isdigit()})
    return {
        "recipe": recipe.name,
        "algorithm": recipe.algorithm,
        "staleness": recipe.staleness,
        "seed": recipe.seed,
        "score": result.evaluation.success.estimate,
        "tasks": len(result.evaluation.episodes),
        "curve": [round(row["success"], 4) for row in rows],
        "seconds_an_iteration": [round(b - a, 3) for a, b in zip(clock.ends, clock.ends[1:], strict=False)],
        "longest_path": [
            round(max(b - a for a, b in zip(*pair, strict=True)), 3) for pair in itertools.pairwise(clock.cpu)
        ],
        "cpu_seconds": round(_cpu_seconds() - cpu, 1),
        "samples_by_staleness": dict(ages),
        "figures": {k: [round(row[k], 5) for row in rows if k in row] for k in _KEPT if any(k in row for row in rows)},
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }


def report(lines: list[dict[str, Any]]) -> str:
    """A page about the runs, as far as there are pairs of them."""
    done = {(line["seed"], line["staleness"]): line for line in lines}
    ahead = max(line["staleness"] for line in lines)
    seeds = sorted(seed for seed, staleness in done if staleness == 0 and (seed, ahead) in done)
    pairs = [(done[seed, 0], done[seed, ahead]) for seed in seeds]
    if not pairs:
        return "No seed has both runs yet.\n"
    first = lines[0]
    text = [
        f"# Playing ahead: `{first['recipe']}`, {first['algorithm']}, seeds {', '.join(map(str, seeds))}\n",
        "Made by `benchmarks/asynchronous.py --report`; every number is from `results.jsonl`. Means, and half of "
        "Student's 95 % intervals of the differences, paired by seed.\n",
        f"| | staleness 0 | staleness {ahead} | difference |",
        "|---|---|---|---|",
    ]
    curves = (
        ("success on held-back tasks (%)", lambda line: 100 * line["score"]),
        ("rollouts, mean of the run (%)", lambda line: 100 * fmean(line["curve"])),
        ("rollouts, first third (%)", lambda line: 100 * fmean(line["curve"][: len(line["curve"]) // 3])),
        ("rollouts, last third (%)", lambda line: 100 * fmean(line["curve"][-(len(line["curve"]) // 3) :])),
        (
            "rollouts by weights with as many updates (%)",
            lambda line: 100 * fmean(line["curve"][line["staleness"] : len(line["curve"]) - ahead + line["staleness"]]),
        ),
        ("seconds an iteration, median", lambda line: median(line["seconds_an_iteration"])),
        ("longest path of an iteration (CPU-seconds), median", lambda line: median(line["longest_path"])),
        ("CPU-seconds of a run", lambda line: line["cpu_seconds"]),
    )
    for name, value in curves:
        if "longest" in name and not all("longest_path" in line for pair in pairs for line in pair):
            continue
        rows = [(value(a), value(b)) for a, b in pairs]
        before, after = (fmean(column) for column in zip(*rows, strict=True))
        half = interval([b - a for a, b in rows])
        text.append(f"| {name} | {before:.2f} | {after:.2f} | {after - before:+.2f} ± {half:.2f} |")
    ages: Counter[str] = Counter()
    for _, line in pairs:
        ages.update(line["samples_by_staleness"])
    counts = ", ".join(f"{age}: {count:,} ({count / ages.total():.1%})" for age, count in sorted(ages.items()))
    text += ["", f"Samples by staleness, all runs: {counts}.\n", "Means over the iterations of all runs ahead:\n"]
    for key in _KEPT:
        values = [value for _, line in pairs for value in line["figures"].get(key, [])]
        if values:
            text.append(f"- `{key}`: {fmean(values):.4g} (from {min(values):.4g} to {max(values):.4g})")
    loads = [load for pair in pairs for line in pair for load in line["load"]]
    text.append(
        f"\n{first['cores']} cores, one thread a process; load averages at the runs' ends {min(loads)}-{max(loads)}."
    )
    return "\n".join(text) + "\n"


def interval(values: list[float]) -> float:
    """Half of Student's 95 % interval of a mean."""
    if len(values) < 2:
        return float("inf")
    spread = (sum((value - fmean(values)) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return float(student.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5


def main() -> None:
    """Make the runs that are missing, or write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="tiny-searchqa")
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="folder of results.jsonl and report.md")
    parser.add_argument("--report", action="store_true", help="only write the report")
    parser.add_argument("changes", nargs="*", help="changes to the recipe; algorithm=grpo threads=1 come before them")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    results = given.out / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    for seed in range(0 if given.report else given.seeds):
        # The one that goes first changes, so that neither always has the quieter machine.
        for staleness in (0, given.staleness)[:: 1 if seed % 2 == 0 else -1]:
            if any((line["seed"], line["staleness"]) == (seed, staleness) for line in lines):
                continue
            keys = ["algorithm=grpo", "threads=1", *given.changes, f"seed={seed}", f"staleness={staleness}"]
            with tempfile.TemporaryDirectory() as folder:
                lines.append(measure(change(get_recipe(given.recipe), keys), Path(folder) / "run"))
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(lines[-1]) + "\n")
            print(f"seed {seed}, staleness {staleness}: {lines[-1]['score']:.1%}", file=sys.stderr)
    (given.out / "report.md").write_text(report(lines), encoding="utf-8")


def _cpu_seconds() -> float:
    """Of this process and of those that it started and that have ended."""
    own = os.times()
    return own.user + own.system + own.children_user + own.children_system


if __name__ == "__main__":
    main()
