"""Mutation score: the share of small mistakes, put into a module one at a time, that its tests notice.

    python -m benchmarks.mutants --sample 60 --results mutants.json

A mutant is the module with one comparison, operator, number, truth value or condition changed, or one statement left
out; annotations, docstrings and the texts of errors stay. Its tests, doctests included, run in a copy of this process
in which what is heavy has been imported already, and stop at the first failure. A mutant is noticed when a test fails,
when the module cannot be imported, or when the tests take ten times the processor time they take otherwise. Where a
module has more mutants than were asked for, a sample is drawn. Those that survive are listed; some of them do what the
original does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.copies import ROOT, in_copy

HEAVY = ("gymnasium", "hypothesis", "pytest", "torch", "transformers")
"""Imported once, before the process is copied; none of them imports a module that is tested."""

MODULES: dict[str, Sequence[str]] = {
    "opid_agents.algorithms.advantages": ("tests/agents/algorithms/test_advantages.py",),
    "opid_agents.algorithms.gigpo": ("tests/agents/algorithms/test_gigpo.py",),
    "opid_agents.algorithms.losses": ("tests/agents/algorithms/test_losses.py",),
    "opid_agents.skills.report": ("tests/agents/skills/test_report.py",),
    "opid_gym.actions": ("tests/contract/test_actions.py",),
    "opid_gym_envs.alfworld.pddl": ("tests/alfworld/test_problem.py",),
    "opid_gym_envs.alfworld.problem": ("tests/alfworld/test_problem.py",),
    "opid_gym_envs.searchqa.scoring": ("tests/searchqa/test_scoring.py",),
    "opid_gym_envs.searchqa.turns": ("tests/searchqa/test_turns.py",),
    "opid_gym_envs.webshop.reward": ("tests/webshop/test_reward.py",),
}
"""Modules and the tests that have to notice."""

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module with one mistake.

    Attributes:
        line: where it is.
        change: what it is: the code before and after.
        tree: the module.
    """

    line: int
    change: str
    tree: ast.Module


def mutants(source: str) -> list[Mutant]:
    """All mutants of a module."""
    module = ast.parse(source)
    found = []
    for number, node in enumerate(_changeable(module)):
        for way in range(len(_changes(node))):
            tree = copy.deepcopy(module)
            twin = next(other for at, other in enumerate(_changeable(tree)) if at == number)
            new = _changes(twin)[way]
            change = f"{_shown(node)} -> {_shown(new)}"
            _Replace(twin, new).visit(tree)
            found.append(Mutant(getattr(node, "lineno", 0), change, ast.fix_missing_locations(tree)))
    return found


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, ast.copy_location(new, old)

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).splitlines()[0][:80]


def _changeable(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below one, those left out that say nothing about what the module does."""
    if isinstance(node, ast.Raise):
        return  # the words of an error
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        fields: list[Any] = [node.args.defaults, node.args.kw_defaults, node.body]
    elif isinstance(node, ast.AnnAssign):
        fields = [node.value]
    elif isinstance(node, (ast.Import, ast.ImportFrom, ast.JoinedStr)):
        fields = []
    elif isinstance(node, ast.ClassDef):
        fields = [node.body]
    else:
        fields = [value for _, value in ast.iter_fields(node)]
    for field in fields:
        for child in field if isinstance(field, list) else [field]:
            if isinstance(child, ast.AST):
                yield child
                yield from _changeable(child)


def _changes(node: ast.AST) -> list[ast.AST]:
    """What could stand in the place of a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        swapped = COMPARISONS[type(node.ops[0])]
        return [ast.Compare(node.left, [swapped()], node.comparators)]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return [ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)]
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        return [ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value), ast.Pass()]
    if isinstance(node, ast.BoolOp):
        return [ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        return [node.operand]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [ast.Constant(not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return [ast.Constant(node.value + 1)]
    if isinstance(node, (ast.If, ast.IfExp)):
        other = copy.copy(node)
        other.test = ast.UnaryOp(ast.Not(), node.test)
        return [other]
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        return [ast.Pass()]
    if isinstance(node, (ast.Break, ast.Continue)):
        return [ast.Pass()]
    return []


class _Instead(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a module another source; a plugin of pytest, whose own finder would come before it otherwise."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def pytest_configure(self) -> None:
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.util.spec_from_file_location(name, self.path, loader=self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def noticed(name: str, path: Path, tree: ast.Module, tests: Sequence[str], seconds: int) -> bool:
    """Whether tests fail on another source of a module, or take more processor time than they may."""

    def act() -> None:
        import pytest
        from hypothesis import Phase, settings

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        instead = _Instead(name, path, tree)
        sys.meta_path.insert(0, instead)  # for what conftest files import; again once pytest has set its own
        # A failure is all there is to know, so no simpler example is looked for.
        settings.register_profile("once", deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-profile=once"]
        if status := pytest.main([*options, str(path), *tests], plugins=[instead]):
            raise SystemExit(int(status))

    return in_copy(act) != 0


def score(name: str, tests: Sequence[str], sample: int, seed: int = 0) -> dict[str, Any]:
    """The mutation score of a module, with those that survived.

    Raises:
        RuntimeError: the tests fail on the module as it is, or never see a mutant.
    """
    package, *places = name.split(".")
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], *places).with_suffix(".py")
    source = path.read_text(encoding="utf-8")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if noticed(name, path, ast.parse(source), tests, seconds=600):
        raise RuntimeError(f"{tests} fail on {name} as it is")
    if not noticed(name, path, ast.parse("raise ImportError"), tests, seconds=600):
        raise RuntimeError(f"{tests} do not import {name}, or something else did before")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = 10 + 10 * round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    every = mutants(source)
    chosen = every if len(every) <= sample else random.Random(seed).sample(every, sample)
    survived = []
    for mutant in sorted(chosen, key=lambda mutant: mutant.line):
        if not noticed(name, path, mutant.tree, tests, seconds):
            survived.append(f"{mutant.line}: {mutant.change}")
            print(f"{name}:{survived[-1]}", file=sys.stderr, flush=True)
    share = 1 - len(survived) / len(chosen)
    return {"mutants": len(every), "tried": len(chosen), "score": round(share, 3), "survived": survived}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=60, help="maximum mutants of each module")
    parser.add_argument("--module", action="append", choices=MODULES, help="only this one; may be repeated")
    parser.add_argument("--results", type=Path, help="file that keeps outcomes; modules in it are left out")
    arguments = parser.parse_args()
    for name in HEAVY:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)
    os.chdir(ROOT)
    found: dict[str, Any] = {}
    if arguments.results and arguments.results.is_file():
        found = json.loads(arguments.results.read_text(encoding="utf-8"))
    for name in arguments.module or MODULES:
        if name not in found:
            found[name] = score(name, MODULES[name], arguments.sample)
            print(f"{name}: {found[name]['score']} of {found[name]['tried']}", file=sys.stderr, flush=True)
            if arguments.results:
                scratch = arguments.results.with_suffix(".new")
                scratch.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                scratch.replace(arguments.results)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
