"""Waiting in tests: for what must happen, far longer than a slow and busy machine needs.

Where all is well, a wait ends as soon as it can, so a long limit costs nothing; a short one fails on a busy machine.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import httpx

SECONDS = 600.0
"""The limit where a test waits for another process, a thread or a server."""

LONG = 20.0
"""Seconds of processor time that linear work on a megabyte never takes, and quadratic work always does."""

get = partial(httpx.get, timeout=SECONDS)
post = partial(httpx.post, timeout=SECONDS)

_T = TypeVar("_T")


def wait_for(condition: Callable[[], _T], what: str = "it") -> _T:
    """Return what `condition()` gives as soon as it is true.

    Raises:
        AssertionError: it has not become true within `SECONDS`; names `what` was waited for.
    """
    end = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, f"{what} did not happen in {SECONDS:g} seconds"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """A port of this machine on which nobody listens, for a command that has to be told one.

    It is none of those that the system itself gives out, so no connection and no other server takes it meanwhile.
    """
    for port in random.Random().sample(range(20_000, 32_000), 100):
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")
