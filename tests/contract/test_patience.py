"""Clients that never finish a request: each server ends the connection, and answers others meanwhile."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import ThreadingHTTPServer

import httpx
import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from opid_gym.interop.server import make_app
from opid_gym.patience import impatient
from opid_gym.viewer.command import Source, _Handler
from opid_gym_envs.searchqa.server.app import create_app
from opid_gym_envs.searchqa.server.single import LimitedProtocol
from opid_gym_envs.webshop.env import WebShop
from opid_gym_envs.webshop.site import SiteServer, Visits
from opid_gym_envs.webshop.site import create_app as create_site
from tests.corridor import Corridor  # noqa: F401  (registers itself)
from tests.patience import SECONDS, get, wait_for
from tests.searchqa.servers import Slow
from tests.viewer.folders import make_run
from tests.webshop.stock_data import FOLDER

PATIENCE = 0.5
HEAD = b"POST /reset HTTP/1.1\r\nHost: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
ENDLESS = {
    "nothing": b"",
    "head": HEAD,
    "body": HEAD + JSON + b"Content-Length: 60000\r\n\r\n{",
    "chunks": HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
}


@contextmanager
def served(app: object, protocol: type) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", http=protocol))  # type: ignore[arg-type]
    listening = server.config.bind_socket()
    listening.listen()
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def env() -> Iterator[str]:
    with served(make_app("tests/Corridor-v0"), impatient(H11Protocol, PATIENCE)) as url:
        yield f"{url}/health"


@pytest.fixture(scope="module")
def search() -> Iterator[str]:
    protocol = type("Protocol", (LimitedProtocol,), {"patience": PATIENCE})
    with served(create_app(Slow()), protocol) as url:
        yield f"{url}/health"


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with SiteServer(create_site(Visits(WebShop(data_dir=FOLDER))), patience=1) as server:
        yield f"{server.url}/"


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("viewer")
    make_run(folder)
    handler = type("Handler", (_Handler,), {"timeout": PATIENCE})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, Source(folder))) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("sent", ENDLESS)
@pytest.mark.parametrize("server", ["env", "search", "shop", "viewer"])
def test_a_request_without_end_is_ended_though_bytes_keep_coming(
    request: pytest.FixtureRequest, server: str, sent: str
) -> None:
    url: str = request.getfixturevalue(server)
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port), timeout=SECONDS) as connection:
        connection.sendall(ENDLESS[sent])
        wait_for(lambda: is_answered(url))  # nobody else waits
        drip(connection, b"" if sent == "nothing" else b"a" if sent == "body" else b"1")


def is_answered(url: str) -> bool:
    """On a machine so busy that even this client needs longer than the server's patience, the next time."""
    try:
        return get(url).status_code == 200
    except httpx.TransportError:
        return False


def drip(connection: socket.socket, byte: bytes) -> None:
    """Send a byte every now and then until the server ends the connection; whoever never does fails by the time-out."""
    for _ in range(6000):
        readable, _, _ = select.select([connection], [], [], 0.05)
        try:
            if readable and not connection.recv(65536):
                return
            connection.sendall(byte)
        except ConnectionError:
            return
    pytest.fail("the server still waits")
