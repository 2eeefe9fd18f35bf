"""The arrows between packages, read from the source: what may import what."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOMES = {"opid_gym": ROOT, "opid_gym_envs": ROOT, "opid_agents": ROOT / "agents"}

# What each part of the agents' package may import of its other parts; modules at its top are free to be imported.
PARTS = {
    "algorithms": set(),
    "skills": {"sampling"},
    "sampling": set(),
    "recipes": {"algorithms", "skills"},
    "training": {"algorithms", "recipes", "sampling", "skills"},
}


def modules(package):
    """Name and path of every module of a package."""
    home = HOMES[package]
    for path in sorted((home / package).rglob("*.py")):
        parts = path.relative_to(home).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


SOURCES = {name: path for package in HOMES for name, path in modules(package)}


def imports(path, *, everywhere=True):
    """The names of modules (or of things in them) that a file imports, but for those that only types need.

    Args:
        path: of the file.
        everywhere: also within functions, which run later.
    """
    found = []
    waiting = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [
                child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)
            ]
    return found


def module_of(name):
    """The module that holds what is imported, or None if it is none of ours."""
    while name and name not in SOURCES:
        name = name.rpartition(".")[0]
    return name or None


@pytest.mark.parametrize(
    ("package", "never"),
    [
        ("opid_gym", ("opid_gym_envs", "opid_agents", "torch", "transformers")),
        ("opid_gym_envs", ("opid_agents",)),
        ("opid_agents", ("opid_gym_envs",)),
    ],
)
def test_agents_and_worlds_know_the_contract_and_not_each_other(package, never):
    wrong = [
        f"{module} imports {name}"
        for module, path in modules(package)
        for name in imports(path)
        if name.partition(".")[0] in never
    ]
    assert not wrong


def test_parts_of_the_agents_package_point_one_way():
    wrong = []
    for module, path in modules("opid_agents"):
        part = module.split(".")[1] if "." in module else ""
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("opid_agents.") else ""
            if part in PARTS and other in PARTS and other != part and other not in PARTS[part]:
                wrong.append(f"{module} imports {name}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = defaultdict(set)
    for module, path in SOURCES.items():
        graph[module] = {found for name in imports(path, everywhere=False) if (found := module_of(name))} - {module}
    # Whatever only imports what is done is done; circles are what is left.
    left = dict(graph)
    while done := [module for module, needed in left.items() if not needed & set(left)]:
        for module in done:
            del left[module]
    assert not left, {module: sorted(needed & set(left)) for module, needed in left.items()}


def test_nothing_private_of_a_world_is_used_outside():
    private = re.compile(r"opid_gym_envs(\.\w+)*\._\w+")
    files = [path for top in ("agents", "opid_gym", "benchmarks") for path in (ROOT / top).rglob("*.py")]
    assert not [f"{path}: {name}" for path in files for name in imports(path) if private.match(name)]


def test_nobody_reads_call_frames():
    code = [path for package in HOMES for _, path in modules(package)]
    assert not [path for path in code if re.search(r"_getframe|inspect\.(stack|currentframe)", path.read_text())]
