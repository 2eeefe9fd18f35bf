"""What a game says before any play: the facts at the start, the goal, the task in words, and the wording to use.

A ``Problem`` comes from a ``game.tw-pddl`` file (``load_problem``) or from a generator; the engine treats both alike.
Reading checks everything that the engine relies on: a broken or foreign file is refused here, with its name and the
reason, and cannot fail in the middle of an episode.

Source of the format: ALFWorld (Shridhar et al., 2021, https://arxiv.org/abs/2010.03768) as played by TextWorld 1.7.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opid_gym_envs.alfworld.conformance import check_domain, read_grammar
from opid_gym_envs.alfworld.pddl import Expression, PddlError, read_pddl, read_typed_list
from opid_gym_envs.alfworld.rules import PREDICATES, TYPES, Dialect, RulesError

__all__ = [
    "GAME_FILE",
    "TASK_TYPES",
    "TRAJECTORY_FILE",
    "Dialect",
    "Fact",
    "Formula",
    "GameFileError",
    "Problem",
    "check_game",
    "game_id",
    "load_problem",
    "parse_problem",
    "read_json",
    "task_type_beside",
]

GAME_FILE = "game.tw-pddl"
TRAJECTORY_FILE = "traj_data.json"

TASK_TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
"""The six task types, in the order in which ALFWorld numbers them (from 1)."""

Fact = tuple[str, ...]
Formula = Expression  # nested tuples of lower-case words: ("and", ("exists", ("?o", "-", "object"), (...)), ...)


class GameFileError(ValueError):
    """A game file the engine cannot play; the message names the file, the key, what was found and what is needed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One game before play.

    Attributes:
        id: stable name for messages and task ids, e.g. ``"valid_seen/pick_heat_.../trial_..."``.
        task: the task in words, e.g. ``"put a hot potato in sinkbasin"``.
        task_type: one of ``TASK_TYPES``, or whatever ``traj_data.json`` says, or ``"unknown"``.
        facts: what holds at the start: predicate and arguments, lower-cased, each once, in the order of the file.
        goal: what must hold at the end, as nested tuples of lower-case words.
        dialect: the wording of the game.
        idle: declared (id, type) pairs that no fact mentions; empty unless the goal can depend on them (it is about
            all things, or about what is not the case).
    """

    id: str
    task: str
    task_type: str
    facts: tuple[Fact, ...]
    goal: Formula
    dialect: Dialect = Dialect.MOVE
    idle: tuple[tuple[str, str], ...] = ()


def load_problem(path: str | Path, task_id: str | None = None) -> Problem:
    """Read a game file, and the task type from the ``traj_data.json`` beside it if there is one.

    Args:
        path: a ``game.tw-pddl`` file.
        task_id: the id of the problem; None: `game_id` of the path.

    Returns:
        The problem.

    Raises:
        GameFileError: the file cannot be read, is not JSON, lacks a key, or states rules the engine does not implement.
    """
    path = Path(path)
    problem = parse_problem(read_json(path), source=str(path), task_type=task_type_beside(path))
    return replace(problem, id=game_id(path) if task_id is None else task_id)


def parse_problem(data: Mapping[str, Any], *, source: str, task_type: str | None = None) -> Problem:
    """Read the content of a game file.

    Args:
        data: the JSON object of the file; the keys ``pddl_domain``, ``grammar`` and ``pddl_problem`` are used.
        source: where it comes from, for messages; becomes the problem's id.
        task_type: the task type if known; otherwise it is inferred from the goal.

    Returns:
        The problem.

    Raises:
        GameFileError: as for ``load_problem``.
    """
    texts = _texts(data, source)
    dialect, task = _read_rules(texts, source)
    try:
        facts, goal, idle = _read_problem(texts["pddl_problem"], texts["pddl_domain"])
    except (PddlError, RecursionError) as error:
        reason = error if isinstance(error, PddlError) else "parentheses nested too deeply"
        raise GameFileError(f"{source}: key 'pddl_problem': {reason}") from None
    return Problem(
        id=source,
        task=task,
        task_type=task_type or infer_task_type(goal),
        facts=facts,
        goal=goal,
        dialect=dialect,
        idle=idle,
    )


def check_game(data: object, source: str, rules: bool = True) -> None:
    """Check the content of a game file without parsing its facts, in a tenth of the time `parse_problem` takes.

    This finds files that are truncated, empty, something else, or made for other rules. An error inside the facts or
    the goal is found by `parse_problem`.

    Args:
        data: the JSON value of the file.
        source: where it comes from, for messages.
        rules: whether the rules must be those of the engine.

    Raises:
        GameFileError: the content is not a game the engine plays; names what was found and what is needed.
    """
    texts = _texts(data, source)
    if rules:
        _read_rules(texts, source)
    text = re.sub(r";[^\n]*", "", texts["pddl_problem"])
    opened, closed = text.count("("), text.count(")")
    if opened != closed:
        raise GameFileError(f"{source}: key 'pddl_problem': {opened} parentheses are opened and {closed} closed")
    missing = [part for part in (":init", ":goal") if part not in text.lower()]
    if missing:
        raise GameFileError(f"{source}: key 'pddl_problem': part {missing[0]!r} is missing")


def _texts(data: object, source: str) -> dict[str, str]:
    """The three texts of a game file."""
    if not isinstance(data, Mapping):
        raise GameFileError(f"{source}: need a JSON object with the keys of a game, found {type(data).__name__}")
    texts = {}
    for key in ("pddl_domain", "grammar", "pddl_problem"):
        if key not in data:
            raise GameFileError(f"{source}: key {key!r} is missing; the file has {sorted(map(str, data))!r:.200}")
        if not isinstance(data[key], str):
            raise GameFileError(f"{source}: key {key!r} must be text, found {type(data[key]).__name__}")
        texts[key] = data[key]
    return texts


def _read_rules(texts: Mapping[str, str], source: str) -> tuple[Dialect, str]:
    """The dialect and the task, once the domain and the grammar are known to be the engine's."""
    try:
        key = "pddl_domain"
        has_help = check_domain(texts[key])
        key = "grammar"
        dialect, task = read_grammar(texts[key])
        if has_help and dialect.help is None:
            raise RulesError("grammar action 'help' is missing, and the domain has it")
    except RulesError as error:
        raise GameFileError(
            f'{source}: key {key!r}: {error}. To play the file as it is, run stock: backend="textworld"'
        ) from None
    return (dialect if has_help else replace(dialect, help=None)), task


def infer_task_type(goal: Formula) -> str:
    """The task type a goal formula of the usual form belongs to, or ``"unknown"``."""
    words = set(_words(goal))
    if "istoggled" in words and "holds" in words:
        return "look_at_obj_in_light"
    if "inreceptacle" not in words:
        return "unknown"
    for mark, task_type in (
        ("isclean", "pick_clean_then_place_in_recep"),
        ("ishot", "pick_heat_then_place_in_recep"),
        ("iscool", "pick_cool_then_place_in_recep"),
        ("=", "pick_two_obj_and_place"),
    ):
        if mark in words:
            return task_type
    return "pick_and_place_simple"


def _words(formula: Formula) -> Iterator[str]:
    if isinstance(formula, str):
        yield formula
    else:
        for part in formula:
            yield from _words(part)


def read_json(path: Path) -> Any:
    """The JSON value in a file of game data.

    Raises:
        GameFileError: the file cannot be read, or is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a NUL byte in the path
        raise GameFileError(f"{path}: cannot read the file ({error})") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GameFileError(f"{path}: not valid JSON ({error}); the file is truncated or something else") from None


def task_type_beside(path: Path) -> str | None:
    """The task type that the ``traj_data.json`` beside a game file states; None if there is no such file.

    Raises:
        GameFileError: the file is broken.
    """
    beside = path.with_name(TRAJECTORY_FILE)
    if not beside.is_file():
        return None
    data = read_json(beside)
    task_type = data.get("task_type") if isinstance(data, dict) else None
    if not isinstance(task_type, str):
        raise GameFileError(f"{beside}: key 'task_type' must be text, found {type(task_type).__name__}")
    return task_type


def game_id(path: str | Path, folders: int | None = None) -> str:
    """The name of a game, made of the folders it lies in: the same however its path is written.

    Args:
        path: a ``game.tw-pddl`` file, or a game file of another name, which then stands at the end of the id.
        folders: how many folder names the id has; None: two (task and trial), and the split if there is one above.

    >>> game_id("/data/train/../valid_seen/pick_two_obj_and_place-Mug-None-Desk-308/trial_1/game.tw-pddl")
    'valid_seen/pick_two_obj_and_place-Mug-None-Desk-308/trial_1'
    """
    return name_by_folders(with_real_folder(Path(path)), folders)


def with_real_folder(path: Path) -> Path:
    """The path with its folder resolved and the file not: a link to a file elsewhere is a game of the link's folder."""
    return path.parent.resolve() / path.name


def name_by_folders(path: Path, folders: int | None = None) -> str:
    """`game_id` of a path whose folder is resolved."""
    parts = list(path.parts[1:-1])
    if path.name != GAME_FILE:
        parts.append(path.name)
    if folders is None:
        folders = 3 if len(parts) > 2 and parts[-3].startswith(("train", "valid", "test")) else 2
    return "/".join(parts[-folders:])


def _read_problem(text: str, domain: str) -> tuple[tuple[Fact, ...], Formula, tuple[tuple[str, str], ...]]:
    items = read_pddl(text)
    if not items or items[0] != "define":
        raise PddlError(f"a problem begins with 'define', found {str(items[:1])!r:.40}")
    parts: dict[str, tuple[Expression, ...]] = {}
    for item in items[1:]:
        if not (isinstance(item, tuple) and item and isinstance(item[0], str)):
            raise PddlError(f"a problem is a list of parts like (:init ...), found {item!r:.40}")
        if item[0] in parts:
            raise PddlError(f"part {item[0]!r} occurs twice")
        parts[item[0]] = item[1:]
    for name in (":init", ":goal"):
        if name not in parts:
            raise PddlError(f"part {name!r} is missing; the problem has {sorted(parts)}")
    declared = dict(read_typed_list(parts.get(":objects", ())))
    declared.update(_domain_constants(domain))
    facts = _read_facts(parts[":init"], declared)
    if len(parts[":goal"]) != 1:
        raise PddlError(f"part ':goal' needs exactly one formula, found {len(parts[':goal'])}")
    goal = parts[":goal"][0]
    _check_formula(goal)
    idle: tuple[tuple[str, str], ...] = ()
    if _could_tell_idle(goal):
        used = {argument for fact in facts for argument in fact[1:]}
        idle = tuple(sorted((name, kind) for name, kind in declared.items() if name not in used))
    return facts, goal, idle


def _could_tell_idle(goal: Formula) -> bool:
    """Whether ids without facts could matter: only to what speaks of all things or of what is not the case."""
    if goal[0] == "not":
        return bool(goal[1][0] != "=")
    if goal[0] in ("and", "or"):
        return any(_could_tell_idle(part) for part in goal[1:])
    return _could_tell_idle(goal[2]) if goal[0] == "exists" else goal[0] in ("forall", "imply", *TYPES)


def _domain_constants(domain: str) -> list[tuple[str, str]]:
    if ":constants" not in domain.lower():
        return []
    return [
        pair
        for item in read_pddl(domain)
        if isinstance(item, tuple) and item[:1] == (":constants",)
        for pair in read_typed_list(item[1:])
    ]


def _read_facts(items: tuple[Expression, ...], declared: dict[str, str]) -> tuple[Fact, ...]:
    facts: dict[Fact, None] = {}
    denied: list[Fact] = []
    for fact in items:
        if not (isinstance(fact, tuple) and fact and isinstance(fact[0], str)):
            raise PddlError(f"':init' holds facts like (opened x), found {fact!r:.60}")
        name = fact[0]
        if name == "=":  # a cost or a distance: nothing in play depends on it
            continue
        if name == "not":
            if len(fact) != 2 or not isinstance(fact[1], tuple):
                raise PddlError(f"a denied fact reads (not (opened x)), found {_show(fact)}")
            denied.append(fact[1])  # what is not stated is false anyway
            continue
        kinds = PREDICATES.get(name, (None,) * (len(fact) - 1))  # facts unknown to the domain do no harm
        if len(fact) != len(kinds) + 1:
            raise PddlError(f"fact {_show(fact)} needs {len(kinds)} arguments, found {len(fact) - 1}")
        for argument, kind in zip(fact[1:], kinds, strict=True):
            found = declared.get(argument) if isinstance(argument, str) else None
            if found is None:
                raise PddlError(f"{_show(argument)} in fact {_show(fact)} is not declared in ':objects'")
            if kind is not None and found != kind and name not in ("checked", "examined"):
                raise PddlError(f"{argument!r} in fact {_show(fact)} is a {found!r}, need a {kind!r}")
        facts[fact] = None
    for fact in denied:
        if fact in facts:
            raise PddlError(f"fact {_show(fact)} is stated and denied")
    return tuple(facts)


def _show(expression: Expression) -> str:
    text = expression if isinstance(expression, str) else f"({' '.join(map(_show, expression))})"
    return text if len(text) <= 120 else text[:117] + "..."


def _check_formula(formula: Formula) -> None:
    """Check the shape of a goal, so that the engine may rely on it."""
    if not (isinstance(formula, tuple) and formula and isinstance(formula[0], str)):
        raise PddlError(f"a goal is made of parenthesised formulas, found {_show(formula)}")
    head, rest = formula[0], formula[1:]
    if head in ("and", "or", "not", "imply"):
        wanted = {"not": 1, "imply": 2}.get(head, len(rest))
        if len(rest) != wanted:
            raise PddlError(f"{head!r} in the goal needs {wanted} parts, found {len(rest)}")
        for part in rest:
            _check_formula(part)
    elif head in ("forall", "exists"):
        if len(rest) != 2 or not isinstance(rest[0], tuple):
            raise PddlError(f"{head!r} in the goal needs a list of variables and a formula: {_show(formula)}")
        for name, _ in read_typed_list(rest[0]):
            if not name.startswith("?"):
                raise PddlError(f"{head!r} in the goal needs variables like ?o, found {name!r}")
        _check_formula(rest[1])
    else:
        count = 2 if head == "=" else len(PREDICATES[head]) if head in PREDICATES else 1 if head in TYPES else None
        if count is None:
            raise PddlError(f"the goal uses {head!r}, which is not in the domain; it has {', '.join(PREDICATES)}")
        if len(rest) != count or not all(isinstance(argument, str) for argument in rest):
            raise PddlError(f"{head!r} in the goal needs {count} arguments: {_show(formula)}")
