"""A run of tests of which some fail: which get a second chance, and what is said of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.second_chance import MOST

ROOT = Path(__file__).parents[1]

# Two fail when they run for the first time, and the good one whenever it runs again.
FLAKY = """
import pathlib, sys
import pytest

@pytest.mark.parametrize("url", ["http://user@host/a b", "é::[x]"])
def test_flaky(url):
    first = pathlib.Path(__file__).with_name(f"seen{len(url)}")
    if not first.exists():
        first.touch()
        raise AssertionError("for the first time")

def test_good():
    assert not pathlib.Path(__file__).with_name("good").exists(), "runs once"
    pathlib.Path(__file__).with_name("good").touch()
"""
BAD = "def test_bad():\n    assert False, 'each time'\n"
SPREAD = ["-p", "xdist", "-n", "2", "--dist", "loadfile"]
SAID = "FAILED BESIDE OTHERS, PASSED ALONE: mend these"


def run(folder: Path, *arguments: str, **files: str) -> subprocess.CompletedProcess[str]:
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, code in files.items():
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    others = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [sys.executable, "-m", "tests.second_chance", *arguments],
        cwd=folder,
        env={**others, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # they take long to import
        capture_output=True,
        text=True,
    )


def test_what_passes_alone_passes_and_is_named_in_the_last_lines(tmp_path: Path) -> None:
    done = run(tmp_path, *SPREAD, test_flaky=FLAKY)
    assert done.returncode == 0, done.stdout
    line, *last = done.stdout.splitlines()[-5:]
    assert line == last[-1] == "!" * 100
    assert last[0] == SAID
    assert sorted(last[1:3]) == [
        "test_flaky.py::test_flaky[\\xe9::[x]]",
        "test_flaky.py::test_flaky[http://user@host/a b]",
    ]


def test_where_nothing_fails_nothing_runs_again(tmp_path: Path) -> None:
    done = run(tmp_path, test_good="def test_good():\n    pass\n")
    assert (done.returncode, done.stdout.count("test session starts")) == (0, 1)
    assert SAID not in done.stdout


def test_a_second_failure_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, test_bad=BAD, test_flaky=FLAKY)
    assert (done.returncode, done.stdout.count("test session starts")) == (1, 2)
    assert "1 failed, 2 passed" in done.stdout
    assert SAID not in done.stdout


TORN = "import no_such_module\n"
MANY = "".join(f"def test_{number}():\n    assert False\n" for number in range(MOST + 1))
INTERRUPT = FLAKY + "def test_interrupt():\n    raise KeyboardInterrupt\n"


@pytest.mark.parametrize(
    ("files", "arguments"),
    [
        ({"test_many": MANY}, SPREAD),
        ({"test_flaky": FLAKY, "test_torn": TORN}, SPREAD),
        ({"test_flaky": FLAKY, "test_torn": TORN}, []),
        ({"test_flaky": FLAKY}, [*SPREAD, "-x"]),
        ({"test_flaky": FLAKY}, ["-x"]),
        ({"test_flaky": FLAKY}, ["--no-such-option"]),
        ({}, []),
    ],
    ids=["many", "torn, spread", "torn", "ended early, spread", "ended early", "wrong option", "no tests"],
)
def test_everything_else_fails_at_once(tmp_path: Path, files: dict[str, str], arguments: list[str]) -> None:
    done = run(tmp_path, *arguments, **files)
    assert done.returncode != 0
    assert done.stdout.count("test session starts") <= 1
    assert SAID not in done.stdout


def test_an_interrupted_run_fails_at_once(tmp_path: Path) -> None:
    done = run(tmp_path, test_flaky=INTERRUPT)
    assert done.returncode == 2
    assert done.stdout.count("test session starts") == 1


def test_an_error_while_setting_up_or_leaving_is_a_failure_too(tmp_path: Path) -> None:
    code = """
import pytest

@pytest.fixture
def broken():
    yield
    raise OSError

def test_one(broken):
    pass
"""
    done = run(tmp_path, test_one=code)
    assert (done.returncode, done.stdout.count("test session starts")) == (1, 2)
