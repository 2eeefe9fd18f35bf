"""The site behind a real HTTP server, in a thread of this process."""

from __future__ import annotations

import socket
import threading
from types import TracebackType

from flask import Flask
from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

LONGEST_REQUEST = 4 * 2**20
"""Bytes. A search of 100 kB stands in the address, several bytes a character."""

LARGEST_BODY = 64 * 1024
"""Bytes. The site's forms have next to none."""


class _Channel(HTTPChannel):
    """A connection of which only whole requests count as activity, so that none can be sent a byte at a time for ever.

    Connections without activity for ``channel_timeout`` seconds are closed by waitress.
    """

    last_activity: float

    def handle_read(self) -> None:
        """Called when there is something to read."""
        active, begun = self.last_activity, self.request is not None
        super().handle_read()
        if begun and self.request is not None and not self.requests:
            self.last_activity = active


class SiteServer:
    """Serves an application until it is closed.

    Args:
        app: what to serve.
        host: the address to listen on; the default is reachable from this machine alone.
        port: 0 takes a free one.
        threads: requests answered at once.
        patience: seconds that a client may take to send a request, or to read the answer's next part; at most a sixth
            more.

    Attributes:
        url: where it is.

    Raises:
        OSError: the port is taken, or the address is not of this machine; the message names them.
    """

    def __init__(
        self, app: Flask, *, host: str = "127.0.0.1", port: int = 0, threads: int = 4, patience: int = 30
    ) -> None:
        try:
            # One address: waitress listens on all that a name has, and then has no port to tell.
            address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
            self._server = create_server(
                app,
                host=address,
                port=port,
                threads=threads,
                max_request_header_size=LONGEST_REQUEST,
                max_request_body_size=LARGEST_BODY,
                clear_untrusted_proxy_headers=True,
                channel_timeout=patience,
                cleanup_interval=max(1, patience // 6),
            )
        except (OSError, UnicodeError) as error:  # UnicodeError: no name at all
            reason = "no such host" if isinstance(error, socket.gaierror | UnicodeError) else error.strerror
            raise OSError(f"cannot listen on host {host!r}, port {port}: {reason}; port 0 takes a free one") from None
        self._server.channel_class = _Channel
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
