"""Do algorithms differ? Paired runs over seeds, from one starting model a seed, with intervals, tests and a report.

    python benchmarks/study.py --algorithms grpo opid gigpo opid_constant --seeds 10 --passes 4 --out runs/study
    python benchmarks/study.py --algorithms vanilla grpo --recipe tiny-searchqa --seeds 5 --passes 4 --out runs/study
    python benchmarks/study.py --report runs/study

For each seed every algorithm trains a copy of one starting model (the one that comes with the package, one made by the
recipe's warm start, or a folder of your own: ``--start``) on the same tasks in the same order with the same random
streams; all are evaluated on the same held-back tasks, ``--passes`` times. Seeds are what is paired: intervals and
tests are Student's over the seeds' differences, corrected for their number by Holm's method. Fewer than ten seeds have
misled before. A gain of distillation is claimed against `grpo`, `gigpo` *and* the controls: the constant, the wrong
skills, imitation of the advice. What training adds to the start is measured against `vanilla`, which trains nothing.

A study lives in ``--out``, one folder a *cell* (recipe, seed, algorithm), and goes on where it was stopped; results in
a ``results.jsonl`` there are not run again. Any number of processes may work on it at once (``--processes``, or
the same command again, also on another machine that sees the folder): each takes a cell that nobody has. Recipes of
several worlds go into one study, one command after the other. Changes to the recipe (``key=value``) hold for all
algorithms; those written ``algorithm:key=value`` for one.

``--failures N`` trains nothing: it plays held-back tasks with the models of finished cells and keeps the first N
failures of each for the report. ``--report`` trains nothing either: from the cells of a study, or from a
``results.jsonl`` that an earlier report wrote, it makes ``results.jsonl``, ``summary.json``, ``report.md`` and the
figures. All runs are in it, those that failed too. A teacher's report on the start (``opid-gym teacher --recipe R
--json``) that lies in the study as ``teacher/R.json`` is set beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from opid_agents.algorithms import ALGORITHMS
from opid_agents.commands import load_recipe
from opid_agents.lm import LMAgent
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.starts import bundled_start
from opid_agents.streams import stream
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.loop import run
from opid_agents.training.run import TrainingDiverged
from opid_agents.training.setup import lm_settings, make_envs, task_ids
from opid_agents.training.warm_start import make_start
from studies.analysis import MEASURES, summarise
from studies.cells import RESULT, Cell, find
from studies.page import FAILURES, report

from opid_gym.console import talk as progress
from opid_gym.evaluation import Evaluation
from opid_gym.files import FolderInUse, hold, write_file
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory

STARTS = ("auto", "bundled", "made")
_WAIT = 5.0  # seconds between two looks at cells that other processes have
_LOOKED_AT = 64  # held-back tasks that are played for their failures
_SHOWN = 300  # characters of an observation in a failure


@dataclass(frozen=True, slots=True)
class Plan:
    """A cell that is to be run: its recipe, complete, and its folder."""

    recipe: Recipe
    folder: Path
    changes: tuple[str, ...]
    start: str
    passes: int

    @property
    def result(self) -> Path:
        """Where its result is written."""
        return self.folder / RESULT


def plans(options: argparse.Namespace) -> list[Plan]:
    """The cells that a command names, seed by seed, so that an unfinished study is a smaller whole one."""
    own = {name: [c.partition(":")[2] for c in options.changes if c.startswith(f"{name}:")] for name in ALGORITHMS}
    common = [c for c in options.changes if c.partition("=")[0].partition(":")[0] not in ALGORITHMS]
    found = []
    for seed, name in product(range(options.first_seed, options.first_seed + options.seeds), options.algorithms):
        recipe = change(load_recipe(options.recipe, common), {"seed": seed})
        # The algorithm first: constants are checked against it.
        recipe = change(change(recipe, {"algorithm": name}), own[name])
        folder = options.out / recipe.name / f"seed-{seed}" / name
        found.append(Plan(recipe, folder, (*common, *own[name]), options.start, options.passes))
    return found


def start_of(plan: Plan) -> tuple[Policy, str]:
    """The policy that all algorithms of a seed start from, and where it comes from."""
    if plan.start not in STARTS:
        return Policy.load(plan.start), Path(plan.start).name
    path = bundled_start(plan.recipe) if plan.start != "made" else None
    if path is not None:
        return Policy.load(path), "bundled"
    if plan.start == "bundled":
        raise SystemExit(f"no start comes with the package for {plan.recipe.name} as it was changed; --start made")
    folder = plan.folder.parent / "start"
    with hold(folder, wait=True):
        if not (folder / "model" / "config.json").is_file():
            make_start(plan.recipe).policy.save(folder / "model")
    return Policy.load(folder / "model"), "made"


def run_cell(plan: Plan) -> Cell:
    """Train and evaluate one algorithm on one seed."""
    recipe = plan.recipe
    policy, start = start_of(plan)
    cell: dict[str, Any] = {
        "recipe": recipe.name,
        "algorithm": recipe.algorithm,
        "seed": recipe.seed,
        "start": start,
        "changes": list(plan.changes),
        "start_sha256": digest(policy),
    }
    out = plan.folder / "run"
    interrupted, begun = out.exists(), time.process_time()
    try:
        done = run(recipe, out, policy=policy, resume=True)
    except TrainingDiverged as error:
        return Cell(**cell, failed=str(error))
    spent = time.process_time() - begun
    evaluations = [done.evaluation]
    for number in range(1, plan.passes):
        again = change(recipe, {"seed": stream(recipe.seed, "pass", number) % 2**31})
        evaluations.append(evaluate_policy(again, done.policy))
    file = out / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
    curve = [line["success"] for line in lines]
    return Cell(
        **cell,
        passes=[evaluation.success.estimate for evaluation in evaluations],
        types=by_type(evaluations),
        score=fmean(episode.episode_return for evaluation in evaluations for episode in evaluation.episodes),
        tasks=len(done.evaluation.episodes),
        panel_hash=done.evaluation.settings.get("panel_hash"),
        rollouts=fmean(curve) if curve else None,
        curve=[round(value, 4) for value in curve],
        env_steps=lines[-1]["env_steps"] if lines else 0,
        seconds=round(sum(value for line in lines for key, value in line.items() if key.startswith("seconds/")), 1),
        cpu_seconds=None if interrupted else round(spent, 1),
    )


def by_type(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Success by task type, mean over evaluations of the same tasks."""
    found = [{name: rate.estimate for name, rate in one.by_task_type().items()} for one in evaluations]
    return {name: round(fmean(rates[name] for rates in found), 6) for name in found[0]}


def digest(policy: Policy) -> str:
    """SHA-256 of a policy's weights, names and shapes included."""
    found = hashlib.sha256()
    for name, value in sorted(policy.model.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def unfinished(todo: Sequence[Plan], out: Path) -> list[Plan]:
    """The cells of a command that have no result yet.

    Raises:
        SystemExit: a cell has a result, but under other settings than the command's.
    """
    stored, left = find(out), []
    for plan in todo:
        cell = stored.get((plan.recipe.name, plan.recipe.algorithm, plan.recipe.seed))
        if cell is None:
            left.append(plan)
            continue
        start = Path(plan.start).name if plan.start not in STARTS else plan.start
        for what, found, asked in (
            ("changes", sorted(cell.changes), sorted(plan.changes)),
            ("start", cell.start, cell.start if start == "auto" else start),
            ("passes", len(cell.passes), len(cell.passes) if cell.failed else plan.passes),
        ):
            if found != asked:
                raise SystemExit(
                    f"{cell.recipe}, {cell.algorithm}, seed {cell.seed} in {str(out)!r} has {what} {found!r}, and "
                    f"{asked!r} is asked for: give another --out"
                )
    return left


def work(todo: Sequence[Plan], out: Path) -> None:
    """Run the cells that nobody else has, until all are finished."""
    while left := unfinished(todo, out):
        worked = False
        for plan in left:
            try:
                with hold(plan.folder):
                    if plan.result.is_file():
                        continue
                    cell = run_cell(plan)
                    write_file(plan.result, cell.to_json() + "\n")
            except FolderInUse:
                continue
            worked = True
            shown = cell.failed or f"{cell.final:.1%} of the held-back tasks"
            progress.print(f"{cell.recipe} seed {cell.seed} {cell.algorithm}: {shown}")
        if not worked:
            time.sleep(_WAIT)


def keep_failures(todo: Sequence[Plan], out: Path, count: int) -> Path:
    """Play held-back tasks with the models of finished cells, and write the first failures of each for the report."""
    kept: list[dict[str, Any]] = []
    for plan in todo:
        recipe = plan.recipe
        if not (plan.folder / "run" / "model").is_dir():
            continue  # stored results alone have no model
        policy = Policy.load(plan.folder / "run" / "model")
        envs = make_envs(recipe, recipe.world.eval_split, _LOOKED_AT)
        seed = stream(recipe.seed, "evaluation")
        agent = LMAgent(policy, lm_settings(recipe), temperature=recipe.evaluation.temperature, seed=seed)
        ids = task_ids(recipe, envs, recipe.world.eval_split)[:_LOOKED_AT]
        played = sorted(play(envs, agent, ids), key=lambda trajectory: trajectory.metadata["index"])
        envs.close()
        failed = [trajectory for trajectory in played if not trajectory.success][:count]
        kept += [{"algorithm": recipe.algorithm, "seed": recipe.seed, **_shown(one)} for one in failed]
    file = out / FAILURES / f"{todo[0].recipe.name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, json.dumps(kept, indent=1) + "\n")
    return file


def _shown(trajectory: Trajectory) -> dict[str, Any]:
    """A failed episode in a few words: what was seen, done, and would have been better."""
    steps = [
        {
            "observation": " ".join(step.observation.split())[:_SHOWN],
            "action": step.action,
            "valid": step.valid,
            "better": step.hindsight.better if step.hindsight else None,
        }
        for step in trajectory.steps
    ]
    return {"task_id": trajectory.task_id, "task": trajectory.task, "steps": steps}


def main() -> None:
    """Run a study, look at its failures, or report it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("changes", nargs="*", metavar="[ALGORITHM:]KEY=VALUE", help="changes to the recipe")
    parser.add_argument(
        "--algorithms",
        "--learners",
        nargs="+",
        default=["grpo", "opid", "gigpo", "opid_constant"],
        choices=ALGORITHMS,
        metavar="ALGORITHM",
    )
    parser.add_argument("--against", help="the algorithm that the last line compares with (the first)")
    parser.add_argument("--recipe", default="tiny-alfworld")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=0, help="screens use seeds that the study does not")
    parser.add_argument("--passes", type=int, default=1, help="evaluations of each result; four or more for a claim")
    parser.add_argument(
        "--start",
        default="auto",
        metavar="|".join((*STARTS, "DIR")),
        help="auto: bundled if there is one, else made; or the folder of a model",
    )
    parser.add_argument("--processes", type=int, default=1, help="cells that are run at once")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument("--failures", type=int, metavar="N", help="keep N failures of each cell; train nothing")
    parser.add_argument("--report", type=Path, metavar="DIR", help="make tables and figures of a study; run nothing")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of the report")
    options = parser.parse_intermixed_args()
    if options.report is not None:
        progress.print(f"written: {report(options.report)}")
        return
    against = options.against or options.algorithms[0]
    if against not in options.algorithms:
        parser.error(f"--against {against} is not among --algorithms {' '.join(options.algorithms)}")
    if options.start not in STARTS and not Path(options.start).is_dir():
        parser.error(f"--start {options.start}: no such folder; allowed: {', '.join(STARTS)} or the folder of a model")
    todo = plans(options)
    if options.failures is not None:
        progress.print(f"written: {keep_failures(todo, options.out, options.failures)}")
        return
    # Each process takes cells that nobody has; they share nothing but the folder.
    others = [
        subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--processes", "1"], stdout=subprocess.DEVNULL)
        for _ in range(options.processes - 1)
    ]
    try:
        work(todo, options.out)
    finally:
        for other in others:
            other.terminate()
            other.wait()
    cells, runs = find(options.out), {}
    for name in options.algorithms:
        found = [cells[plan.recipe.name, name, plan.recipe.seed] for plan in todo if plan.recipe.algorithm == name]
        runs[name] = [{measure: getattr(cell, measure) for measure in MEASURES} for cell in found]
    if options.json:
        summary = summarise(runs, against)
        print(json.dumps({"recipe": options.recipe, "against": against, "runs": runs, "learners": summary}))
    else:
        progress.print(report(options.out).read_text(encoding="utf-8"), markup=False)


if __name__ == "__main__":
    main()
