"""What a folder holds: runs with their metrics, evaluations, trajectories and skills, whoever wrote them.

Files are told by what is in them and not by their names, so a folder may be one training run, a folder of runs, or
hold trajectories that `opid-gym eval --trajectories` wrote. A line that cannot be read is a `Collection.problems`
entry with file and line; everything else is still there. So is a run that is being written right now.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opid_gym.json_text import check_depth, parse_json
from opid_gym.trajectory import Trajectory

# Saved models and optimiser states: large, and nothing to read in them.
_SKIPPED_FOLDERS = frozenset({"checkpoints", "model", "start"})


@dataclass(slots=True)
class Run:
    """One training run, one file of trajectories, or one agent of a benchmark in one environment.

    Attributes:
        name: its path below the folder that was opened; the link to a trajectory names it.
        agent, env: who played what, as far as it is known.
        source: where the tasks came from, as `opid_gym.world.World.source` has it; "" if it is not known.
        recipe, versions: what the run's folder says about itself; empty for a file of trajectories.
        metrics: one record an iteration.
        evaluations: by the name of their file (``evaluation``, ``before``, ``after``), as `Evaluation.to_dict` gives.
        trajectories: by their number, which is the line in their file counted from 0; several files of a benchmark
            count on.
        skills: what was extracted from a trajectory, by the number of the trajectory.
        episodes: results without steps, as `opid-gym bench` writes them.
    """

    name: str
    agent: str = ""
    env: str = ""
    source: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    trajectories: dict[int, Trajectory] = field(default_factory=dict)
    skills: dict[int, dict[str, Any]] = field(default_factory=dict)
    episodes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Collection:
    """Everything in a folder.

    Attributes:
        title: the folder's name.
        runs: sorted by name.
        problems: what could not be read, each with its file and line.
    """

    title: str
    runs: list[Run] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_folder(path: str | Path) -> Collection:
    """Read a run, a folder of runs, or a file of trajectories.

    Raises:
        ValueError: there is no such folder, or nothing to show in it.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"no folder or file at {str(root)!r}")
    base = root if root.is_dir() else root.parent
    collection = Collection(title=base.resolve().name if root.is_dir() else root.name)
    runs: dict[str, Run] = {}
    sources: dict[tuple[str, str], str] = {}  # of a benchmark's environments: by its folder and their label

    def run(*names: str) -> Run:
        name = ": ".join(filter(None, names))
        return runs.setdefault(name, Run(name))

    for file in files_in(root):
        own = _below(base, file.parent)
        folder = own or collection.title
        separate = f"{own}/{file.stem}".lstrip("/")
        if file.suffix == ".json":
            record = _read_json(file, collection)
            if isinstance(record.get("envs"), dict) and isinstance(record.get("data"), dict):
                sources |= {(own, label): _source(about) for label, about in record["data"].items()}
            elif file.stem in ("recipe", "versions"):
                setattr(run(folder), file.stem, record)
            elif isinstance(record.get("by_task_type"), dict):
                run(folder).evaluations[file.stem] = record
            continue
        records = dict(_read_lines(file, collection))
        sample = next(iter(records.values()), {})
        if "steps" in sample:
            found = dict(_read_trajectories(file, records, collection))
            if label := _label(sample.get("metadata")):
                above = _below(base, file.parent.parent)
                played = _name(run(above, label), sample["metadata"]).trajectories
                first = max(played, default=-1) + 1
                played.update({first + number: trajectory for number, trajectory in found.items()})
            else:
                run(folder if file.stem == "trajectories" else separate).trajectories = found
        elif "episode_skill" in sample:
            run(folder).skills = {r["trajectory"]: r for r in records.values() if isinstance(r.get("trajectory"), int)}
        elif "task_id" in sample:
            for number, record in records.items():
                if "task_id" not in record:
                    collection.problems.append(f"{file}:{number + 1}: no task_id")
                    continue
                label = _label(record)
                (_name(run(own, label), record) if label else run(separate)).episodes.append(record)
        elif "iteration" in sample:
            run(folder).metrics = list(records.values())
    collection.runs = [runs[name] for name in sorted(runs) if _has_results(runs[name])]
    for found_run in collection.runs:
        _complete(found_run, sources)
    if not collection.runs:
        notes = "".join(f"\n  {problem}" for problem in collection.problems)
        raise ValueError(
            f"nothing to show in {str(root)!r}: expected a folder written by `opid-gym train`, a folder of "
            f"such folders, or trajectories from `opid-gym eval --trajectories`{notes}"
        )
    return collection


def files_in(root: Path) -> list[Path]:
    """The files that may matter, sorted: JSON and JSON Lines, outside hidden folders and saved models."""
    if root.is_file():
        return [root]
    return sorted(
        file
        for pattern in ("**/*.json", "**/*.jsonl")
        for file in root.glob(pattern)
        if not any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in file.relative_to(root).parts)
    )


def _below(base: Path, folder: Path) -> str:
    """The path from `base` to a folder in it; "" for `base` itself, or one above."""
    return folder.relative_to(base).as_posix() if folder != base and folder.is_relative_to(base) else ""


def _label(record: object) -> str:
    """What `opid-gym bench` notes with results and trajectories of an agent in an environment; "" without."""
    if isinstance(record, dict) and "agent" in record and "env" in record:
        return f"{record['agent']} on {record['env']}"
    return ""


def _name(run: Run, record: dict[str, Any]) -> Run:
    run.agent, run.env = str(record["agent"]), str(record["env"])
    return run


def _source(about: object) -> str:
    return str(about.get("source") or "") if isinstance(about, dict) else ""


def _complete(run: Run, sources: dict[tuple[str, str], str]) -> None:
    """Environment and source, where the run's own records tell them."""
    if run.agent:
        folder = run.name.removesuffix(f"{run.agent} on {run.env}").removesuffix(": ")
        run.source = sources.get((folder, run.env), "")
        return
    world = run.recipe.get("world")
    if isinstance(world, dict):
        run.env = str(world.get("env") or "")
    run.env = run.env or next((t.env_id for t in run.trajectories.values() if t.env_id), "")
    run.source = next((source for record in run.evaluations.values() if (source := _source(record))), "")


def _has_results(run: Run) -> bool:
    return bool(run.metrics or run.trajectories or run.episodes or run.evaluations)


def _read_json(file: Path, collection: Collection) -> dict[str, Any]:
    try:
        record = parse_json(file.read_bytes())
        check_depth(record)
    except ValueError as error:
        collection.problems.append(f"{file}: not JSON ({error})")
        return {}
    return record if isinstance(record, dict) else {}


def _read_lines(file: Path, collection: Collection) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects in a JSON Lines file by line, counted from 0."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines):
            try:
                record = parse_json(line)
                if isinstance(record, dict):
                    check_depth(record)
            except ValueError as error:
                # What a run is writing at this moment is not wrong.
                torn = "" if line.endswith(b"\n") else "unfinished line, perhaps still being written: "
                collection.problems.append(f"{file}:{number + 1}: {torn}not JSON ({error})")
                continue
            if isinstance(record, dict):
                yield number, record
            else:
                collection.problems.append(f"{file}:{number + 1}: expected a JSON object, got {type(record).__name__}")


def _read_trajectories(
    file: Path, records: dict[int, dict[str, Any]], collection: Collection
) -> Iterator[tuple[int, Trajectory]]:
    for number, record in records.items():
        try:
            trajectory = Trajectory.from_record(record)
        except ValueError as error:
            collection.problems.append(f"{file}:{number + 1}: {error}")
        else:
            yield number, trajectory
