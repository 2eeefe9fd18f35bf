"""Other processes, for what has to be the same in each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable

import psutil


def hear_signals() -> None:
    """For `preexec_fn`: signals end the new process, also where the tests run in a shell's background.

    There commands ignore SIGINT (and SIGHUP after nohup), and what they start inherits that.
    """
    for name in (signal.SIGINT, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)


def printed(code: str, hash_seed: str) -> str:
    """What a fresh interpreter, in which texts hash by this seed, prints when it runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; the dead whom nobody has reaped yet do not."""
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:  # reaped between the two questions
        return False
