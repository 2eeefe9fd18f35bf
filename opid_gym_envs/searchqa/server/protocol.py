"""HTTP for the one request that comes thousands of times a second; anything else is left to uvicorn."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, NamedTuple, cast

from uvicorn.protocols.http.auto import AutoHTTPProtocol

_START = b"POST /retrieve HTTP/1.1\r\n"
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
# Fields that say where a message ends, and what becomes of the connection.
_FIELDS = re.compile(
    rb"\r\n((?:content-length|transfer-encoding|connection|expect|upgrade)[ \t]*):([^\r]*)", re.IGNORECASE
)
_LARGEST_HEAD = 16 * 1024
_LARGEST_BODY = 64 * 1024


Headers = tuple[tuple[bytes, bytes], ...]


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes
    headers: Headers


Answer = Callable[[bytes], Awaitable[Reply]]


class NotPlain(ValueError):
    """A request that uvicorn should read."""


def plain_request(data: bytes) -> tuple[bytes, bytes] | None:
    r"""The body of a ``POST /retrieve`` in its usual form, and what follows it; None as long as some of it is missing.

    Raises:
        NotPlain: it is another request, a large one, one with a field that asks for more than an answer, or none.

    >>> plain_request(b"POST /retrieve HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
    (b'{}', b'')
    """
    if not data.startswith(_START):
        raise NotPlain
    end = data.find(b"\r\n\r\n")
    if end > _LARGEST_HEAD or (end < 0 and len(data) > _LARGEST_HEAD):
        raise NotPlain
    if end < 0:
        return None
    head = data[: end + 2]
    length = -1
    for name, value in _FIELDS.findall(head):
        field, value = name.lower(), value.strip()
        if field == b"content-length" and length < 0 and value.isdigit():
            length = int(value)
        elif field != b"connection" or value.lower() != b"keep-alive":
            raise NotPlain
    if not 0 <= length <= _LARGEST_BODY or head.count(b"\n") != head.count(b"\r\n"):
        raise NotPlain
    start = end + 4
    if len(data) < start + length:
        return None
    return data[start : start + length], data[start + length :]


class PlainProtocol(asyncio.Protocol):
    """A connection of a client: its requests are answered one after the other.

    As soon as one comes that is no `plain_request`, the connection is uvicorn's. uvicorn's own way to an application
    takes 20 microseconds of processor time, a third of what a BM25 search takes; this one takes half of that.

    Args:
        answer: from the body to the reply.
        config, server_state, settings: what uvicorn gives its protocols.
    """

    def __init__(self, answer: Answer, *, config: Any, server_state: Any, **settings: Any) -> None:
        self._answer, self._state = answer, server_state
        self._patience = config.timeout_keep_alive
        self._successor = partial(
            cast(Callable[..., asyncio.Protocol], AutoHTTPProtocol),
            config=config,
            server_state=server_state,
            **settings,
        )
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._full = self._paused = self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self._transport = cast(asyncio.Transport, transport)
        self._state.connections.add(self)
        self._used = True
        self._look_after()

    def connection_lost(self, error: Exception | None) -> None:
        """As asyncio calls it."""
        self._state.connections.discard(self)
        self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        self._used = True
        self._received += data
        if self._task is not None or self._full:  # a client that does not wait for its answer has to
            self._paused = True
            self._transport.pause_reading()
        else:
            self._go_on()

    def pause_writing(self) -> None:
        """As asyncio calls it: the client does not read its answers."""
        self._full = True

    def resume_writing(self) -> None:
        """As asyncio calls it."""
        self._full = False
        if self._task is None:
            self._go_on()

    def shutdown(self) -> None:
        """As uvicorn calls it: close when what has been asked is answered."""
        self._closing = True
        if self._task is None:
            self._transport.close()

    def _go_on(self) -> None:
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        if not self._received:
            return
        try:
            request = plain_request(self._received)
        except NotPlain:
            self._hand_over()
            return
        if request is not None:
            body, self._received = request
            self._task = self._loop.create_task(self._respond(body))

    async def _respond(self, body: bytes) -> None:
        reply = await self._answer(body)
        self._task = None
        if self._transport.is_closing():
            return
        self._used = True
        fields = [*reply.headers, (b"content-length", b"%d" % len(reply.body)), *self._state.default_headers]
        if self._closing:
            fields.append((b"connection", b"close"))
        head = b"".join([b"%b: %b\r\n" % field for field in fields])
        self._transport.write(b"%b%b\r\n%b" % (_STATUS[reply.status], head, reply.body))
        if self._closing:
            self._transport.close()
        elif not self._full:
            self._go_on()

    def _hand_over(self) -> None:
        self._state.connections.discard(self)
        self._timer.cancel()
        successor = self._successor()
        successor.connection_made(self._transport)
        self._transport.set_protocol(successor)
        successor.data_received(self._received)

    def _look_after(self) -> None:
        """Close a connection that was not used since the last look."""
        if not self._used and self._task is None:
            self._transport.close()
            return
        self._used = False
        self._timer = self._loop.call_later(self._patience, self._look_after)
