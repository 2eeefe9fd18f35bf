"""Runs pytest, and runs the few tests that failed once more, alone: ``python -m tests.second_chance ARGUMENTS``.

The arguments are pytest's. Browsers, servers and clusters that share a busy machine with other tests can fail for want
of it. Where at most `MOST` tests failed, exactly those run again, one after the other and with nothing beside them. If
all of them pass, the run passes, and its last lines name them. Everything else fails as it does without this: more
failures, a second failure, errors of collection, a run that was ended early.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

MOST = 3
"""Of how many failed tests one may believe that the machine was too busy."""


class _Failures:
    """Which tests failed, and whether all could be collected and were run."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.whole = True

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.whole &= not report.failed  # with pytest-xdist the exit code is that of failed tests

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.names:
            self.names.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.whole &= not (session.shouldfail or session.shouldstop)


def main(arguments: Sequence[str]) -> int:
    """Run pytest; return its exit code, or 0 if what failed has passed alone."""
    failures = _Failures()
    code = int(pytest.main([*arguments], plugins=[failures]))
    if code != pytest.ExitCode.TESTS_FAILED or not failures.whole or not 0 < len(failures.names) <= MOST:
        return code
    print(f"\nOnce more, alone: {len(failures.names)} that failed beside others.", flush=True)
    again = subprocess.run([sys.executable, "-m", "pytest", *failures.names])
    if again.returncode == 0:
        line = "!" * 100
        print(line, "FAILED BESIDE OTHERS, PASSED ALONE: mend these", *failures.names, line, sep="\n", flush=True)
    return again.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
