"""Commands that are killed at file-system events and run again; the short form of `benchmarks/crashes.py`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import SECONDS

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the campaign copies its process")
def test_what_was_killed_is_finished_by_the_same_command() -> None:
    words = ["--kills", "6", "--json"]
    for subject in ("bench", "index bm25", "catalogue", "export", "page"):
        words += ["--subject", subject]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.crashes", *words], capture_output=True, text=True, cwd=ROOT, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 30
    assert all(one["events"] >= 2 for one in found["subjects"].values())
