"""The training loop, and a run from its beginning to its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from opid_agents.distributed import ALONE, Processes
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.gate import judge_teacher
from opid_agents.training.run import Run
from opid_agents.training.stages import extract, rescore, roll_out, route, update
from opid_agents.training.watcher import Silent, Watcher
from opid_gym.evaluation import Evaluation


def train(run: Run) -> Policy:
    """Train the policy of an open run: OPID's five stages in the order of the paper (arXiv 2606.26790).

    Returns:
        The trained policy, also saved in the run's folder under ``model``.

    Raises:
        TrainingDiverged: too many updates in a row had a loss or gradient that was not finite.
    """
    for iteration in run.iterations():
        with run.policy.gathered():
            judge_teacher(run, iteration)
            trajectories = roll_out(run, iteration)
            skills, figures = extract(run, trajectories, iteration)
            batch = route(run, trajectories, skills, iteration)
            batch = rescore(run, batch, iteration)
        result = update(run, batch, iteration)
        run.record(iteration, trajectories, skills, figures, batch, result)
    run.save_model()
    run.report()
    return run.policy


@dataclass(frozen=True, slots=True)
class RunResult:
    """What came of a run.

    Attributes:
        folder: where it is.
        policy: the trained policy.
        before: success of the starting policy; None: not measured (``evaluation.before``).
        evaluation: success of the trained policy on the held-back tasks.
        seconds: by phase: ``warm start``, ``evaluate before``, ``train``, ``evaluate after``.
    """

    folder: Path
    policy: Policy
    before: Evaluation | None
    evaluation: Evaluation
    seconds: dict[str, float]

    @property
    def model(self) -> Path:
        """The folder of the trained policy, in Hugging Face format."""
        return self.folder / "model"


def run(
    recipe: Recipe,
    out: str | Path,
    *,
    policy: Policy | None = None,
    resume: bool = False,
    watch: Watcher | None = None,
    profile: bool = False,
    processes: Processes = ALONE,
) -> RunResult:
    """Do what a recipe says: get a starting policy, train it, evaluate it, report. All of it is in the folder `out`.

    However it ends, everything is closed; interrupted, the same call with ``resume=True`` goes on with the numbers of
    an unbroken run.

    Args:
        recipe: everything that influences the result (`opid_agents.recipes.get_recipe`).
        out: the run's folder.
        policy: where to start; None: the model that the recipe names, or one that its warm start makes.
        resume: go on with the run in the folder, if there is one.
        watch: is told how it goes on.
        profile: write a trace of one iteration (`Run.open`).
        processes: of which this one is a part; see `Run.open`.

    Raises:
        ValueError: the folder holds another run, or something the recipe names is not there.
        opid_gym.files.FolderInUse: another process has the folder open.
        TrainingDiverged: too many updates in a row had a loss or gradient that was not finite.
    """
    phases = _Phases(watch or Silent())
    before = None
    with phases("warm start"):
        opened = Run.open(
            recipe,
            out,
            policy=policy,
            resume=resume,
            watch=phases.watch,
            profile=profile,
            processes=processes,
        )
    with opened as it:
        if it.recipe.evaluation.before:
            with phases("evaluate before"):
                before = evaluate_policy(it.recipe, it.start_policy(), watch=phases.watch, processes=processes)
                it.write_evaluation("before", before)
        with phases("train"):
            train(it)
        with phases("evaluate after"):
            evaluation = it.evaluate()
            it.write_evaluation("evaluation", evaluation)
        it.report()
        return RunResult(it.folder.path, it.policy, before, evaluation, phases.seconds)


@dataclass(slots=True)
class _Phases:
    """Announces phases and measures them."""

    watch: Watcher
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.watch.phase(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
