"""Commands under a guard, of which nothing outlives the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from opid_gym.guard import guarded
from tests.patience import SECONDS
from tests.processes import running

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there is no guard on Windows")

# A child in a session of its own that ignores SIGTERM, and is orphaned before its number is printed.
ORPHAN = """
import os, signal, subprocess, sys
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        signal.pause()
    os._exit(0)
os.wait()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "profile"
    folder.mkdir()
    (folder / "file").touch()
    return folder


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    command = guarded([sys.executable, "-c", code], remove=[str(folder)], grace=0.2)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def is_gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=SECONDS)
    return not running([process])


@pytest.mark.parametrize(("code", "status"), [("", 0), ("import sys; sys.exit(7)", 7), ("import os; os.abort()", -6)])
def test_the_guard_ends_as_the_command_does(folder: Path, code: str, status: int) -> None:
    with start(code, folder) as process:
        assert process.wait(SECONDS) == status
    assert not folder.exists()


def test_a_command_that_is_not_there_is_named(folder: Path) -> None:
    done = subprocess.run(guarded(["no-such-program"], remove=[str(folder)]), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (127, "no-such-program: No such file or directory\n")
    assert not folder.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are followed on Linux alone")
@pytest.mark.parametrize("ending", ["", "os._exit(1)", "signal.pause()"])
def test_orphans_in_sessions_of_their_own_end_too(folder: Path, ending: str) -> None:
    with start(ORPHAN + ending, folder) as process:
        assert process.stdout is not None
        orphan = psutil.Process(int(process.stdout.readline()))
        if ending == "signal.pause()":
            process.terminate()
        process.wait(SECONDS)
    assert is_gone(orphan)
    assert not folder.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="orphans are followed on Linux alone")
def test_a_killed_parent_takes_everything_along(folder: Path) -> None:
    code = f"""
import subprocess, sys
from opid_gym.guard import guarded
code = {ORPHAN + "signal.pause()"!r}
subprocess.run(guarded([sys.executable, "-c", code], remove=[{str(folder)!r}], grace=0.2), start_new_session=True)
"""
    paths = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as parent:
        assert parent.stdout is not None
        orphan = psutil.Process(int(parent.stdout.readline()))
        family = [orphan, *psutil.Process(parent.pid).children(recursive=True)]
        assert len(family) >= 3
        parent.send_signal(signal.SIGKILL)
    assert all(map(is_gone, family))
    assert not folder.exists()
