"""A real HTTP server on a free port of this machine that plays an OpenAI-compatible endpoint, well or badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """What the server sends: `delay` seconds late, in `pieces` with `pause` seconds between them, and after promising
    `missing` bytes more than it has."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    pieces: int = 1
    pause: float = 0.0
    missing: int = 0


def reply(text: object, prompt_tokens: int = 10, completion_tokens: int = 5) -> Answer:
    """A well-formed chat completion."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    return Answer(json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}).encode())


@dataclass
class Endpoint:
    """The running server: its URL and what it was asked."""

    url: str
    requests: list[dict] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0


@contextmanager
def serve(answer: Callable[[dict, int], Answer]) -> Iterator[Endpoint]:
    """Serve until the block is left; `answer` gets the request's JSON and its number, from 0."""
    lock, leaving = threading.Lock(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(endpoint.requests)
                endpoint.requests.append(request)
                endpoint.headers.append(dict(self.headers))
                endpoint.running += 1
                endpoint.most_running = max(endpoint.most_running, endpoint.running)
            try:
                self.send(answer(request, number))
            finally:
                with lock:
                    endpoint.running -= 1

        def send(self, said: Answer) -> None:
            leaving.wait(said.delay)
            with suppress(ConnectionError):  # a client may have gone
                self.send_response(said.status)
                for name, value in said.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(said.body) + said.missing))
                self.end_headers()
                size = -(-len(said.body) // said.pieces) or 1
                for start in range(0, len(said.body), size):
                    self.wfile.write(said.body[start : start + size])
                    self.wfile.flush()
                    leaving.wait(said.pause)
                if said.missing:
                    self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        leaving.set()
        server.shutdown()
        server.server_close()
        thread.join()
