"""Start the processes of a run on this machine, as torchrun does, and say in one sentence what became of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

_USER_ERROR = 2  # a command ends with it when it has said what was wrong


class ProcessFailed(OSError):
    """One of the processes ended before the run was over; the others were ended."""


def launch(arguments: Sequence[str], processes: int) -> None:
    """Run ``python -m opid_agents ARGUMENTS`` in several processes that know of each other (`join`), and wait.

    Args:
        arguments: of the command.
        processes: how many. The CPU's cores are shared among them, unless ``OMP_NUM_THREADS`` is set.

    Raises:
        ProcessFailed: one of them failed or was killed; the message says which and how.
        KeyboardInterrupt: Ctrl-C; all have ended.
        SystemExit: one of them has said what is wrong with its arguments.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # we say it in one sentence
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "opid_agents", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode == _USER_ERROR:
            raise SystemExit(_USER_ERROR) from None
        raise ProcessFailed(f"process {rank} of {processes} {_end_of(failure)}; the others were ended") from None
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise SystemExit(128 + error.sigval) from None


def _end_of(failure: ProcessFailure) -> str:
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return f"was ended by {name}{hint}"
    return f"failed with exit code {failure.exitcode}, its error is above"
