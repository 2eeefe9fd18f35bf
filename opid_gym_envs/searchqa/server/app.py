"""The routes of the search server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import opid_gym
from opid_gym_envs.searchqa.retrievers.base import Retriever
from opid_gym_envs.searchqa.server.batching import Batcher, Busy
from opid_gym_envs.searchqa.server.dialects import BadRequest, read_request, write_answer

# Largest body that is read, in bytes.
LARGEST_BODY = 64 * 1024 * 1024
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
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
    queue: int = 4096,
) -> FastAPI:
    """The server as an ASGI application, for uvicorn, Ray Serve or a test client.

    Args:
        retriever: what answers; closed when the application shuts down.
        about: what ``/health`` tells beside the state.
        topk: passages where a request does not say how many.
        batch_size, window, queue: see `Batcher`; `queue` is its limit.
    """
    metrics = Metrics()
    batcher = Batcher(retriever, batch_size=batch_size, window=window, limit=queue, observe=metrics.batches.observe)
    metrics.waiting.set_function(lambda: batcher.waiting)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await batcher.close()
        retriever.close()

    app = FastAPI(title="opid-gym search", version=opid_gym.__version__, lifespan=lifespan)

    @app.post("/retrieve", summary="Passages for queries, in the dialect of the request.")
    async def retrieve(request: Request) -> Response:
        started = time.perf_counter()
        dialect = "unknown"

        def refuse(status: int, reason: str, **headers: str) -> Response:
            metrics.requests.labels(dialect, status).inc()
            return JSONResponse({"detail": reason}, status, headers)

        body = await _body(request)
        if body is None:
            return refuse(413, f"the body is larger than {LARGEST_BODY} bytes")
        try:
            asked = read_request(body, topk)
        except BadRequest as error:
            return refuse(422, str(error))
        dialect = asked.dialect
        if len(asked.queries) > queue:
            return refuse(413, f"a request can have {queue} queries, this one has {len(asked.queries)}")
        try:
            results = await batcher.search(asked.queries, asked.k)
        except Busy:
            return refuse(429, f"{batcher.waiting} queries wait already", **{"Retry-After": "1"})
        except Exception as error:  # whatever the engine raises, the server must go on and say so
            return refuse(500, f"the search failed: {type(error).__name__}: {error}")
        answer = write_answer(asked, results)
        metrics.requests.labels(dialect, 200).inc()
        metrics.queries.inc(len(asked.queries))
        metrics.seconds.observe(time.perf_counter() - started)
        return Response(answer, media_type="application/msgpack" if asked.packed else "application/json")

    @app.get("/health", summary="Whether the server works, and what it searches.")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "version": opid_gym.__version__, "waiting": batcher.waiting, **(about or {})}

    @app.get("/metrics", summary="Statistics for Prometheus.")
    async def statistics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


async def _body(request: Request) -> bytes | None:
    """The body, or None as soon as it is too large."""
    parts = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            return None
        parts.append(part)
    return b"".join(parts)
