"""A client for search servers: ours, and those of Search-R1, SkyRL, OPID and GEM."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

import httpx

from opid_gym.named import missing_extra
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.base import Hit, RetrieverError, check_search

# Requests under way at once where the dialect takes one query a request.
CONNECTIONS = 16
# Seconds for which a replica that failed is asked only if no other is left.
REST = 10.0
# Longest wait between two rounds, in seconds.
LONGEST_WAIT = 30.0


@dataclass(frozen=True)
class Dialect:
    """How queries are put to a server.

    Attributes:
        batched: a request holds any number of queries, else one.
        key: under which the queries, or the query, go.
        packed: bodies are msgpack, else JSON.
    """

    batched: bool
    key: str
    packed: bool = False


# Who speaks them, and what the answers look like:
#   search-r1  Search-R1, SkyRL, GEM until 2025    {"queries": [..]} -> {"result": [[hit, ..] for each query]}
#   opid       OPID, skyrl-gym                     {"query": ".."}   -> {"result": [[hit, ..]]}
#   gem        GEM                                 {"query": ".."}   -> {"result": [hit, ..]}, in msgpack
DIALECTS = {
    "search-r1": Dialect(batched=True, key="queries"),
    "opid": Dialect(batched=False, key="query"),
    "gem": Dialect(batched=False, key="query", packed=True),
}


class HTTPRetriever:
    """Asks a search server, or one of several replicas of it.

    Requests go round the replicas. Where one fails (no connection, no answer in time, status 429 or 5xx, an answer that
    is none) the next is asked at once; after a round in which all failed comes a wait, twice as long each time, with
    jitter, or as long as the server says. Searching changes nothing, so asking twice does no harm.

    Args:
        urls: one address, or several separated by commas. Without a path, ``/retrieve`` is meant.
        dialect: a name of `DIALECTS`.
        timeout: seconds for one answer.
        rounds: how many times all replicas may fail.
        wait: seconds to wait after the first such round.
        batch_size: maximum queries of one request.
        token: sent with every request, as a bearer token; None: none.

    Raises:
        ValueError: an address is not http(s), or the dialect or a number is none.
        ImportError: "gem" needs msgpack.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        dialect: str = "search-r1",
        timeout: float = 30.0,
        rounds: int = 6,
        wait: float = 0.5,
        batch_size: int = 256,
        token: str | None = None,
    ) -> None:
        if dialect not in DIALECTS:
            raise ValueError(f"dialect must be one of {sorted(DIALECTS)}, got {dialect!r}")
        if timeout <= 0 or rounds < 1 or wait < 0 or batch_size < 1:
            raise ValueError(
                "timeout must be above 0, rounds and batch_size at least 1 and wait not below 0, "
                f"got {timeout}, {rounds}, {batch_size} and {wait}"
            )
        self.urls = [_address(url) for url in (urls.split(",") if isinstance(urls, str) else urls)]
        if not self.urls:
            raise ValueError("no address of a search server")
        self.dialect = DIALECTS[dialect]
        self._rounds, self._wait, self._batch_size = rounds, wait, batch_size
        self._msgpack = _msgpack() if self.dialect.packed else None
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout, connect=min(timeout, 5.0)),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="search")
        self._lock = threading.Lock()
        self._turn = random.randrange(len(self.urls))
        self._resting: dict[str, float] = {}

    def __reduce__(self) -> NoReturn:
        """Copies are refused: connections belong to one process."""
        raise TypeError(
            f"the client of {', '.join(self.urls)} holds open connections and cannot be copied or pickled: make "
            "another HTTPRetriever where one is needed"
        )

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`.

        Raises:
            RetrieverError: no replica answers, or the server refuses the request; the message has address and reason.
        """
        check_search(queries, k)
        size = self._batch_size if self.dialect.batched else 1
        batches = [list(queries[start : start + size]) for start in range(0, len(queries), size)]
        ask = self._ask
        answers = [ask(batches[0], k)] if len(batches) == 1 else self._threads.map(lambda batch: ask(batch, k), batches)
        return [hits for answer in answers for hits in answer]

    def close(self) -> None:
        """See `Retriever.close`."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        body = self._body(queries, k)
        failures: dict[str, str] = {}
        retry_after = 0.0
        for number in range(self._rounds):
            if number:
                wait = self._wait * 2 ** (number - 1)
                time.sleep(min(max(random.uniform(wait / 2, wait), retry_after), LONGEST_WAIT))
            retry_after = 0.0
            for url in self._order():
                try:
                    response = self._client.post(url, content=body, headers=self._headers())
                except httpx.HTTPError as error:
                    failures[url] = str(error) or type(error).__name__
                else:
                    if response.status_code < 400:
                        try:
                            hits = self._hits(response.content, queries, k)
                        except ValueError as error:
                            failures[url] = str(error)
                        else:
                            self._resting.pop(url, None)
                            return hits
                    elif response.status_code == 429 or response.status_code >= 500:
                        failures[url] = _reason(response)
                        retry_after = max(retry_after, _retry_after(response))
                    else:
                        raise RetrieverError(f"{url} refuses the request: {_reason(response)}")
                self._resting[url] = time.monotonic() + REST
        told = "; ".join(f"{url}: {failures[url]}" for url in self.urls if url in failures)
        raise RetrieverError(f"no search server answered in {self._rounds} rounds. {told}")

    def _order(self) -> list[str]:
        """The replicas from the one whose turn it is; those that failed lately come last."""
        with self._lock:
            turn = self._turn
            self._turn = (turn + 1) % len(self.urls)
        now = time.monotonic()
        return sorted((*self.urls[turn:], *self.urls[:turn]), key=lambda url: self._resting.get(url, 0.0) > now)

    def _body(self, queries: list[str], k: int) -> bytes:
        value = queries if self.dialect.batched else queries[0]
        request = {self.dialect.key: value, "topk": k, "return_scores": True}
        if self._msgpack is not None:
            packed: bytes = self._msgpack.packb(request, unicode_errors="replace")
            return packed
        return json.dumps(request).encode()

    def _headers(self) -> dict[str, str]:
        return {"content-type": "application/msgpack" if self.dialect.packed else "application/json"}

    def _hits(self, content: bytes, queries: list[str], k: int) -> list[list[Hit]]:
        """Raises ValueError if the answer is not one to these queries."""
        load: Callable[[bytes], Any] = json.loads if self._msgpack is None else self._msgpack.unpackb
        try:
            answer = load(content)
        except Exception:  # msgpack has errors of its own, not all of them ValueErrors
            raise ValueError(f"the answer is not readable: {content!r:.80}") from None
        result = answer.get("result") if isinstance(answer, Mapping) else None
        if not isinstance(result, list):
            raise ValueError(f"the answer has no list under 'result': {answer!r:.80}")
        if len(queries) == 1 and not (len(result) == 1 and isinstance(result[0], list)):
            result = [result]  # one query, answered flat
        if len(result) != len(queries) or not all(isinstance(rows, list) for rows in result):
            raise ValueError(f"the answer has {len(result)} results for {len(queries)} queries")
        return [[_hit(row, rank) for rank, row in enumerate(rows[:k])] for rows in result]


def _hit(row: object, rank: int) -> Hit:
    """A hit from ``{"document", "score"}`` or a bare document. Without a score, the rank makes one."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a result is not a JSON object: {row!r:.80}")
    document, score = row.get("document", row), row.get("score")
    if isinstance(document, Mapping) and document.get("id") is None:
        # Search-R1's BM25 leaves the id out.
        name = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
        document = {**document, "id": name}
    passage = Passage.from_row(document)
    return Hit(passage.id, float(-rank if score is None else score), passage)


def _address(url: str) -> str:
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not an address: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"the address of a search server begins with http:// or https://, got {url!r}")
    return str(parsed.copy_with(path="/retrieve") if parsed.path in ("", "/") else parsed)


def _reason(response: httpx.Response) -> str:
    """Status and what the server says about it, in one line."""
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text
    return f"{response.status_code} {response.reason_phrase}: {' '.join(str(detail).split())[:300]}"


def _retry_after(response: httpx.Response) -> float:
    try:
        return float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return 0.0


def _msgpack() -> ModuleType:
    try:
        return import_module("msgpack")
    except ModuleNotFoundError:
        raise missing_extra("dialect 'gem'", "msgpack", "search") from None
