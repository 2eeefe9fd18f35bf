"""Which games there are: given files, the official data, or generated ones, behind one record."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opid_gym_envs.alfworld.generator import GeneratedSplit
from opid_gym_envs.alfworld.problem import TASK_TYPES, GameFileError, Problem, load_problem

SPLITS = ("train", "valid_seen", "valid_unseen")
GAME_FILE = "game.tw-pddl"
REQUIRED_KEYS = ("pddl_domain", "grammar", "pddl_problem")


@dataclass(frozen=True, slots=True)
class GameLibrary:
    """A fixed list of games.

    Attributes:
        ids: task ids in a fixed order.
        load: id -> the game's problem. Raises KeyError for an id that is not of this library, GameFileError for a
            broken file.
        path: id -> the game's file, or None if it has none (a generated game).
    """

    ids: Sequence[str]
    load: Callable[[str], Problem]
    path: Callable[[str], Path | None]


def given_games(paths: Sequence[str | Path], task_types: Sequence[str] | None = None) -> GameLibrary:
    """The games of these files, in this order. Every file is opened once here, so that a broken one stops nobody's
    run later.

    Raises:
        ValueError: no paths, or one twice.
        FileNotFoundError, GameFileError: a file is not there, or is not a game.
    """
    if isinstance(paths, str | Path):
        raise ValueError(f"games must be a list of paths, got one path: {str(paths)!r}")
    files: dict[str, Path] = {}
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir() and (path / GAME_FILE).is_file():
            path = path / GAME_FILE
        check_game_file(path)
        if path in seen:
            raise ValueError(f"games lists {str(path)!r} twice")
        seen.add(path)
        name = _file_id(path)
        files[name if name not in files else str(path)] = path
    if not files:
        raise ValueError("games is empty: give at least one path of a game.tw-pddl file")
    return _of_files(files, task_types)


def official_games(folder: Path, split: str, task_types: Sequence[str] | None = None) -> GameLibrary:
    """A split of the official data, with stock's filters.

    Stock (`AlfredTWEnv.collect_game_files`) wants a ``traj_data.json`` beside the game, a true ``solvable`` key in
    it, and leaves out paths with ``movable`` or ``Sliced``. The ids are sorted: the order that files have on a disk
    is not the same everywhere.

    Args:
        folder: what ``$ALFWORLD_DATA`` names, or a folder in it that holds the splits.

    Raises:
        ValueError: an unknown split, or no game passes the filters.
        FileNotFoundError: the split is not in the folder.
        GameFileError: a file is not a game.
    """
    _check_split(split)
    root = find_split(folder, split)
    if root is None:
        raise FileNotFoundError(f"no split {split!r} under {folder} (looked for {split}/ and json_*/{split}/)")
    files: dict[str, Path] = {}
    for here, _, names in os.walk(root):
        path = Path(here) / GAME_FILE
        if "traj_data.json" not in names or GAME_FILE not in names or "movable" in here or "Sliced" in here:
            continue
        if check_game_file(path).get("solvable"):
            files[f"{split}/{path.parent.relative_to(root).as_posix()}"] = path
    if not files:
        raise ValueError(f"no playable games under {root}")
    return _of_files(dict(sorted(files.items())), task_types)


def find_split(folder: Path, split: str) -> Path | None:
    """Where a split lies in a folder of official data: directly in it, or in the ``json_*`` folder of the download."""
    candidates = [folder / split, *sorted(folder.glob(f"json_*/{split}"))]
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def generated_games(
    split: str, size: str, task_types: Sequence[str] | None = None, count: int | None = None
) -> GameLibrary:
    """A split of generated games.

    Raises:
        ValueError: an unknown split, size or task type, or a count below 1.
    """
    _check_split(split)
    _check_task_types(task_types)
    games = GeneratedSplit(split, size=size, task_types=task_types, count=count)
    return GameLibrary(games.task_ids, games.problem, lambda task_id: None)


def check_game_file(path: Path) -> dict[str, object]:
    """The JSON object in a game file.

    Raises:
        FileNotFoundError: there is no such file.
        GameFileError: it is not JSON, or lacks a key of `REQUIRED_KEYS`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no game file at {str(path)!r}")
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise GameFileError(f"{path}: not a game file: invalid JSON ({error})") from None
    if not isinstance(data, dict):
        raise GameFileError(f"{path}: not a game file: expected a JSON object, got {type(data).__name__}")
    missing = [key for key in REQUIRED_KEYS if not isinstance(data.get(key), str)]
    if missing:
        raise GameFileError(f"{path}: not a game file: no text under {missing}; needed: {list(REQUIRED_KEYS)}")
    return data


def _of_files(files: dict[str, Path], task_types: Sequence[str] | None) -> GameLibrary:
    _check_task_types(task_types)

    def load(task_id: str) -> Problem:
        return load_problem(files[_known(task_id, files)])

    def path(task_id: str) -> Path | None:
        return files[_known(task_id, files)]

    ids = list(files)
    if task_types is not None:
        ids = [task_id for task_id in ids if load(task_id).task_type in task_types]
        if not ids:
            raise ValueError(f"none of the {len(files)} games is of task_types={list(task_types)}")
    return GameLibrary(ids, load, path)


def _known(task_id: str, files: dict[str, Path]) -> str:
    if task_id not in files:
        raise KeyError(f"unknown task id {task_id!r}; the {len(files)} known ones begin with {list(files)[:3]}")
    return task_id


def _file_id(path: Path) -> str:
    return "/".join(path.parts[-4:-1]) if path.name == GAME_FILE else str(path)


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}")


def _check_task_types(task_types: Sequence[str] | None) -> None:
    unknown = sorted(set(task_types or ()) - set(TASK_TYPES))
    if unknown or (task_types is not None and not task_types):
        raise ValueError(f"task_types must be some of {list(TASK_TYPES)}, got {list(task_types or ())}")
