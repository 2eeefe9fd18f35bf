"""What a run writes down: its folder, its metrics, its trajectories."""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opid_agents.learning.checkpoint import Progress
from opid_agents.learning.credit import Credit
from opid_agents.learning.stages import UpdateResult
from opid_agents.lora import ADAPTER_CONFIG
from opid_agents.recipes.recipe import Recipe, RecipeError, validate
from opid_agents.skills.extract import Skills
from opid_gym.evaluation import Evaluation
from opid_gym.trajectory import Step, Trajectory

# May change when a run is resumed: more iterations are a longer run of the same kind, and an endpoint may have moved.
_FREE = (
    "iterations",
    "tensorboard",
    "wandb",
    *(f"analyzer.{key}" for key in ("base_url", "api_key_variable", "concurrency", "timeout", "seconds", "cache")),
    *(f"analyzer.{key}" for key in ("requests", "tokens", "cost")),
)
_TOKENS = ("prompt_ids", "reply_ids", "log_probs")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run lies."""

    path: Path
    keep_trajectories: int

    @classmethod
    def open(cls, path: Path, recipe: Recipe, *, resume: bool) -> RunFolder:
        """Make the folder, or check that it holds the same run.

        Raises:
            ValueError: it holds a run already and `resume` is False, or a run of another recipe.
        """
        folder = cls(path, recipe.keep_trajectories)
        file = path / "recipe.json"
        mine = recipe.model_dump(mode="json")
        if file.is_file() and folder.has_begun():
            theirs = _complete(json.loads(file.read_text(encoding="utf-8")))
            if not resume:
                raise ValueError(f"{str(path)!r} holds a run already; resume it (--resume) or choose another folder")
            different = _differences(theirs, mine)
            for key in _FREE:
                different.pop(key, None)
            if different:
                listed = "; ".join(f"{key} was {a!r} and is {b!r}" for key, (a, b) in different.items())
                raise ValueError(f"{str(path)!r} holds a run of another recipe: {listed}")
        path.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(mine, indent=2) + "\n", encoding="utf-8")
        (path / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")
        return folder

    @property
    def start(self) -> Path:
        """The policy the run started from."""
        return self.path / "start"

    @property
    def base(self) -> Path:
        """The weights under LoRA adapters, where they lie nowhere else."""
        return self.path / "base"

    @property
    def checkpoints(self) -> Path:
        """See `opid_agents.learning.checkpoint`."""
        return self.path / "checkpoints"

    @property
    def library(self) -> Path:
        """See `opid_agents.skills.library`."""
        return self.path / "library.jsonl"

    @property
    def model(self) -> Path:
        """The result."""
        return self.path / "model"

    def has_start(self) -> bool:
        """Whether the starting policy is there."""
        return any((self.start / name).is_file() for name in ("config.json", ADAPTER_CONFIG))

    def has_begun(self) -> bool:
        """Whether there is anything to go on from; a run that found no model, for one, has left nothing but its
        recipe."""
        return self.has_start() or any((self.path / name).exists() for name in ("warm_start", "metrics.jsonl"))

    def forget_after(self, progress: Progress) -> None:
        """Drop lines of iterations after the checkpoint, and a line that a sudden end left unfinished."""
        for name in ("metrics.jsonl", "trajectories.jsonl", "skills.jsonl", "library.jsonl"):
            file = self.path / name
            if not file.is_file():
                continue
            kept = []
            for line in file.read_bytes().splitlines(keepends=True):
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                iteration = record.get("iteration", record.get("metadata", {}).get("iteration", 0))
                if line.endswith(b"\n") and iteration <= progress.iteration:
                    kept.append(line)
            unfinished = file.with_suffix(".unfinished")
            unfinished.write_bytes(b"".join(kept))
            shutil.move(unfinished, file)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append one line."""
        with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(metrics, allow_nan=False) + "\n")

    def spent(self) -> dict[str, float]:
        """What the analysis has cost so far, summed over the iterations: the metrics ``analysis/*``."""
        file = self.path / "metrics.jsonl"
        sums: dict[str, float] = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
            for key, value in json.loads(line).items():
                if key.startswith("analysis/"):
                    sums[key.removeprefix("analysis/")] = sums.get(key.removeprefix("analysis/"), 0.0) + value
        return sums

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
        """Append trajectories (with the credit of their tokens, where they were trained) and their skills until enough
        are written; returns how many are."""
        chosen = list(zip(trajectories, skills, strict=True))[: self.room(progress)]
        with (
            open(self.path / "trajectories.jsonl", "ab") as trajectory_file,
            open(self.path / "skills.jsonl", "ab") as skill_file,
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
    file = run / "recipe.json"
    if not file.is_file():
        return None
    path: str | None = json.loads(file.read_text(encoding="utf-8")).get("model", {}).get("path")
    return path


def describe_iteration(
    progress: Progress,
    trajectories: Sequence[Trajectory],
    skills: Sequence[Skills | None],
    analysis: Mapping[str, float],
    trained_groups: int,
    result: UpdateResult,
    figures: Mapping[str, Any],
    evaluation: Evaluation | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The metrics line of one iteration. Everything but ``seconds/*`` is the same for the same seed."""
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    types = sorted({trajectory.task_type for trajectory in trajectories})
    by_group: dict[int, list[bool]] = {}
    for trajectory in trajectories:
        by_group.setdefault(trajectory.group, []).append(trajectory.success)
    found = [skill for skill in skills if skill is not None]
    metrics: dict[str, Any] = {
        "iteration": progress.iteration,
        "episodes": progress.episodes,
        "env_steps": progress.env_steps,
        "success": _mean([t.success for t in trajectories]),
        "return": _mean([t.episode_return for t in trajectories]),
        "length": _mean([len(t) for t in trajectories]),
        "valid_actions": _mean([step.valid for step in steps]),
        "groups/mixed": _mean([len(set(outcomes)) > 1 for outcomes in by_group.values()]),
        "groups/trained": trained_groups,
        **{f"analysis/{name}": value for name, value in analysis.items()},
        "skills/trajectories": len(found),
        "skills/steps": sum(len(skill.step_skills) for skill in found),
        "updates": result.updates,
        "updates/skipped": result.skipped,
        "updates/skipped_total": progress.skipped_updates,
    }
    for name in types:
        metrics[f"success/{name}"] = _mean([t.success for t in trajectories if t.task_type == name])
    metrics |= {f"train/{name}": value for name, value in result.metrics.items()}
    metrics |= {f"opid/{name}": value for name, value in figures.items()}
    if evaluation is not None:
        metrics["eval/success"] = evaluation.success.estimate
        metrics |= {f"eval/{name}": rate.estimate for name, rate in evaluation.by_task_type().items()}
    return metrics | {f"seconds/{name}": round(value, 3) for name, value in seconds.items()}


def versions() -> dict[str, str]:
    """What the run's numbers depend on besides the recipe."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in ("torch", "transformers", "tokenizers", "numpy", "gymnasium", "peft", "vllm", "opid-gym"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed as a package"
    return found


def _shallow(record: Step | Trajectory) -> dict[str, Any]:
    """As `asdict`, but without its deep copies, which would cost a quarter of a small model's iteration."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _lean(step: Step, credit: Mapping[str, Any]) -> dict[str, Any]:
    record = _shallow(step)
    record["data"] = {**{key: value for key, value in record["data"].items() if key not in _TOKENS}, **credit}
    return record


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


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
