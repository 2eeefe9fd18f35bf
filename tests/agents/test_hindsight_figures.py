"""Advice is admissible, and who takes it wins at least as often: the benchmark's figures on few episodes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

_path = Path(__file__).parents[2] / "benchmarks" / "hindsight.py"
_spec = importlib.util.spec_from_file_location("hindsight_benchmark", _path)
assert _spec
assert _spec.loader
figures: Any = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = figures  # dataclasses look their module up
_spec.loader.exec_module(figures)


@pytest.mark.parametrize("world", list(figures.SETTINGS))
def test_who_takes_the_advice_wins_at_least_as_often(world: str) -> None:
    found = figures.measure(figures.SETTINGS[world], lambda envs: figures.NoisyExpert(envs, 0.6, seed=1), episodes=16)
    assert found["better"] > 0
    assert found["admissible"] == 1.0
    assert found["wins"]["plain"] <= found["wins"]["decisive"]
    assert found["wins"]["plain"] <= found["wins"]["all"]
    assert found["advised_steps"]["decisive"] > 0
