"""The arithmetic of the study of learners; its runs are those of `test_train`."""

import importlib.util
import math
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("study", Path(__file__).parents[2] / "benchmarks" / "study.py")
study = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study)


def test_seeds_are_what_is_paired():
    """Differences 0.1, 0.2 and 0.3: mean 0.2, standard error 0.1 / sqrt(3), Student's quantile 4.3027."""
    runs = {
        "grpo": [{"final": base, "rollouts": None} for base in (0.1, 0.5, 0.9)],
        "opid": [{"final": base, "rollouts": 0.5} for base in (0.2, 0.7, 1.2)],
    }
    found = study.summarise(runs, "grpo")
    difference = found["opid"]["final"]["difference"]
    assert difference["mean"] == pytest.approx(0.2)
    assert difference["half"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found["grpo"]["final"]["difference"]["mean"] == 0.0
    assert found["opid"]["rollouts"] is None  # nothing to compare it with
    assert study.show(found, "grpo").row_count == 2


def test_one_seed_has_no_interval():
    assert study.interval([0.4]) == {"mean": 0.4, "half": None, "seeds": 1}
