"""Threads for work that lets go of the interpreter."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """The calling thread and others that help it, each taking the next item as soon as it is done with one.

    So a core that another process occupies slows the whole down by no more than an item, where fixed shares, as of
    OpenMP's threads, would all wait for the one that has to share its core.

    Args:
        threads: how many, the caller's included.

    >>> Workers(2).map(str.upper, ["a", "b", "c"])
    ['A', 'B', 'C']
    """

    def __init__(self, threads: int) -> None:
        self._helpers = threads - 1
        self._pool: ThreadPoolExecutor | None = None

    @property
    def helped(self) -> bool:
        """Whether there are other threads than the caller's."""
        return self._helpers > 0

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The function's result for each item, in order; one item is the caller's own."""
        helpers = min(self._helpers, len(items) - 1)
        if helpers < 1:
            return [function(item) for item in items]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._helpers, thread_name_prefix="retriever")
        results: list[Any] = [None] * len(items)
        places = iter(range(len(items)))

        def work() -> None:
            for place in places:
                results[place] = function(items[place])

        futures = [self._pool.submit(work) for _ in range(helpers)]
        work()
        for future in futures:
            if not future.cancel():  # a helper that has not begun comes too late
                future.result()
        return results

    def close(self) -> None:
        """End the threads; the next call of `map` starts them again."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
