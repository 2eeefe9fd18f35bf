"""Training that is killed at file-system events and resumed; the short form of `benchmarks/crashes.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import SECONDS

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the campaign copies its process")
def test_a_killed_run_is_finished_by_the_same_command_with_the_same_numbers():
    words = ["--kills", "2", "--json", "--subject", "train warm start"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crashes", *words], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == 2
    assert found["subjects"]["train warm start"]["events"] >= 40
