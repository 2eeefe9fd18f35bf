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


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the campaign copies its process")
def test_a_campaign_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    file, kills = tmp_path / "kills.json", []
    for times in (2, 4, 3):
        words = ["--kills", str(times), "--subject", "export", "--results", str(file)]
        subprocess.run([sys.executable, "-m", "benchmarks.crashes", *words], check=True, cwd=ROOT, timeout=SECONDS)
        kills.append(json.loads(file.read_text())["kills"])
    assert 2 <= kills[0] < 4 <= kills[1] == kills[2]
