"""The site behind a real HTTP server, in a thread of this process."""

from __future__ import annotations

import threading
from types import TracebackType

from flask import Flask
from waitress import wasyncore
from waitress.server import create_server

LONGEST_REQUEST = 4 * 2**20
"""Bytes. A search of 100 kB stands in the address, several bytes a character."""


class SiteServer:
    """Serves an application until it is closed.

    Args:
        app: what to serve.
        host: the address to listen on; the default is reachable from this machine alone.
        port: 0 takes a free one.
        threads: requests answered at once.

    Attributes:
        url: where it is.

    Raises:
        OSError: the port is taken, or the address is not of this machine; the message names them.
    """

    def __init__(self, app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 4) -> None:
        try:
            self._server = create_server(
                app,
                host=host,
                port=port,
                threads=threads,
                max_request_header_size=LONGEST_REQUEST,
                clear_untrusted_proxy_headers=True,
            )
        except (OSError, ValueError) as error:  # ValueError: a name that leads to no address
            reason = error.strerror if isinstance(error, OSError) else "no such host"
            raise OSError(f"cannot listen on host {host!r}, port {port}: {reason}; port 0 takes a free one") from None
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.effective_port}"
        self._thread = threading.Thread(target=self._server.run, name="webshop-site", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the server is closed."""
        self._thread.join()

    def close(self) -> None:
        """Finish the requests under way, stop listening, and drop the connections."""
        self._server.task_dispatcher.shutdown()
        # In the thread that waits on these sockets: closed from here, its wait would end in an error.
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._server._map))
        self._thread.join(timeout=5)

    def __enter__(self) -> SiteServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
