"""One server in this process."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from opid_gym_envs.searchqa.retrievers.index import open_index, read_manifest
from opid_gym_envs.searchqa.server.app import create_app

BACKLOG = 4096


def index_app(folder: Path, options: Mapping[str, Any]) -> FastAPI:
    """The application over an index folder; `options` are those of `create_app`."""
    manifest = read_manifest(folder)
    about = {"engine": manifest.engine, "passages": manifest.count, "corpus": manifest.corpus}
    return create_app(open_index(folder), about=about, **options)


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
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, proxy_headers=False, ws="none", timeout_keep_alive=60
        )
        uvicorn.Server(config).run([listening])
