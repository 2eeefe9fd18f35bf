"""The contract holds on the lowest Gymnasium that the package declares; every other test runs on the newest."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import gymnasium
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CONTRACT = ("env", "vector", "hindsight", "panel", "wrappers", "worlds")


@pytest.fixture(scope="module")
def lowest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Version]:
    """A folder with the lowest Gymnasium, and which it is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [declared] = [need for need in map(Requirement, project["dependencies"]) if need.name == "gymnasium"]
    [bound] = [Version(part.version) for part in declared.specifier if part.operator == ">="]
    folder = tmp_path_factory.mktemp("gymnasium")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--target", str(folder), f"gymnasium=={bound}"]
    installed = subprocess.run(command, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"gymnasium {bound} cannot be installed here: {installed.stderr.strip()[-200:]}")
    return folder, bound


def test_the_contract_holds_on_the_lowest_gymnasium(lowest: tuple[Path, Version]) -> None:
    folder, version = lowest
    assert Version(gymnasium.__version__) > version
    paths = [str(folder), str(ROOT), str(ROOT / "agents"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    check = f"import gymnasium; assert gymnasium.__version__.startswith('{version}'), gymnasium.__version__"
    subprocess.run([sys.executable, "-c", check], env=environment, cwd=ROOT, check=True)
    tests = [f"tests/contract/test_{name}.py" for name in CONTRACT]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
