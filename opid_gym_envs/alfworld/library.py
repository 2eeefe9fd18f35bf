"""Which games there are: given files, the official data, or generated games, behind one class."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opid_gym_envs.alfworld.generator import GeneratedSplit
from opid_gym_envs.alfworld.problem import (
    GAME_FILE,
    TASK_TYPES,
    TRAJECTORY_FILE,
    GameFileError,
    Problem,
    check_game,
    load_problem,
    name_by_folders,
    read_json,
    task_type_beside,
    with_real_folder,
)

SPLITS = ("train", "valid_seen", "valid_unseen")

STOCK_SPLITS = {"eval_in_distribution": "valid_seen", "eval_out_of_distribution": "valid_unseen"}
"""What stock ALFWorld's code calls the two splits for evaluation, and their folders."""

GENERATED = "generated/"
"""How the task ids of generated games begin, so that nobody takes a result on them for an official one."""


@dataclass(frozen=True, slots=True)
class GameLibrary(ABC):
    """A fixed list of games.

    Attributes:
        ids: task ids in a fixed order.
        source: ``generated``, ``official`` or ``given``.
        data: the folder the files come from; None for generated games.
        skipped: reason -> the trials of the official folder that are left out for it, sorted.
    """

    ids: Sequence[str]
    source: str
    data: str | None = None
    skipped: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @abstractmethod
    def load(self, task_id: str) -> Problem:
        """The problem of a game.

        Raises:
            KeyError: the id is not of this library.
            GameFileError: the file is broken.
        """

    @abstractmethod
    def path(self, task_id: str) -> Path | None:
        """The file of a game; None for a generated game, which has none.

        Raises:
            KeyError: the id is not of this library.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class GameFiles(GameLibrary):
    """Games that lie in files.

    Attributes:
        files: task id -> file.
        read: the problem, if there is one game and the check has read it; None: files are read when they are played.
    """

    files: Mapping[str, Path]
    read: Problem | None = None

    def load(self, task_id: str) -> Problem:
        """See `GameLibrary.load`."""
        path = self.path(task_id)
        return load_problem(path, task_id) if self.read is None else replace(self.read, id=task_id)

    def path(self, task_id: str) -> Path:
        """See `GameLibrary.path`."""
        if task_id not in self.files:
            raise KeyError(f"unknown task id {task_id!r}; the {len(self.ids)} known ones begin with {self.ids[:3]}")
        return self.files[task_id]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedGames(GameLibrary):
    """Games made when they are asked for.

    Attributes:
        split: makes them; its ids are the task ids without ``generated/``.
    """

    split: GeneratedSplit

    def load(self, task_id: str) -> Problem:
        """See `GameLibrary.load`."""
        if not task_id.startswith(GENERATED):
            raise KeyError(f"unknown task id {task_id!r}; the ids of generated games begin with {GENERATED!r}")
        return replace(self.split.problem(task_id.removeprefix(GENERATED)), id=task_id)

    def path(self, task_id: str) -> None:
        """See `GameLibrary.path`."""
        return None


def generated_games(
    split: str, size: str, task_types: Sequence[str] | None = None, count: int | None = None
) -> GameLibrary:
    """A split of generated games.

    Args:
        count: how many games, before `task_types` filters; None: as many as the official split has.

    Raises:
        ValueError: an unknown split, size or task type, or a count below 1.
    """
    _check_split(split)
    _check_task_types(task_types)
    _check_count(count)
    games = GeneratedSplit(split, size=size, task_types=task_types, count=count)
    return GeneratedGames([GENERATED + name for name in games.task_ids], "generated", split=games)


def given_games(
    paths: Sequence[str | Path],
    task_types: Sequence[str] | None = None,
    count: int | None = None,
    check_rules: bool = True,
) -> GameLibrary:
    """The games of these files, in this order.

    Every file is opened once here, so that a broken one stops nobody's run later. The id of a game is `game_id` of
    its path; where two games would share an id, each takes the names of further folders into it.

    Args:
        paths: game files, or folders with a ``game.tw-pddl``; ``~`` is the home folder.
        task_types: keep only these types.
        count: keep only the first games, this many.
        check_rules: refuse files whose rules are not the native engine's.

    Raises:
        ValueError: no paths, the same file twice, no game of `task_types`, or fewer games than `count`.
        FileNotFoundError: a file is not there.
        GameFileError: a file is not a game; names each such file.
    """
    if isinstance(paths, str | os.PathLike):
        raise ValueError(f"games must be a list of paths, got one path: {str(paths)!r}")
    _check_task_types(task_types)
    files: dict[Path, str] = {}  # the file itself -> the path as it was given
    chosen: list[Path] = []
    for given in map(str, paths):
        path = Path(os.path.expanduser(given))
        if path.is_dir() and (path / GAME_FILE).is_file():
            path = path / GAME_FILE
        if not path.is_file():
            raise FileNotFoundError(f"no game file at {given!r}")
        path = with_real_folder(path)
        file = path.resolve() if path.is_symlink() else path
        if file in files:
            raise ValueError(f"games names one file twice: as {files[file]!r} and as {given!r}")
        files[file] = given
        chosen.append(path)
    if not chosen:
        raise ValueError(f"games is empty: give at least one path of a {GAME_FILE} file")
    read = load_problem(chosen[0]) if check_rules and len(chosen) == 1 else None
    broken = []
    for path in chosen if read is None else ():
        try:
            check_game(read_json(path), str(path), rules=check_rules)
        except GameFileError as error:
            broken.append(error)
    _refuse_broken(broken)
    if task_types is not None:
        kept = [path for path in chosen if (task_type_beside(path) or load_problem(path).task_type) in task_types]
        if not kept:
            raise ValueError(f"none of the {len(chosen)} games is of task_types={list(task_types)}")
        chosen = kept
    named = dict(zip(_distinct_ids(chosen), chosen, strict=True))
    ids = list(named)
    if count is not None:
        _check_count(count, len(ids), "games=")
        ids = ids[:count]
    folder = os.path.commonpath([path.parent for path in chosen])
    return GameFiles(ids, "given", folder, files={task_id: named[task_id] for task_id in ids}, read=read)


def official_games(
    folder: Path,
    split: str,
    task_types: Sequence[str] | None = None,
    count: int | None = None,
    check_rules: bool = True,
) -> GameLibrary:
    """A split of the official data, with stock's filters.

    Stock (``AlfredTWEnv.collect_game_files`` of alfworld 0.4.2) plays the trials that have a ``traj_data.json`` which
    states one of the six task types, have a ``game.tw-pddl`` whose key ``solvable`` is true, and have neither
    ``movable`` nor ``Sliced`` in their path. (Here the path below the split counts, so that the name of a folder above
    the data cannot empty it.) The ids are the trials' paths below the data folder, sorted: the order that files have
    on a disk is not the same everywhere.

    Args:
        folder: what ``$ALFWORLD_DATA`` names, or a folder in it that holds the splits.
        task_types: keep only these types. The type stands in ``traj_data.json``: games of other types are not opened.
        count: keep only this many games, spread evenly over the sorted ids, so that all task types stay.
        check_rules: refuse files whose rules are not the native engine's.

    Raises:
        ValueError: an unknown split, no game passes the filters (the message counts what was left out), or there
            are fewer games than `count`.
        FileNotFoundError: the split is not in the folder.
        GameFileError: a file is broken; names each such file.
    """
    _check_split(split)
    _check_task_types(task_types)
    root = find_split(folder, split)
    if root is None:
        raise FileNotFoundError(f"no split {split!r} under {folder} (looked for {split}/ and json_*/{split}/)")
    files: dict[str, Path] = {}
    skipped: dict[str, list[str]] = {}
    broken: list[GameFileError] = []
    for trial in _trials(root):
        name = f"{split}/{trial.relative_to(root).as_posix()}"
        try:
            reason = _why_skipped(trial, name, task_types, check_rules)
        except GameFileError as error:
            broken.append(error)
            continue
        if reason is None:
            files[name] = trial / GAME_FILE
        else:
            skipped.setdefault(reason, []).append(name)
    _refuse_broken(broken)
    if not files:
        raise ValueError(f"no playable game under {root}: {_describe(skipped)}")
    ids = sorted(files)
    if count is not None:
        _check_count(count, len(ids), f"split {split!r} of {folder}")
        ids = [ids[number * len(ids) // count] for number in range(count)]
    return GameFiles(
        ids,
        "official",
        str(root.parent.resolve()),
        {reason: tuple(sorted(names)) for reason, names in sorted(skipped.items())},
        files={task_id: files[task_id] for task_id in ids},
    )


def find_split(folder: Path, split: str) -> Path | None:
    """Where a split lies in a folder of official data: directly in it, or in the ``json_*`` folder of the download.

    Raises:
        ValueError: several ``json_*`` folders have it.
    """
    if (folder / split).is_dir():
        return folder / split
    found = [candidate for candidate in sorted(folder.glob(f"json_*/{split}")) if candidate.is_dir()]
    if len(found) > 1:
        names = [candidate.parent.name for candidate in found]
        raise ValueError(f"{folder} has split {split!r} in each of {names}: name one of these folders with data_dir=")
    return found[0] if found else None


def _trials(root: Path) -> list[Path]:
    """The folders below `root` with one of a trial's two files, sorted."""

    def fail(error: OSError) -> None:
        raise error  # a folder that cannot be read would silently be left out

    walk = os.walk(root, onerror=fail)
    return sorted(Path(here) for here, _, names in walk if GAME_FILE in names or TRAJECTORY_FILE in names)


def _why_skipped(trial: Path, name: str, task_types: Sequence[str] | None, check_rules: bool) -> str | None:
    """Why stock (or the user, with `task_types`) leaves out a trial; None if it is played."""
    if not (trial / TRAJECTORY_FILE).is_file():
        return f"no {TRAJECTORY_FILE}"
    if "movable" in name:
        return "movable receptacle"
    if "Sliced" in name:
        return "sliced object"
    path = trial / GAME_FILE
    task_type = task_type_beside(path)
    if task_type not in TASK_TYPES:
        return "movable receptacle" if "movable" in str(task_type) else "not one of the six task types"
    if task_types is not None and task_type not in task_types:
        return "not of the chosen task_types"
    if not path.is_file():
        return f"no {GAME_FILE}"
    data: Any = read_json(path)
    if isinstance(data, dict) and not data.get("solvable"):
        return "not marked as solvable"
    check_game(data, str(path), rules=check_rules)
    return None


def _describe(skipped: Mapping[str, Sequence[str]]) -> str:
    """What was left out, in words."""
    if not skipped:
        return f"no folder below it has a {GAME_FILE}"
    total = sum(map(len, skipped.values()))
    reasons = [f"{len(names)} {reason}, e.g. {names[0]}" for reason, names in sorted(skipped.items())]
    return f"{total} trials were left out ({'; '.join(reasons)})"


def _refuse_broken(broken: Sequence[GameFileError], listed: int = 10) -> None:
    if len(broken) == 1:
        raise broken[0]
    if broken:
        lines = [f"{len(broken)} files cannot be played:", *map(str, broken[:listed])]
        if len(broken) > listed:
            lines.append(f"and {len(broken) - listed} more")
        raise GameFileError("\n  ".join(lines))


def _distinct_ids(paths: Sequence[Path]) -> list[str]:
    """An id for each of these files, whose folders are resolved: as many folder names as tell equal ones apart."""
    ids = [name_by_folders(path) for path in paths]
    folders = 3
    while len(set(ids)) < len(ids):
        times = Counter(ids)
        ids = [
            name_by_folders(path, folders) if times[name] > 1 else name for name, path in zip(ids, paths, strict=True)
        ]
        folders += 1
    return ids


def _check_split(split: str) -> None:
    if split not in SPLITS:
        hint = f" (stock's {split!r} is {STOCK_SPLITS[split]!r} here)" if split in STOCK_SPLITS else ""
        raise ValueError(f"split must be one of {SPLITS}, got {split!r}{hint}")


def _check_task_types(task_types: Sequence[str] | None) -> None:
    unknown = sorted(set(task_types or ()) - set(TASK_TYPES))
    if unknown or isinstance(task_types, str) or (task_types is not None and not task_types):
        given = task_types if isinstance(task_types, str) else list(task_types or ())
        raise ValueError(f"task_types must be some of {list(TASK_TYPES)}, got {given!r}")


def _check_count(count: int | None, available: int | None = None, where: str = "") -> None:
    if count is not None and count < 1:
        raise ValueError(f"count must be 1 or more, got {count}")
    if count is not None and available is not None and count > available:
        raise ValueError(f"count={count}, and {where} has {available} games to play")
