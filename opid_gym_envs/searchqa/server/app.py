"""The routes of the search server."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Receive, Scope, Send

import opid_gym
from opid_gym.access import JSON_KINDS, Access, check, refuse
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.base import Hit, IndexedRetriever, Retriever
from opid_gym_envs.searchqa.server.batching import QUEUE, Batcher, Busy, Search
from opid_gym_envs.searchqa.server.dialects import DIALECTS, BadRequest, read_request, write_answer, write_document
from opid_gym_envs.searchqa.server.dialects import Request as SearchRequest

# Largest body that is read, in bytes.
LARGEST_BODY = 16 * 1024 * 1024
# Most passages that one request can ask for, queries times passages each: some 100 MB of answer.
MOST_PASSAGES = 131_072
# Clients that are no browsers send msgpack with these content types, or with none.
KINDS = JSON_KINDS | {"", "application/msgpack", "application/x-msgpack", "application/octet-stream"}
Headers = tuple[tuple[bytes, bytes], ...]
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
JSON: Headers = ((b"content-type", b"application/json"),)
LATER: Headers = ((b"retry-after", b"1"),)
MSGPACK: Headers = ((b"content-type", b"application/msgpack"),)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Metrics:
    """What ``/metrics`` tells, in a registry of this server's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names: dict[str, Any] = {"namespace": "opid_gym_search", "registry": self.registry}
        self.requests = Counter("requests", "Requests by dialect and status.", ["dialect", "status"], **names)
        self.queries = Counter("queries", "Queries answered.", **names)
        self.seconds = Histogram("request_seconds", "From a request's body to its answer.", buckets=TIMES, **names)
        self.batches = Histogram("batch_queries", "Queries searched together.", buckets=SIZES, **names)
        self.waiting = Gauge("waiting_queries", "Queries that wait.", **names)


def create_app(
    retriever: Retriever,
    *,
    about: dict[str, Any] | None = None,
    topk: int = 3,
    batch_size: int = 64,
    window: float = 0.0,
    queue: int = QUEUE,
    access: Access | None = None,
) -> SearchApp:
    """The server as an ASGI application, for uvicorn, Ray Serve or a test client.

    Args:
        retriever: what answers; closed when the application shuts down.
        about: what ``/health`` tells beside the state.
        topk: passages where a request does not say how many.
        batch_size, window, queue: see `Batcher`; `queue` is its limit.
        access: what clients must show; None: what a server for this machine alone asks of them.
    """
    metrics = Metrics()
    local = isinstance(retriever, IndexedRetriever)
    batcher = Batcher(
        documents(retriever),
        local=local,
        batch_size=batch_size,
        window=window,
        limit=queue,
        observe=metrics.batches.observe,
    )
    metrics.waiting.set_function(lambda: batcher.waiting)

    answer = Answering(batcher, metrics, topk)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()
        retriever.close()

    app = SearchApp(
        answer, access or Access(), title="opid-gym search", version=opid_gym.__version__, lifespan=lifespan
    )

    @app.post("/retrieve", summary="Passages for queries, in the dialect of the request.")
    async def retrieve(request: Request) -> Response:  # described here, and answered here where `app` is mounted
        reply = await answer(request.receive)
        return Response(reply.body, reply.status, {name.decode(): value.decode() for name, value in reply.headers})

    @app.get("/health", summary="Whether the server works, and what it searches.")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": opid_gym.__version__, "waiting": batcher.waiting, **(about or {})}

    @app.get("/metrics", summary="Statistics for Prometheus.")
    async def statistics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def documents(retriever: Retriever) -> Search:
    """How passages as JSON are found: what a retriever finds is written, unless it has them so."""
    if isinstance(retriever, IndexedRetriever):
        return retriever.search_documents
    return lambda queries, k: [[write_document(hit) for hit in hits] for hits in retriever.search(queries, k)]


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes
    headers: Headers


class Answering:
    """From the body of ``POST /retrieve`` to its reply.

    Args:
        batcher: searches.
        metrics: what has happened is counted there.
        topk: passages where a request does not say how many.
    """

    def __init__(self, batcher: Batcher, metrics: Metrics, topk: int) -> None:
        self._batcher, self._metrics, self._topk = batcher, metrics, topk
        self._answered = {dialect: metrics.requests.labels(dialect, 200) for dialect in DIALECTS}

    async def __call__(self, receive: Receive) -> Reply:
        """Read one request, search, and return its reply; a bad request or one that is too large gets a refusal."""
        started = time.perf_counter()
        batcher, metrics = self._batcher, self._metrics
        body = await _body(receive)
        if body is None:
            return self._refuse(None, 413, f"the body is larger than {LARGEST_BODY} bytes")
        try:
            asked = read_request(body, self._topk)
        except BadRequest as error:
            return self._refuse(None, 422, str(error))
        count = len(asked.queries)
        if count > batcher.limit:
            return self._refuse(asked, 413, f"a request can have {batcher.limit} queries, this one has {count}")
        if count * asked.k > MOST_PASSAGES:
            reason = f"a request can ask for {MOST_PASSAGES} passages, this one asks for {count} times {asked.k}"
            return self._refuse(asked, 413, reason)
        try:
            results = await batcher.search(asked.queries, asked.k)
        except Busy:
            return self._refuse(asked, 429, f"{batcher.waiting} queries wait already", LATER)
        except Exception as error:  # whatever the engine raises, the server must go on and say so
            return self._refuse(asked, 500, f"the search failed: {type(error).__name__}: {error}")
        answer = write_answer(asked, results)
        self._answered[asked.dialect].inc()
        metrics.queries.inc(count)
        metrics.seconds.observe(time.perf_counter() - started)
        return Reply(200, answer, MSGPACK if asked.packed else JSON)

    def _refuse(self, asked: SearchRequest | None, status: int, reason: str, headers: Headers = ()) -> Reply:
        """An answer that says why, whichever way a client reads it.

        Search-R1's client and those made after it look at neither status nor ``detail``, and stop at an answer without
        ``result``; so each query gets one passage that says the same.
        """
        self._metrics.requests.labels(asked.dialect if asked else "unknown", status).inc()
        body = json.dumps({"detail": reason}).encode()
        if asked is not None and not asked.packed and len(asked.queries) <= MOST_PASSAGES:
            passage = write_document(Hit("refused", 0.0, Passage("refused", "The search failed", reason)))
            body = body[:-1] + b"," + write_answer(asked, [[passage]] * len(asked.queries))[1:]
        return Reply(status, body, (*JSON, *headers))


class SearchApp(FastAPI):
    """FastAPI, but for the one route that is asked thousands of times a second.

    ``POST /retrieve`` goes past middleware, routing and request objects, which cost half as much as a BM25 search.
    """

    def __init__(self, answer: Answering, access: Access, **settings: Any) -> None:
        super().__init__(**settings)
        self._answer = answer
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] == "http":
            public = self._access.token is not None and scope["path"] == "/health"
            refused = check(scope, None if public else self._access, KINDS)
            if refused is not None:
                await refuse(refused, send, receive)
                return
        if scope["type"] != "http" or scope["path"] != "/retrieve" or scope["method"] != "POST":
            await super().__call__(scope, receive, send)
            return
        reply = await self._answer(receive)
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})


async def _body(receive: Receive) -> bytes | None:
    """The body, or None as soon as it is too large. A client that goes away leaves what it has sent so far."""
    parts = []
    size, more = 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > LARGEST_BODY:
            return None
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)
