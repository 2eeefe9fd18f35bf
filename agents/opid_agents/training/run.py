"""A run: everything one training run owns, from the opening of its folder to its report.

A run lives in one folder: ``recipe.json``, ``versions.json``, ``start/`` (the starting policy), ``checkpoints/``,
``metrics.jsonl`` (one line an iteration), ``tensorboard/`` and ``wandb/`` (if wanted), ``trajectories.jsonl``,
``skills.jsonl``, ``analysis_spent.json`` (what an analyzer has cost), ``before.json`` and ``evaluation.json`` (success
on held-back tasks), ``teacher/`` (reports on the teacher, with ``skills.gate=true``), ``model/`` (the result, Hugging
Face format) and ``report.md``. Every random stream is derived from the seed and the iteration, so a run that was
stopped at any moment goes on with the numbers of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from opid_agents.algorithms import Algorithm, get_algorithm
from opid_agents.algorithms.auxiliary import teacher_alone
from opid_agents.algorithms.optimizer import make_optimizer
from opid_agents.algorithms.shaping import opsd
from opid_agents.distributed import ALONE, Processes
from opid_agents.lm import LMSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe, change
from opid_agents.sampling.sampler import Sampler
from opid_agents.sampling.vllm import VLLMSampler
from opid_agents.skills.extract import Extractor, Skills
from opid_agents.skills.library import SkillLibrary
from opid_agents.streams import stream
from opid_agents.training.ahead import Ahead, Version, make_player, version_for
from opid_agents.training.batch import Batch
from opid_agents.training.checkpoint import (
    Progress,
    Writing,
    in_parts,
    latest_checkpoint,
    load_ahead,
    load_optimizer,
    load_progress,
    save_checkpoint,
    seed_everything,
)
from opid_agents.training.evaluation import evaluate_policy
from opid_agents.training.extraction import for_test, make_extractor
from opid_agents.training.kept_teacher import Teacher
from opid_agents.training.loggers import Logger, open_loggers
from opid_agents.training.metrics import describe_iteration
from opid_agents.training.profiling import traced
from opid_agents.training.report import write_report
from opid_agents.training.rollouts import Part
from opid_agents.training.run_folder import RunFolder, model_of
from opid_agents.training.scoring import Scorer
from opid_agents.training.setup import (
    check_parallel,
    lm_settings,
    load_policy,
    make_envs,
    parallel_mode,
    set_threads,
    task_ids,
)
from opid_agents.training.start import make_reference, make_teacher, starting_policy
from opid_agents.training.token_log import Credit, describe_credit
from opid_agents.training.updates import UpdateResult
from opid_agents.training.watcher import Silent, Watcher
from opid_gym.evaluation import Evaluation
from opid_gym.files import hold, replacing_folder
from opid_gym.order import TaskOrder
from opid_gym.trajectory import Trajectory
from opid_gym.vector import TextVectorEnv


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite; the last good checkpoint is kept."""


@dataclass(slots=True)
class Run:
    """A training run that is open. Made by `Run.open`; a context manager that closes everything, however it ends.

    Attributes:
        recipe: everything that influences the result.
        folder: where everything is written.
        algorithm, constants: the recipe's algorithm, and its constants.
        settings: prompt and reply.
        policy: the model that is trained, in place.
        optimizer: of its weights.
        envs: the games that are played at once.
        sampler: what samples replies for the policy; None: each agent samples from the policy itself.
        reference: scores for the KL term; None: there is none.
        extractor: finds skills; None: the algorithm needs none.
        library: skills in the prompts of rollouts; None: the algorithm has none.
        teacher: scores with skills in the prompts; None: the policy itself, as it sampled.
        loggers: where the metrics go besides the folder.
        watch: is told how the run goes on.
        progress: how far it has come.
        processes: who learns; the first one writes the folder.
        ahead: plays the rollouts, with ``staleness``; None: they are played here.
    """

    recipe: Recipe
    folder: RunFolder
    algorithm: Algorithm
    constants: Mapping[str, Any]
    settings: LMSettings
    policy: Policy
    optimizer: torch.optim.Optimizer
    envs: TextVectorEnv
    sampler: Sampler | None
    reference: Scorer | None
    extractor: Extractor | None
    library: SkillLibrary | None
    teacher: Teacher | None
    loggers: Sequence[Logger]
    watch: Watcher
    progress: Progress
    _open: ExitStack
    _saved: int  # the iteration of the newest checkpoint, or 0
    _writing: tuple[int, Writing] | None = None  # the one that is being written, with its iteration
    _seconds: dict[str, float] = field(default_factory=dict)
    # Whether policy and optimizer are further than `progress` says: an update has begun that is not recorded yet.
    _ahead: bool = False
    _traced: int = 0  # the iteration that a trace is written of, or 0
    processes: Processes = ALONE
    ahead: Ahead | None = None

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        out: str | Path,
        *,
        policy: Policy | None = None,
        resume: bool = False,
        watch: Watcher | None = None,
        profile: bool = False,
        processes: Processes = ALONE,
    ) -> Run:
        """Open a run's folder and get everything ready, the starting policy included.

        Args:
            recipe: everything that influences the result. A resumed run keeps its model where this one names none.
            out: the run's folder.
            policy: where to start; None: the model that the recipe names, or one that its warm start makes. It is not
                used where the folder has a start already.
            resume: go on from the folder's latest checkpoint; without one the run begins at its start.
            watch: is told how it goes on.
            profile: write a trace of the second iteration from here on, or of the only one, to ``trace.json.gz``.
            processes: of which this one is a part (`opid_agents.distributed.join`); alone if not given. All of them
                need the same recipe and a common disk with the folder.

        Raises:
            ValueError: the folder holds another run, or something the recipe names is not there.
            opid_gym.files.FolderInUse: another process has the folder open.
        """
        watch = watch or Silent()
        check_parallel(recipe, processes)
        if resume and recipe.model.path is None:
            recipe = change(recipe, {"model.path": model_of(Path(out))})
        algorithm, settings = get_algorithm(recipe.algorithm), lm_settings(recipe)
        constants = algorithm.with_constants(recipe.constants)
        set_threads(recipe)
        with ExitStack() as stack:
            begun: _Begun | None = None
            loggers: Sequence[Logger] = ()
            if processes.leads:
                stack.enter_context(hold(out))
                folder = RunFolder.open(Path(out), recipe, resume=resume, warn=watch.warn)
                checkpoint = latest_checkpoint(
                    folder.checkpoints,
                    lambda path, wrong: watch.warn(f"The checkpoint {path.name} is left out, it is damaged: {wrong}."),
                )
                if checkpoint is None:
                    policy = starting_policy(recipe, folder, policy, settings, watch)
                elif _needs_start(recipe, algorithm, checkpoint) and (wrong := folder.start_damage()) is not None:
                    raise ValueError(f"{str(out)!r} cannot go on with the same numbers, its start is damaged: {wrong}")
                begun = _Begun(folder, checkpoint, Progress() if checkpoint is None else load_progress(checkpoint))
                _mend_records(begun, watch)
                if begun.progress.iteration == 0 and (trap := _penalty_trap(recipe, algorithm)) is not None:
                    watch.warn(trap)
                loggers = open_loggers(recipe, folder.path, after=begun.progress.iteration)
                for logger in loggers:
                    stack.callback(logger.close)
            begun = processes.share(begun)
            assert begun is not None
            folder, checkpoint, progress = begun.folder, begun.checkpoint, begun.progress
            if checkpoint is not None or not processes.leads:
                at = folder.start if checkpoint is None or in_parts(checkpoint) else checkpoint
                policy = load_policy(at, recipe.model)
            assert policy is not None
            if parallel_mode(recipe, policy, processes) == "shard":
                policy.shard()
            optimizer = make_optimizer(
                policy.trained(),
                learning_rate=recipe.optimizer.learning_rate,
                weight_decay=recipe.optimizer.weight_decay,
            )
            if checkpoint is not None:
                load_optimizer(checkpoint, optimizer, policy)
            games = recipe.num_envs or max(1, len(processes.own(range(recipe.tasks_per_iteration))) * recipe.group_size)
            sampler: Sampler | None = None
            ahead: Ahead | None = None
            weights = folder.path / ("sampler" if processes.size == 1 else f"sampler-{processes.rank}")
            if recipe.staleness:
                player = make_player(recipe, policy, folder.start, weights, games)
                stack.callback(player.close)
                kept = {} if checkpoint is None else load_ahead(checkpoint)
                versions = {n: Version(found, _library(recipe, folder, algorithm, n)) for n, found in kept.items()}
                ahead = Ahead(player, recipe.staleness, recipe.iterations, versions, progress.iteration)
                games = 1  # what is left to play here are evaluations, which make their own
            elif recipe.sampler.kind == "vllm":
                sampler = VLLMSampler(policy, weights, recipe.sampler.options, constrain=recipe.sampler.constrain)
                stack.callback(sampler.close)
            envs = make_envs(recipe, recipe.world.train_split, games)
            stack.callback(envs.close)
            return cls(
                recipe,
                folder,
                algorithm,
                constants,
                settings,
                policy,
                optimizer,
                envs,
                sampler,
                reference=make_reference(recipe, policy, folder) if recipe.loss.kl_coef else None,
                extractor=make_extractor(recipe, policy, spent=folder.spent()) if algorithm.needs_skills else None,
                library=_library(recipe, folder, algorithm),
                teacher=make_teacher(recipe, algorithm, folder, checkpoint),
                loggers=loggers,
                watch=watch,
                progress=progress,
                _open=stack.pop_all(),
                _saved=progress.iteration,
                _traced=min(progress.iteration + 2, recipe.iterations) if profile and processes.leads else 0,
                processes=processes,
                ahead=ahead,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is KeyboardInterrupt:
                self.keep()
                self.watch.stopped(self.progress.iteration, self._saved)
        finally:
            if kind is not None:
                with suppress(Exception):  # what ends the run is the news, not a checkpoint that it ends as well
                    self._wait_for_checkpoint()
            self.close()

    def keep(self) -> None:
        """Save a checkpoint of the last finished iteration, so that a resumed run repeats none.

        Nothing is saved where there is one already, or where an update has begun: weights that are half updated
        belong to no iteration, and the one under way is repeated from the last checkpoint. Of several processes the
        others may be elsewhere, so nothing is saved either.
        """
        if self.processes.size == 1 and not self._ahead and self.progress.iteration > self._saved:
            self._save_checkpoint()

    def close(self) -> None:
        """Close environments, sampler, loggers and folder; a checkpoint that is being written is finished."""
        try:
            self._wait_for_checkpoint()
        finally:
            self._open.close()

    def iterations(self) -> Iterator[int]:
        """The numbers of the iterations that are left, from 1, each with its own random streams."""
        # Without updates and without a library nothing would come of playing.
        total = self.recipe.iterations if self.algorithm.advantage or self.algorithm.library else 0
        for iteration in range(self.progress.iteration + 1, total + 1):
            seed_everything(self.recipe.seed, "iteration", iteration)
            self._seconds = {}
            with traced(self.folder.trace) if iteration == self._traced else nullcontext():
                yield iteration

    def tasks(self, iteration: int) -> list[str]:
        """The tasks of an iteration: the next ones in the run's random order of the train split."""
        known = task_ids(self.recipe, self.envs, self.recipe.world.train_split)
        count = self.recipe.tasks_per_iteration
        order = TaskOrder(len(known), stream(self.recipe.seed, "tasks"))
        return [known[order.at((iteration - 1) * count + i)] for i in range(count)]

    def part(self, iteration: int) -> Part:
        """What this process plays of an iteration."""
        tasks = self.tasks(iteration)
        own = self.processes.own(range(len(tasks)))
        return Part(iteration, version_for(iteration, self.recipe.staleness), [tasks[i] for i in own], own)

    def trains(self, batch: Batch) -> bool:
        """Whether there is anything to train in a batch."""
        return self.algorithm.advantage is not None and len(batch) > 0

    def begin_update(self) -> None:
        """From here until the iteration is recorded, the weights belong to no iteration."""
        self._ahead = True

    @contextmanager
    def timed(self, name: str, shown: str = "", total: int = 0) -> Iterator[Callable[[int], None]]:
        """Measure a part of an iteration, and show it if `shown` names it; yields a function that counts units done."""
        started = time.perf_counter()
        with record_function(name), self.watch.stage(shown, total) if shown else nullcontext(lambda _: None) as advance:
            yield advance
        self._seconds[name] = time.perf_counter() - started

    def record(
        self,
        iteration: int,
        trajectories: Sequence[Trajectory],
        skills: Sequence[Skills | None],
        figures: dict[str, float],
        batch: Batch,
        result: UpdateResult,
    ) -> None:
        """Write down what an iteration did, evaluate and save a checkpoint where they are due.

        Raises:
            TrainingDiverged: too many updates in a row were not finite.
        """
        recipe, folder, before = self.recipe, self.folder, self.progress
        evaluation = None
        if recipe.evaluation.every and iteration % recipe.evaluation.every == 0:
            with self.timed("evaluate"):
                evaluation = self.evaluate()
        self.progress = Progress(
            iteration=iteration,
            episodes=before.episodes + len(trajectories),
            env_steps=before.env_steps + sum(map(len, trajectories)),
            skipped_updates=before.skipped_updates + result.skipped,
            skipped_in_a_row=result.skipped_in_a_row,
            written=before.written + min(len(trajectories), folder.room(before)),
        )
        if self.processes.leads:
            credit: Credit = {}
            if result.advantage is not None:
                credit = describe_credit(
                    self.policy.tokenizer, batch, result.advantage, trajectories=folder.room(before)
                )
            folder.write_trajectories(before, trajectories, skills, credit, iteration)
            metrics = describe_iteration(
                self.progress, trajectories, skills, figures, batch, result, evaluation, self._seconds
            )
            if self.ahead is not None:
                metrics["ahead/seconds"] = round(self.ahead.seconds, 3)
            folder.write_metrics(metrics)
        self._ahead = False
        if self.processes.leads:
            for logger in self.loggers:
                logger.write(metrics)
            self.watch.iteration(metrics)
        limit = recipe.optimizer.max_bad_updates
        if result.skipped_in_a_row >= limit:
            raise TrainingDiverged(
                f"{result.skipped_in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(optimizer.max_bad_updates={limit}); the last good checkpoint is in {folder.checkpoints}"
            )
        if iteration % recipe.checkpoint_every == 0 or iteration == recipe.iterations:
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        """Begin to write a checkpoint, which of a divided model goes on beside the next iterations."""
        self._wait_for_checkpoint()
        if self.processes.leads:
            self.folder.sync()  # what the checkpoint counts is on the disk before it
        self._writing = (
            self.progress.iteration,
            save_checkpoint(
                self.folder.checkpoints,
                self.policy,
                self.optimizer,
                self.progress,
                self.teacher,
                self.processes,
                ahead=None if self.ahead is None else self.ahead.to_keep(self.progress.iteration),
            ),
        )
        if self.policy.shards is None or self.progress.iteration == self.recipe.iterations:
            self._wait_for_checkpoint()

    def _wait_for_checkpoint(self) -> None:
        if self._writing is not None:
            (iteration, writing), self._writing = self._writing, None
            writing.wait()
            self._saved = iteration

    def start_policy(self) -> Policy:
        """A fresh copy of the policy that the run started from."""
        return load_policy(self.folder.start, self.recipe.model)

    def evaluate(self, *, split: str | None = None, tasks: int | None = None) -> Evaluation:
        """Success of the policy as it is now; see `opid_agents.training.evaluation.evaluate_policy`."""
        with self.policy.gathered():
            return evaluate_policy(
                self.recipe,
                self.policy,
                split=split,
                tasks=tasks,
                watch=self.watch,
                library=for_test(self.recipe, self.library),
                sampler=self.sampler,
                processes=self.processes,
            )

    def save_model(self) -> None:
        """Write the policy as the run's result, with its skills where it is to be played with them."""
        if not self.processes.leads:
            if self.policy.shards is not None:
                self.policy.save(self.folder.model)  # gives its part
            return
        self.policy.settings = self.settings.to_json()
        with replacing_folder(self.folder.model) as scratch:
            self.policy.save(scratch, merge=True)
            if (library := for_test(self.recipe, self.library)) is not None:
                library.save(scratch)

    def report(self) -> None:
        """Write the report of what the folder holds."""
        if self.processes.leads:
            write_report(self.folder.path, self.recipe)

    def write_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Write an evaluation as ``NAME.json`` and tell of it."""
        if self.processes.leads:
            self.folder.write_evaluation(name, evaluation)
        self.watch.evaluated(evaluation)


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the process that opened the folder tells the others."""

    folder: RunFolder
    checkpoint: Path | None
    progress: Progress


def _library(recipe: Recipe, folder: RunFolder, algorithm: Algorithm, until: int | None = None) -> SkillLibrary | None:
    """The run's skills, or those that it had after an iteration; None: the algorithm keeps none."""
    if not algorithm.library:
        return None
    return SkillLibrary.load(folder.library, size=recipe.skills.library_size, until=until)


def _mend_records(begun: _Begun, watch: Watcher) -> None:
    """Drop what was recorded after the checkpoint; tell what is repeated and what is lost."""
    repeated = begun.folder.forget_after(begun.progress)
    for lack in begun.folder.missing(begun.progress):
        watch.warn(f"A part of the run's records is lost, the run itself is not: {lack}.")
    if begun.checkpoint is not None or repeated:
        watch.resumed(begun.progress.iteration, repeated)


def _penalty_trap(recipe: Recipe, algorithm: Algorithm) -> str | None:
    """What is to be known before groups are trained in which penalties alone tell steps apart; None: nothing."""
    trained = not algorithm.needs_variance and algorithm.advantage not in (None, opsd, teacher_alone)
    scaled = recipe.invalid_penalty > 0 and recipe.advantage.mode == "mean_std_norm"
    if recipe.train_uniform_groups or not trained or not scaled:
        return None
    return (
        f"algorithm={algorithm.name} also trains groups that fail as a whole. There invalid_penalty="
        f"{recipe.invalid_penalty:g} alone tells steps apart and, divided by its own spread, weighs as much as an "
        "outcome: a small policy may learn valid and useless actions. invalid_penalty=0 avoids that."
    )


def _needs_start(recipe: Recipe, algorithm: Algorithm, checkpoint: Path) -> bool:
    """Whether a run that has a checkpoint still reads the policy that it started from."""
    if in_parts(checkpoint):
        return True
    own_teacher = algorithm.teacher_weights != "policy"
    return recipe.loss.kl_coef > 0 or recipe.evaluation.before or recipe.lora.rank > 0 or own_teacher
