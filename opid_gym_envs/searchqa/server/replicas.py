"""Several servers behind one address, on Ray Serve: it starts them, spreads requests, and replaces what dies."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from opid_gym.actors import start_ray
from opid_gym_envs.searchqa.server.single import index_app

_START_SECONDS = 600.0  # in which the address has to answer


def serve_replicas(
    folder: Path, options: Mapping[str, Any], *, host: str, port: int, replicas: int, announce: Callable[[str], None]
) -> None:
    """Serve until interrupted or terminated.

    Each replica maps the same index, so that its files are in memory once. A replica that dies is replaced; its clients
    get a 5xx or a closed connection meanwhile, and `HTTPRetriever` asks again.

    Args:
        announce: told the address as soon as the replicas answer.

    Raises:
        OSError: they do not answer within ten minutes.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    start_ray(replicas)
    try:
        # On a busy machine Serve gives its first proxy up as too slow, and goes on with another.
        with suppress(ray.exceptions.RayActorError, TimeoutError):
            serve.start(http_options={"host": host, "port": port})
        serve.run(deployment(folder.resolve(), options, replicas), name="search", route_prefix="/")
        _wait_until_it_answers("127.0.0.1" if host == "0.0.0.0" else host, port)
        stopped = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):  # now, because Ray sets its own when it starts
            signal.signal(name, lambda *_: stopped.set())
        announce(f"http://{host}:{port}")
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


def _wait_until_it_answers(host: str, port: int) -> None:
    url = httpx.URL(scheme="http", host=host, port=port, path="/health")
    end = time.monotonic() + _START_SECONDS
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                if client.get(url).status_code == httpx.codes.OK:
                    return
            time.sleep(0.1)
    raise OSError(f"nothing answered at {url} within {_START_SECONDS:.0f} seconds; Ray's logs may tell why")


def deployment(folder: Path, options: Mapping[str, Any], replicas: int) -> Any:
    """The application of `index_app` as a Ray Serve deployment."""
    from ray import serve

    def build() -> FastAPI:
        return index_app(folder, options)

    @serve.ingress(build)
    class Search:
        """One replica."""

    settings = {"num_replicas": replicas, "max_ongoing_requests": 1_000, "health_check_period_s": 2}
    return serve.deployment(Search, **settings).bind()
