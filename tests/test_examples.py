"""The examples run as a newcomer runs them; those that train are cut down to seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import SECONDS

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = [
    "iterations=1", "tasks_per_iteration=2", "group_size=2", "evaluation.tasks=4", "threads=1", "start=fresh",
    "warm_start.demonstrations=12", "warm_start.steps=6", "warm_start.short_steps=3", "warm_start.check_tasks=2",
]  # fmt: skip
ARGUMENTS = {"opid_in_twenty_lines": SHORT, "compare_algorithms": SHORT}
SAYS = {
    "own_world": "100.0%",
    "agent_on_all_worlds": "opid/SearchQA-v0",
    "opid_in_twenty_lines": "after:",
    "compare_algorithms": "points over 2 seeds",
}


def test_every_example_is_run() -> None:
    assert {file.stem for file in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *ARGUMENTS.get(name, [])],
        cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SAYS[name] in done.stdout
