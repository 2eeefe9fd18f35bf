"""Recall on parallel texts: Chinese, Japanese and Korean are found about as well as English."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "languages.py"))


@pytest.mark.parametrize("engine", ["bm25", "bm25s"])
def test_recall_is_within_five_points_of_english(tmp_path: Path, engine: str) -> None:
    described = BENCHMARK["places"](0)
    found = {name: BENCHMARK["recall"](engine, name, described, str(tmp_path)) for name in BENCHMARK["LANGUAGES"]}
    assert found["english"] > 0.95
    assert min(found.values()) > found["english"] - 0.05, found
