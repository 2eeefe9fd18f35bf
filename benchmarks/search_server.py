"""The search server under 64 clients at once, next to the shape of Search-R1's reference server.

    python benchmarks/search_server.py --json > results/search_server.json
    python benchmarks/search_server.py --json --seconds 20 --busy 1 > results/search_server_busy.json

Both servers answer the same request (Search-R1's dialect, one query, three passages) from the same index with the same
engine, in turns, on the loopback interface. The reference has the shape of Search-R1's
``retrieval_server.py``: FastAPI, a body declared with pydantic, a handler that is no coroutine (so that FastAPI runs it
in a thread), one search for each request. Ours is what ``opid-gym serve search`` starts.

Clients are connections of one process that does nothing but send bodies made beforehand and look at answers, so that
they cost little of the machine (``client_cpu_us_per_request``); each sends its next request when it has its answer.
Every answer must have the ids that the engine finds for this query when it is asked directly, and no others: a wrong
pairing of request and answer cannot go unnoticed, since the queries have different answers.

The vectors of `dense` are of the first 32 tokens of 50,000 passages, because making them takes minutes of processor
time, and comparing a query with a vector costs the same whatever the vector is of. Indexes are kept below
`opid_gym.data.cache_home` for the next time.

- ``requests_per_second``: answers over wall time, clients and server sharing the machine;
- ``requests_per_cpu_second``: over the server's own processor time, which other load on the machine distorts least;
- ``p50_ms``, ``p99_ms``: from the first byte sent to the last byte received;
- ``ratio``: ours over the reference, by either count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import psutil
from invented_corpus import InventedCorpus
from rich.table import Table

from opid_gym.console import out, talk
from opid_gym_envs.searchqa.retrievers import cached_index, open_index

TOPK = 3
ROUNDS = 3
PASSAGES = {"bm25": 20_000, "dense": 50_000}
SETTINGS: dict[str, dict[str, Any]] = {"dense": {"max_length": 32}}
# Threads of PyTorch and FAISS. The reference searches in as many threads as requests are under way, and is slower if
# each of these has several. Ours decides itself how it divides the cores; this is what a library is told by default.
THREADS = {"reference": 1, "ours": os.cpu_count() or 1}
# Scores closer than this may change places: how a batch is composed changes the last digits of vectors.
CLOSE = 1e-4
CONTENT_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def main() -> None:
    """Put both servers under load with each engine and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["bm25", "dense"])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each server")
    parser.add_argument("--busy", type=int, default=0, help="other processes that each take a core meanwhile")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--reference", metavar="INDEX", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        serve_reference(Path(arguments.reference))
        return
    results: dict[str, Any] = {"settings": settings(arguments)}
    for engine in arguments.engines:
        results[engine] = measure(engine, arguments)
    if arguments.json:
        print(json.dumps(results))
        return
    table = Table("engine", "server", "requests/s", "per CPU-second", "p50, ms", "p99, ms", "wrong", "failed", box=None)
    for engine in arguments.engines:
        for name in ("reference", "ours"):
            row = results[engine][name]
            numbers = (row[key] for key in ("requests_per_second", "requests_per_cpu_second", "p50_ms", "p99_ms"))
            table.add_row(engine, name, *(f"{value:,.1f}" for value in numbers), str(row["wrong"]), str(row["failed"]))
    out.print(table)


def measure(engine: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both servers with one engine."""
    invented = InventedCorpus()
    passages = list(invented.passages(PASSAGES[engine]))
    folder = cached_index(passages, engine, SETTINGS.get(engine))
    requests = list(questions(folder, [text for text, _ in invented.queries(passages, arguments.queries)]))
    ours = [sys.executable, "-m", "opid_gym.cli", "serve", "search", "--index", str(folder), "--port", "0"]
    reference = [sys.executable, __file__, "--reference", str(folder)]
    rows: dict[str, Any] = {"passages": len(passages), "queries": len(requests)}
    with (
        serving(reference, THREADS["reference"]) as one,
        serving(ours, THREADS["ours"]) as other,
        busy(arguments.busy),
    ):
        loads = {"reference": Load(*one), "ours": Load(*other)}
        for _ in range(ROUNDS):  # in turns, so that what else the machine does meets both
            for of_server in loads.values():
                of_server.run(requests, arguments.clients, arguments.seconds / ROUNDS)
    for name, of_server in loads.items():
        rows[name] = of_server.figures()
        talk.print(f"{engine}, {name}: {rows[name]}")
    rows["ratio"] = {
        key: round(rows["ours"][key] / rows["reference"][key], 2)
        for key in ("requests_per_second", "requests_per_cpu_second")
    }
    return rows


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it goes over the wire, and the ids that its answer must have, in quotation marks."""

    request: bytes
    ids: list[bytes]


def questions(folder: Path, texts: Iterable[str]) -> Iterator[Question]:
    """The questions among the texts that have `TOPK` passages which are clearly the best."""
    retriever = open_index(folder)
    texts = list(dict.fromkeys(texts))
    for text, hits in zip(texts, retriever.search(texts, TOPK + 1), strict=True):
        if len(hits) <= TOPK or hits[-2].score - hits[-1].score < CLOSE * hits[-1].score:
            continue
        body = json.dumps({"queries": [text], "topk": TOPK, "return_scores": True}).encode()
        head = "POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        yield Question(request, [json.dumps(hit.id).encode() for hit in hits[:TOPK]])
    retriever.close()


class Load:
    """What clients get from a server, over all rounds."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.port, self.process = port, process
        self.times: list[float] = []
        self.wrong = self.failed = 0
        self.seconds = self.cpu = self.own_cpu = 0.0

    def run(self, questions: list[Question], clients: int, seconds: float) -> None:
        """A round: a second to warm up, then so many clients for so many seconds."""
        self._clients(questions, clients, 1.0)
        cpu, own_cpu, started = sum(self.process.cpu_times()[:2]), time.process_time(), time.perf_counter()
        times, wrong, failed = self._clients(questions, clients, seconds)
        self.seconds += time.perf_counter() - started
        self.own_cpu += time.process_time() - own_cpu
        self.cpu += sum(self.process.cpu_times()[:2]) - cpu
        self.times += times
        self.wrong += wrong
        self.failed += failed

    def figures(self) -> dict[str, Any]:
        """Of all rounds."""
        p50, p99 = np.percentile(self.times, [50, 99]) * 1000
        return {
            "requests": len(self.times),
            "requests_per_second": round(len(self.times) / self.seconds, 1),
            "requests_per_cpu_second": round(len(self.times) / self.cpu, 1),
            "p50_ms": round(float(p50), 2),
            "p99_ms": round(float(p99), 2),
            "wrong": self.wrong,
            "failed": self.failed,
            "client_cpu_us_per_request": round(self.own_cpu / len(self.times) * 1e6, 1),
        }

    def _clients(self, questions: list[Question], clients: int, seconds: float) -> tuple[list[float], int, int]:
        """The time each answer took; how many were wrong, and how many no answers."""
        times: list[float] = []
        wrong = failed = 0
        with selectors.DefaultSelector() as ready:
            for number in range(clients):
                client = Client(self.port, number * len(questions) // clients)
                ready.register(client.socket, selectors.EVENT_READ, client)
                client.ask(questions)
            end = time.perf_counter() + seconds
            while ready.get_map():
                for key, _ in ready.select():
                    answer = key.data.read()
                    if answer is None:
                        continue
                    now = time.perf_counter()
                    times.append(now - key.data.asked)
                    if not answer.startswith(b"HTTP/1.1 200 "):
                        failed += 1
                    else:
                        ids = key.data.question.ids
                        wrong += answer.count(b'"contents"') != len(ids) or not all(id in answer for id in ids)
                    if now < end:
                        key.data.ask(questions)
                    else:
                        ready.unregister(key.data.socket)
                        key.data.socket.close()
        return times, wrong, failed


class Client:
    """A connection that asks one question after the other."""

    def __init__(self, port: int, place: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.place = place
        self.received = b""

    def ask(self, questions: list[Question]) -> None:
        """Send the next question."""
        self.place = (self.place + 1) % len(questions)
        self.question = questions[self.place]
        self.asked = time.perf_counter()
        self.socket.sendall(self.question.request)

    def read(self) -> bytes | None:
        """Take what is there; the answer if it is complete."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionError("the server closed a connection")
        self.received += part
        head = self.received.find(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(self.received, 0, head + 2) if head >= 0 else None
        if length is None or len(self.received) < head + 4 + int(length[1]):
            return None
        answer, self.received = self.received, b""
        return answer


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that never rest."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


@contextmanager
def serving(command: list[str], threads: int) -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of a server that says its address on standard error; ended afterwards."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            said = ""
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
                line = server.stderr.readline() if server.stderr else ""
                if not line:
                    raise RuntimeError(f"the server ended: {said}")
                said += line
            yield int(found[1]), psutil.Process(server.pid)
        finally:
            server.terminate()


def serve_reference(folder: Path) -> None:
    """The shape of Search-R1's server over an index of ours."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Query(BaseModel):
        queries: list[str]
        topk: int | None = None
        return_scores: bool = False

    app = FastAPI()
    retriever = open_index(folder)

    def retrieve(request: Query) -> dict[str, Any]:
        results = []
        for query in request.queries:
            (hits,) = retriever.search([query], request.topk or TOPK)
            rows = [{"document": {"id": h.id, "contents": h.passage.contents}, "score": h.score} for h in hits]
            results.append(rows if request.return_scores else [row["document"] for row in rows])
        return {"result": results}

    retrieve.__annotations__["request"] = Query  # a local class, which FastAPI cannot look up by its name
    app.post("/retrieve")(retrieve)
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run([listening])


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What it took to get these figures."""
    return {
        "command": "python benchmarks/search_server.py " + " ".join(sys.argv[1:]),
        "clients": arguments.clients,
        "busy": arguments.busy,
        "seconds": arguments.seconds,
        "topk": TOPK,
        "threads": THREADS,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
