"""One server in this process."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from opid_gym.access import LARGEST_HEAD
from opid_gym.patience import ImpatientProtocol
from opid_gym_envs.searchqa.retrievers.index import open_index, read_manifest
from opid_gym_envs.searchqa.server.app import SearchApp, create_app

BACKLOG = 4096
# Seconds that a connection stays open without a request.
KEEP_ALIVE = 60


class LimitedProtocol(ImpatientProtocol, HttpToolsProtocol):
    """uvicorn's HTTP protocol, which would read headers without end into memory, and wait for them without end."""

    _head: int | None = 0  # bytes of a head that is not complete; None: it is complete

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > 2 * LARGEST_HEAD:
            self.send_400_response("The headers are too long.")

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Called by the parser."""
        super().on_message_complete()
        self._head = 0


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
    """What serves the application; `settings` are further ones of `uvicorn.Config`, or other values."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        http=LimitedProtocol,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        **settings,
    )
    return uvicorn.Server(config)
