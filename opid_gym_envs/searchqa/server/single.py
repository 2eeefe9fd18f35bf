"""One server in this process."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn

from opid_gym_envs.searchqa.retrievers.index import open_index, read_manifest
from opid_gym_envs.searchqa.server.app import SearchApp, create_app

BACKLOG = 4096
# Seconds that a connection stays open without a request.
KEEP_ALIVE = 60


def index_app(folder: Path, options: Mapping[str, Any]) -> SearchApp:
    """The application over an index folder, for a process of its own; `options` are those of `create_app`."""
    manifest = read_manifest(folder)
    about = {"engine": manifest.engine, "passages": manifest.count, "corpus": manifest.corpus}
    retriever = open_index(folder)
    retriever.own_process()
    return create_app(retriever, about=about, **options)


def serve_single(
    folder: Path, options: Mapping[str, Any], *, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Serve until interrupted or terminated; what has been accepted is answered first.

    Args:
        announce: told the address as soon as clients can connect; with port 0 the system chooses one.
    """
    with socket.create_server((host, port), backlog=BACKLOG) as listening:
        app = index_app(folder, options)
        announce(f"http://{host}:{listening.getsockname()[1]}")
        gc.freeze()  # what is here now stays, and need not be looked at again and again
        uvicorn_server(app).run([listening])


def uvicorn_server(app: SearchApp, **settings: Any) -> uvicorn.Server:
    """What serves the application; `settings` are further ones of `uvicorn.Config`."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        **settings,
    )
    return uvicorn.Server(config)
