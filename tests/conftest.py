"""What holds for the whole suite: when it is over, nothing that it started is left."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import HealthCheck, settings

from tests.patience import SECONDS

_PR_SET_CHILD_SUBREAPER = 36
# Python starts it once for all of `multiprocessing`, and it ends with this process.
_OF_PYTHON = "multiprocessing.resource_tracker"

# A machine may be busy: how long an example takes, or takes to be made, is no result. And the same code has the same
# result each time: new examples are for the campaigns in benchmarks/.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def nothing_outlives_the_tests() -> Iterator[None]:
    """Fails the last test of a process if a process or a folder of an earlier one is still there."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # so that orphans are found as well
    yield
    children = psutil.Process().children(recursive=True)
    psutil.wait_procs([child for child in children if not _may_stay(child)], timeout=SECONDS)
    processes = [f"{child.pid}: {_command(child)}" for child in children if not _may_stay(child)]
    folders = [
        str(folder)
        for prefix in (f"opid-gym-browser-{os.getpid()}-", f"opid-gym-bench-{os.getpid()}-")
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*")
    ]
    assert not processes, "the tests left processes behind:\n" + "\n".join(processes)
    assert not folders, f"the tests left folders behind: {folders}"


def _may_stay(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or _OF_PYTHON in _command(process)
    except psutil.NoSuchProcess:
        return True


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
