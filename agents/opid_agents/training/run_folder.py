"""The folder of a run: what is written there, and how an interrupted run finds it again.

Models are folders that are sealed with hashes before they get their names (`opid_gym.files`), small files are replaced
whole, and the records, which grow by lines, reach the disk before the checkpoint that counts them (`RunFolder.sync`).
What does not fit together all the same, after a power cut for example, is found by `RunFolder.missing`.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opid_agents.recipes.recipe import Recipe, RecipeError, validate
from opid_agents.skills.extract import Skills
from opid_agents.trace import TRACE
from opid_agents.training.checkpoint import Progress
from opid_agents.training.token_log import Credit
from opid_gym.evaluation import Evaluation
from opid_gym.files import damage, make_folder, sync, write_file
from opid_gym.trajectory import Step, Trajectory

RECIPE = "recipe.json"
# May change when a run is resumed: more iterations are a longer run of the same kind, an endpoint may have moved, there
# may be other machines, and memory may have run out.
_FREE = (
    "iterations",
    "parallel",
    "loggers",
    "pictures",
    "model.gradient_checkpointing",
    "wandb_project",
    *(f"analyzer.{key}" for key in ("base_url", "api_key_variable", "concurrency", "timeout", "seconds", "cache")),
    *(f"analyzer.{key}" for key in ("requests", "tokens", "cost")),
)
_METRICS, _TRAJECTORIES, _SKILLS = "metrics.jsonl", "trajectories.jsonl", "skills.jsonl"
_SPENT = "analysis_spent.json"
_RECORDS = (_METRICS, _TRAJECTORIES, _SKILLS, "library.jsonl")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run lies."""

    path: Path
    keep_trajectories: int

    @classmethod
    def open(
        cls, path: Path, recipe: Recipe, *, resume: bool, warn: Callable[[str], None] = lambda text: None
    ) -> RunFolder:
        """Make the folder, or check that it holds the same run. A damaged ``recipe.json`` is written anew, and told.

        Raises:
            ValueError: it holds a run already and `resume` is False, or a run of another recipe.
        """
        folder = cls(path, recipe.keep_trajectories)
        mine = recipe.model_dump(mode="json")
        if folder.has_begun():
            if not resume:
                raise ValueError(f"{str(path)!r} holds a run already; resume it (--resume) or choose another folder")
            theirs = saved_recipe(path)
            if _object_in(path / RECIPE) is None:
                known = "as this command has it" if theirs is None else "by its copy beside the start"
                warn(f"{path / RECIPE} was damaged; it is written anew, {known}.")
            different = {} if theirs is None else _differences(_complete(theirs), mine)
            for key in _FREE:
                different.pop(key, None)
            if different:
                listed = "; ".join(f"{key} was {a!r} and is {b!r}" for key, (a, b) in different.items())
                raise ValueError(f"{str(path)!r} holds a run of another recipe: {listed}")
        make_folder(path)
        write_file(path / RECIPE, json.dumps(mine, indent=2) + "\n")
        write_file(path / "versions.json", json.dumps(versions(), indent=2) + "\n")
        return folder

    @property
    def start(self) -> Path:
        """The policy the run started from."""
        return self.path / "start"

    @property
    def warm_start(self) -> Path:
        """What the warm start needs to go on after an interruption; gone when it is finished."""
        return self.path / "warm_start"

    @property
    def base(self) -> Path:
        """The weights under LoRA adapters, where they lie nowhere else."""
        return self.path / "base"

    @property
    def checkpoints(self) -> Path:
        """See `opid_agents.training.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def trace(self) -> Path:
        """See `opid_agents.training.profiling`."""
        return self.path / "trace.json.gz"

    @property
    def library(self) -> Path:
        """See `opid_agents.skills.library`."""
        return self.path / "library.jsonl"

    @property
    def teacher(self) -> Path:
        """See `opid_agents.training.gate`."""
        return self.path / "teacher"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / "model"

    def start_damage(self) -> str | None:
        """What is wrong with the starting policy and the weights under its adapters, in words; None: they are whole."""
        for folder in (self.base, self.start):
            if (folder == self.start or folder.exists()) and (wrong := damage(folder, thorough=True)) is not None:
                return f"{folder.name}/{wrong}"
        return None

    def has_begun(self) -> bool:
        """Whether there is anything to go on from.

        A run that found no model, for one, has left nothing but its recipe.
        """
        places = (self.start, self.warm_start, self.checkpoints, self.path / _METRICS)
        return any(place.exists() for place in places)

    def forget_after(self, progress: Progress) -> int:
        """Drop lines of iterations after the checkpoint, and a line that a sudden end left unfinished.

        Returns:
            How many finished iterations were dropped: those after the checkpoint that had a line of metrics.
        """
        finished = 0
        for name in _RECORDS:
            file = self.path / name
            if not file.is_file():
                continue
            kept = []
            for line in file.read_bytes().splitlines(keepends=True):
                iteration = _iteration_of(line)
                if iteration is None:
                    continue
                if iteration <= progress.iteration:
                    kept.append(line)
                elif name == _METRICS:
                    finished += 1
            write_file(file, b"".join(kept))
        return finished

    def missing(self, progress: Progress) -> list[str]:
        """What the records lack of what a checkpoint counts, in words; to be asked after `forget_after`."""
        found = []
        seen = {_iteration_of(line) for line in _lines(self.path / _METRICS)}
        if lost := [str(i) for i in range(1, progress.iteration + 1) if i not in seen]:
            found.append(f"{_METRICS} lacks iteration{'s' * (len(lost) > 1)} {', '.join(lost)}")
        count = len(_lines(self.path / _TRAJECTORIES))
        if count != progress.written:
            found.append(f"{_TRAJECTORIES} holds {count} of {progress.written} trajectories")
        return found

    def sync(self) -> None:
        """Force the records to the disk."""
        for name in _RECORDS:
            if (self.path / name).is_file():
                sync(self.path / name)
        sync(self.path)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line."""
        with open(self.path / _METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def write_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Write an evaluation as ``NAME.json``."""
        write_file(self.path / f"{name}.json", evaluation.to_json() + "\n")

    def spent(self) -> dict[str, float]:
        """What the analysis has cost so far, that of iterations which are repeated included: see `spend`.

        Raises:
            ValueError: the file does not say it, so that no budget could be kept.
        """
        file = self.path / _SPENT
        try:
            return {str(name): float(value) for name, value in json.loads(file.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise ValueError(
                f"{str(file)!r} is damaged and does not say what the analysis has cost; write the sums of the metrics "
                'analysis/* there, for example {"calls": 12, "cost": 0.5}, or remove it to begin at zero'
            ) from None

    def spend(self, figures: Mapping[str, float]) -> None:
        """Add the cost of one iteration's analysis; on the disk when this returns.

        It has a file of its own because a budget limits what is really spent: the lines of iterations that are repeated
        leave the metrics, their cost stays.
        """
        if figures:
            before = self.spent()
            sums = {name: before.get(name, 0.0) + figures.get(name, 0.0) for name in {*before, *figures}}
            write_file(self.path / _SPENT, json.dumps(sums, indent=1, sort_keys=True) + "\n")

    def room(self, progress: Progress) -> int:
        """How many more trajectories will be written."""
        return max(0, self.keep_trajectories - progress.written)

    def write_trajectories(
        self,
        progress: Progress,
        trajectories: Sequence[Trajectory],
        skills: Sequence[Skills | None],
        credit: Credit,
        iteration: int,
    ) -> int:
        """Append trajectories and their skills until enough are written; returns how many are.

        Where trajectories were trained on, the credit of their tokens is written with them.
        """
        chosen = list(zip(trajectories, skills, strict=True))[: self.room(progress)]
        with (
            open(self.path / _TRAJECTORIES, "ab") as trajectory_file,
            open(self.path / _SKILLS, "ab") as skill_file,
        ):
            for number, (trajectory, skill) in enumerate(chosen):
                trajectory.metadata["iteration"] = iteration
                steps = [_lean(step, credit.get((number, s), {})) for s, step in enumerate(trajectory.steps)]
                line = json.dumps({**_shallow(trajectory), "steps": steps})
                trajectory_file.write(line.encode() + b"\n")
                if skill is not None:
                    record = {"iteration": iteration, "trajectory": progress.written + number, **asdict(skill)}
                    skill_file.write(json.dumps(record).encode() + b"\n")
        return progress.written + len(chosen)


def model_of(run: Path) -> str | None:
    """The folder of the model that the run in `run` started from; None if it made its own, or there is no run."""
    model = (saved_recipe(run) or {}).get("model")
    path: str | None = model.get("path") if isinstance(model, dict) else None
    return path


def saved_recipe(run: Path) -> dict[str, Any] | None:
    """The recipe of the run in a folder as it was written, or its copy beside the start; None: neither can be read."""
    for file in (run / RECIPE, run / "start" / RECIPE):
        if (found := _object_in(file)) is not None:
            return found
    return None


def versions() -> dict[str, str]:
    """What the run's numbers depend on besides the recipe."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "gymnasium", "peft", "vllm", "opid-gym"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _object_in(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _lines(file: Path) -> list[bytes]:
    return file.read_bytes().splitlines(keepends=True) if file.is_file() else []


def _iteration_of(line: bytes) -> int | None:
    """The iteration of a record; None where the line is torn."""
    try:
        record = json.loads(line)
        iteration = record.get("iteration", record.get("metadata", {}).get("iteration", 0))
    except (ValueError, AttributeError, RecursionError):
        return None
    return iteration if line.endswith(b"\n") and isinstance(iteration, int) else None


def _shallow(record: Step | Trajectory) -> dict[str, Any]:
    """As `asdict`, but without its deep copies, which would cost a quarter of a small model's iteration."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _lean(step: Step, credit: Mapping[str, Any]) -> dict[str, Any]:
    record = _shallow(step)
    record["hindsight"] = None if step.hindsight is None else asdict(step.hindsight)
    record["data"] = {**{key: value for key, value in record["data"].items() if key != TRACE}, **credit}
    return record


def _complete(raw: dict[str, Any]) -> dict[str, Any]:
    """A recipe as saved, perhaps by an earlier version that knew fewer keys; what is missing has its default."""
    try:
        return validate(raw).model_dump(mode="json")
    except RecipeError:
        return raw


def _differences(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: dict[str, tuple[Any, Any]] = {}
        for key in sorted(set(a) | set(b)):
            found |= _differences(a.get(key), b.get(key), f"{prefix}{key}.")
        return found
    return {} if a == b else {prefix.rstrip("."): (a, b)}
