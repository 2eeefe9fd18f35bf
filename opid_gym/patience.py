"""A limit for clients that take forever to send a request, be it a byte a second.

Servers end connections that are idle, and every byte counts as life to them: a few hundred connections that each send a
byte now and then would keep one busy for good (the *slow loris*). Here a request has to be complete, its body included,
a fixed time after its first byte, and the first one after the connection was made. The time that the server itself
takes, to answer or to read what has come, does not count. This module is for uvicorn; the shop's site and the viewer
have the same in their own servers.
"""

from __future__ import annotations

import asyncio
from typing import Any

REQUEST_SECONDS = 30.0
"""How long a client may take to send a request."""


class ImpatientProtocol(asyncio.Protocol):
    """A part for either of uvicorn's HTTP protocols, to stand before it among the bases.

    A connection looks at itself once in its patience, so that a request costs no timer of its own, only the clock.

    Attributes:
        patience: seconds that a request may take to arrive.
    """

    patience = REQUEST_SECONDS
    # Of uvicorn's protocols:
    cycle: Any
    flow: Any
    loop: Any
    transport: Any
    timeout_keep_alive: Any
    _look: asyncio.TimerHandle | None = None
    _since = 0.0  # when the client's turn began
    _idle = False  # between two requests

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self._look = self.loop.call_later(self.patience, self._end_if_late)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._idle:
            self._idle = False
            self._since = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Called when an answer has been sent."""
        super().on_response_complete()  # type: ignore[misc]
        self._idle = True  # a part of the next request may be here, though: hence the clock
        self._since = self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        super().connection_lost(exc)

    def _end_if_late(self) -> None:
        if self.transport.is_closing():
            return
        now, cycle = self.loop.time(), self.cycle
        complete = cycle is not None and not cycle.more_body and not cycle.response_complete
        if complete or self.flow.read_paused:  # it is the server's turn
            self._since = now
        # An idle connection is ended by uvicorn; here only if bytes came that it took for life.
        left = self._since + (max(self.patience, self.timeout_keep_alive) if self._idle else self.patience) - now
        if left <= 0:
            self.transport.close()
        else:
            self._look = self.loop.call_later(left, self._end_if_late)


def impatient(protocol: type[Any], patience: float = REQUEST_SECONDS) -> type[Any]:
    """An HTTP protocol of uvicorn's with a limit, for ``uvicorn.Config(http=...)``."""
    return type(f"Impatient{protocol.__name__}", (ImpatientProtocol, protocol), {"patience": patience})
