"""Runs a command so that nothing of it outlives the process that asked for it, however that process ends.

`guarded` puts this file before a command. The guard is a small process between the two: it starts the command and waits
for it. It ends everything that the command started when the command ends, when the guard is told to end, and when the
process that asked for it is gone, be it by an exception, `os._exit` or SIGKILL. It can also remove folders then.

On Linux no process escapes: orphans become children of the guard (``PR_SET_CHILD_SUBREAPER``). On other POSIX systems
the guard ends the command's process group. On Windows there is no guard.

It uses the standard library alone and runs without site packages, because it starts before each guarded command.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 0.2  # how often the parent is looked for where the system cannot tell when it ends


def guarded(command: Sequence[str], *, remove: Sequence[str] = (), grace: float = 2.0) -> list[str]:
    """The command with a guard before it, to be started by this process.

    Start it with ``start_new_session=True``, so that a Ctrl-C in the terminal reaches this process alone. SIGTERM to
    the guard ends everything; its exit status is that of the command.

    Args:
        command: a program and its arguments.
        remove: folders to remove in the end.
        grace: seconds between asking descendants of the command to end and ending them.
    """
    if os.name != "posix":
        return list(command)
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(grace), *remove, "--", *command]


def end_with_parent() -> None:
    """End this process by SIGKILL when the one that started it has ended, however it did; on Linux alone."""
    parent = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGKILL)


def main(arguments: Sequence[str]) -> int:
    """Entry point of the guard's process: ``PARENT GRACE FOLDER ... -- COMMAND ...``."""
    parent, grace = int(arguments[0]), float(arguments[1])
    split = arguments.index("--")
    folders, command = arguments[2:split], arguments[split + 1 :]
    _prctl(_PR_SET_CHILD_SUBREAPER)
    # Before the command starts, so that nothing is missed: a signal or the end of a child wakes the wait below.
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(name, _ignore)
    status = 127
    try:
        child = subprocess.Popen(command, preexec_fn=_end_with_guard)
        try:
            _wait(child, parent, wake)
        finally:
            child.kill()
            status = child.wait()
            _end_family(child.pid, grace)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    if status < 0:  # the command was ended by a signal: end in the same way
        with contextlib.suppress(OSError):  # SIGKILL cannot be set
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _wait(child: subprocess.Popen[bytes], parent: int, wake: int) -> None:
    """Return when the command has ended, when the guard is told to end, or when the parent is gone."""
    files = [wake]
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            files.append(os.pidfd_open(parent))
    while child.poll() is None and os.getppid() == parent:
        ready, _, _ = select.select(files, [], [], None if len(files) > 1 else _LOOK_SECONDS)
        if wake in ready and set(os.read(wake, 4096)) - {signal.SIGCHLD}:
            return


def _end_family(leader: int, grace: float) -> None:
    """End what the command has left behind: ask first, then kill."""
    if not sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)
        return
    end = time.monotonic() + grace
    asked: set[int] = set()
    while left := list(_descendants()):
        for process in left:
            with contextlib.suppress(OSError):
                if time.monotonic() > end:
                    os.kill(process, signal.SIGKILL)
                elif process not in asked:
                    asked.add(process)
                    os.kill(process, signal.SIGTERM)
        time.sleep(0.01)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _descendants() -> Iterator[int]:
    """Living processes that this one has started, or that they have."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                state, its_parent = file.read().rpartition(b")")[2].split()[:2]
                if state != b"Z":
                    parents[int(name)] = int(its_parent)
    waiting = [os.getpid()]
    while waiting:
        parent = waiting.pop()
        children = [process for process, its_parent in parents.items() if its_parent == parent]
        waiting += children
        yield from children


def _end_with_guard() -> None:
    """In the command's process, before the command: end it if the guard is killed."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    if not sys.platform.startswith("linux"):
        os.setpgrp()


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _ignore(signum: int, frame: FrameType | None) -> None:
    """The wakeup descriptor says all."""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
