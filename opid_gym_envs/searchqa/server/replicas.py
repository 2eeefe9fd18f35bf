"""Several servers behind one address, on Ray Serve: it starts them, spreads requests, and replaces what dies."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from opid_gym.actors import start_ray
from opid_gym_envs.searchqa.server.single import index_app


def serve_replicas(
    folder: Path, options: Mapping[str, Any], *, host: str, port: int, replicas: int, announce: Callable[[str], None]
) -> None:
    """Serve until interrupted or terminated.

    Each replica maps the same index, so that its files are in memory once. A replica that dies is replaced; its clients
    get a 5xx or a closed connection meanwhile, and `HTTPRetriever` asks again.

    Args:
        announce: told the address as soon as the replicas answer.
    """
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    start_ray(replicas)
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(deployment(folder.resolve(), options, replicas), name="search", route_prefix="/")
        stopped = threading.Event()
        for name in (signal.SIGINT, signal.SIGTERM):  # now, because Ray sets its own when it starts
            signal.signal(name, lambda *_: stopped.set())
        announce(f"http://{host}:{port}")
        stopped.wait()
    finally:
        serve.shutdown()
        ray.shutdown()


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
