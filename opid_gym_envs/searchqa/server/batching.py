"""Requests that arrive together are searched together."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

from opid_gym_envs.searchqa.retrievers.base import Document, RetrieverError


class Busy(Exception):
    """The queue is full: come back later."""


# Queries that may wait: three batches of a trainer, of 8,192 each, and some more.
QUEUE = 32_768

# How long a batch waits for others, as a share of what the last one took.
PATIENCE = 0.1

# A batch that is expected to take less, in seconds, may be searched in the event loop.
QUICK = 0.01

# As `IndexedRetriever.search_documents`.
Search = Callable[[Sequence[str], int], list[list[Document]]]
_Result = list[list[Document]] | Exception


@dataclass(eq=False, slots=True)
class _Waiting:
    queries: Sequence[str]
    k: int
    future: asyncio.Future[list[list[Document]]]


class Batcher:
    """Makes batches of concurrent requests for one search.

    While a batch is being searched, requests collect; what has collected is the next batch, up to `batch_size`
    queries. Clients that have just been answered are likely to ask again at once, and together their queries are
    cheaper: so the next batch waits until as many queries are there as the last one had, but no longer than a tenth of
    what that one took. A request that arrives at rest waits `window` seconds for others. Requests with different
    numbers of passages share a batch but not a search, so that each gets what it would get alone.

    A batch is searched in a thread, unless that search is local and the last one let expect that this one is quick:
    then waiting for it costs the event loop less than sharing the interpreter with the thread would.

    Args:
        find: searches; by one batch at a time.
        local: it computes in this process, and so takes as long as the last time, where a server might not.
        batch_size: maximum queries of a batch; a request with more is a batch by itself.
        window: seconds.
        limit: maximum number of waiting queries; `search` refuses what would exceed it.
        observe: told the number of queries of each batch.
    """

    def __init__(
        self,
        find: Search,
        *,
        local: bool = False,
        batch_size: int = 64,
        window: float = 0.0,
        limit: int = QUEUE,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self.limit = limit
        self._find, self._local = find, local
        self._batch_size, self._window, self._observe = batch_size, window, observe
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._enough = 1  # number of waiting queries that sets it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="retriever")
        self._worker: asyncio.Task[None] | None = None
        self._closing = False
        self._pace = float("inf")  # seconds a query took in the last batch
        self.waiting = 0

    async def search(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """What is found, some time later.

        Raises:
            Busy: too many queries wait already, or it is closing.
        """
        if self._closing or self.waiting + len(queries) > self.limit:
            raise Busy
        if not queries:
            return []
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        request = _Waiting(queries, k, asyncio.get_running_loop().create_future())
        self._queue.append(request)
        self.waiting += len(queries)
        if self.waiting >= self._enough:
            self._arrived.set()
        return await request.future

    async def close(self) -> None:
        """Finish what has been accepted, then stop."""
        self._closing = True
        self._arrived.set()
        if self._worker is not None:
            await self._worker
        self._thread.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue or not self._closing:
            if not self._queue:
                await self._wait_for(1)
                if self._window:
                    await asyncio.sleep(self._window)
                continue
            batch, size = self._take()
            started = perf_counter()
            if self._local and size * self._pace < QUICK:
                results = self._search(batch)
            else:
                results = await loop.run_in_executor(self._thread, self._search, batch)
            seconds = perf_counter() - started
            self._pace = seconds / size
            for request, result in zip(batch, results, strict=True):
                if request.future.done():  # its client has gone
                    continue
                if isinstance(result, Exception):
                    request.future.set_exception(result)
                else:
                    request.future.set_result(result)
            if not self._closing:
                await self._wait_for(size, PATIENCE * seconds)

    async def _wait_for(self, count: int, seconds: float | None = None) -> None:
        """Return when this many queries wait, after this many seconds, or when it is closing."""
        self._enough = count
        self._arrived.clear()
        if self.waiting >= count:
            return
        timer = asyncio.get_running_loop().call_later(seconds, self._arrived.set) if seconds is not None else None
        await self._arrived.wait()
        if timer is not None:
            timer.cancel()

    def _take(self) -> tuple[list[_Waiting], int]:
        """The next batch, and how many queries it has."""
        batch = [self._queue.popleft()]
        size = len(batch[0].queries)
        while self._queue and size + len(self._queue[0].queries) <= self._batch_size:
            batch.append(self._queue.popleft())
            size += len(batch[-1].queries)
        self.waiting -= size
        self._observe(size)
        return batch, size

    def _search(self, batch: list[_Waiting]) -> list[_Result]:
        """The result of each request, or what went wrong with it."""
        groups: defaultdict[int, list[int]] = defaultdict(list)
        for number, request in enumerate(batch):
            groups[request.k].append(number)
        results: list[_Result] = [[] for _ in batch]
        for k, members in groups.items():
            for number, result in zip(
                members, self._group([batch[number].queries for number in members], k), strict=True
            ):
                results[number] = result
        return results

    def _group(self, requests: list[Sequence[str]], k: int) -> list[_Result]:
        queries = [query for of_request in requests for query in of_request]
        try:
            found = self._find(queries, k)
            if len(found) != len(queries):
                raise RetrieverError(f"the retriever has {len(found)} results for {len(queries)} queries")
        except Exception as error:
            if len(requests) == 1 or isinstance(error, RetrieverError):
                return [error] * len(requests)
            return [self._group([queries], k)[0] for queries in requests]  # nobody fails for another one's query
        results = iter(found)
        return [list(islice(results, len(of_request))) for of_request in requests]
