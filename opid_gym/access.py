"""Who may ask the servers of this package, decided from a request's headers alone.

Three attackers are kept out:

- *Other machines*: a server that they can reach asks for a bearer token, unless it was started without one on purpose.
- *Other sites in the user's browser*, which may send requests to this machine but not read the answers: their
  requests carry another ``Origin``, and a body is only read if such a site could not send its content type unasked.
- *Names that point here* (DNS rebinding), by which such a site would become the same origin: ``Host`` must be an
  address in numbers, ``localhost``, this machine's own name, or a name that was allowed.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import urlsplit

JSON_KINDS = frozenset({"application/json"})
LARGEST_HEAD = 32 * 1024
"""Most bytes of a request's address and headers together."""

_LATE_BODY_SECONDS = 1.0  # for a body that nobody wants

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Refusal(NamedTuple):
    """Why a request is not answered: the HTTP status, and a sentence."""

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class Access:
    """What a request must show.

    Attributes:
        hosts: names that may stand in ``Host``, beside numeric addresses, ``localhost`` and this machine's name.
        token: what must stand in ``Authorization: Bearer ...``; None: nothing. With a token any ``Host`` will do,
            because another site does not know it.
    """

    hosts: frozenset[str] = frozenset()
    token: str | None = None

    def refusal(self, host: str, origin: str | None, authorization: str | None) -> Refusal | None:
        """Why a request with these headers is refused; None if it is not.

        >>> Access().refusal("127.0.0.1:8000", None, None)
        >>> Access().refusal("evil.example", None, None).status
        403
        >>> Access(token="secret").refusal("gpu7:8000", None, "Bearer guess").status
        401
        """
        if self.token is not None and not _is_token(authorization, self.token):
            return Refusal(401, "this server wants its token, as the header 'Authorization: Bearer TOKEN'")
        if self.token is None and host and not self._knows(_name(host)):  # a browser always names one
            return Refusal(403, f"this server does not answer for the host {host!r:.200}: see --allow-host")
        if origin is not None and _netloc(origin) != host.lower():
            return Refusal(403, f"this server does not answer pages from {origin!r:.200}")
        return None

    def _knows(self, name: str) -> bool:
        return name == "localhost" or name in self.hosts or _is_address(name)


def access_for(host: str, token: str | None, allowed: Iterable[str] = (), *, open_to_all: bool = False) -> Access:
    """What a server that listens on `host` asks of its clients.

    Args:
        host: the address that it binds.
        token: for its clients; None: none.
        allowed: further names for ``Host``.
        open_to_all: other machines need no token.

    Raises:
        ValueError: other machines can reach this address and there is no token, or the token is no word of ASCII.
    """
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise ValueError("a token must be printable ASCII characters without spaces")
    if token is None and not open_to_all and not is_loopback(host):
        raise ValueError(
            f"other machines can reach --host {host}: give --token (or $OPID_GYM_TOKEN), "
            "or say --open if everybody there may ask"
        )
    return Access(frozenset({host.lower(), socket.gethostname().lower(), *(name.lower() for name in allowed)}), token)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check(scope: Scope, access: Access | None, kinds: frozenset[str] = JSON_KINDS) -> Refusal | None:
    """Why an ASGI request is refused, before its body is read; None if it is not.

    Args:
        scope: of the request.
        access: what it must show; None: nothing.
        kinds: content types that a body may have.
    """
    host, origin, authorization, kind, has_body = "", None, None, "", False
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
    for name, value in scope["headers"]:
        size += len(name) + len(value)
        if name == b"host":
            host = value.decode("latin-1")
        elif name == b"origin":
            origin = value.decode("latin-1")
        elif name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"content-type":
            kind = value.decode("latin-1").partition(";")[0].strip().lower()
        elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            has_body = True
    if size > LARGEST_HEAD:
        return Refusal(431, f"the address and the headers are larger than {LARGEST_HEAD} bytes")
    if has_body and kind not in kinds:
        return Refusal(415, f"the content type must be {' or '.join(sorted(kinds))}, got {kind!r:.80}")
    return None if access is None else access.refusal(host, origin, authorization)


class Gate:
    """An ASGI application behind `check`, with a largest body.

    Args:
        app: answers what is not refused.
        access: what a request must show.
        largest_body: in bytes.
        public: paths that need no token, such as one that tells whether the server works.
    """

    def __init__(self, app: App, access: Access, largest_body: int, public: Iterable[str] = ()) -> None:
        self._app = app
        self._access = access
        self._largest = largest_body
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        public = self._access.token is not None and scope["path"] in self._public
        refused = check(scope, None if public else self._access)
        if refused is not None:
            await refuse(refused, send, receive)
            return
        size, started = 0, False

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._largest:
                raise ValueError("the body is too large")  # whatever the application makes of it is not sent
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            if started or size <= self._largest:
                started = True
                await send(message)

        try:
            await self._app(scope, limited, watched)
        except ValueError:
            if size <= self._largest:
                raise
        if size > self._largest and not started:
            await refuse(self._too_large(), send)

    def _too_large(self) -> Refusal:
        return Refusal(413, f"the body is larger than {self._largest} bytes")


async def refuse(refused: Refusal, send: Send, receive: Receive | None = None) -> None:
    """Answer an ASGI request with a refusal, and close the connection.

    Args:
        refused: the answer.
        send: of the request.
        receive: of the request, where its body was not read. A short body that comes at once is taken in first, for a
            connection that is closed with something unread in it is reset, and the answer may be lost with it.
    """
    if receive is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LATE_BODY_SECONDS):
                await _take_in(receive)
    body = json.dumps({"detail": refused.reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
        *([(b"www-authenticate", b"Bearer")] if refused.status == 401 else []),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _take_in(receive: Receive) -> None:
    size = 0
    while size <= LARGEST_HEAD:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _is_token(authorization: str | None, token: str) -> bool:
    scheme, _, given = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())


def _name(host: str) -> str:
    """The name in a ``Host`` header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


@lru_cache(maxsize=1024)  # parsing an address takes as long as everything else that is looked at
def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
