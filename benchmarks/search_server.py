"""The search server under 64 clients at once, next to the shape of Search-R1's reference server.

    python benchmarks/search_server.py --json > results/search_server.json

Both servers answer the same request (Search-R1's dialect, one query, three passages) from the same index with the same
engine, in turns, on the loopback interface. The reference has the shape of Search-R1's
``retrieval_server.py``: FastAPI, a body declared with pydantic, a handler that is no coroutine (so that FastAPI runs it
in a thread), one search for each request. Ours is what ``opid-gym serve search`` starts.

Clients are connections of one process, speaking HTTP/1.1 by hand so that they cost little; each sends its next request
when it has its answer. Every answer is compared with what the engine says when it is asked directly: a wrong pairing of
request and answer cannot go unnoticed, since the queries have different answers.

- ``requests_per_second``: answers over wall time, clients and server sharing the machine;
- ``requests_per_cpu_second``: over the server's own processor time, which other load on the machine distorts least;
- ``p50_ms``, ``p99_ms``: from the first byte sent to the last byte received;
- ``ratio``: ours over the reference, by either count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import psutil
from invented_corpus import InventedCorpus
from rich.console import Console
from rich.table import Table

from opid_gym_envs.searchqa.retrievers import build_index, open_index

TOPK = 3
ROUNDS = 3
# Passages each engine gets: vectors are slow to make, and what is measured is the server.
PASSAGES = {"bm25": 20_000, "dense": 500}
talk = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", default=["bm25", "dense"])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each server")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--reference", metavar="INDEX", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.reference:
        serve_reference(Path(arguments.reference))
        return
    results: dict[str, Any] = {"settings": settings(arguments)}
    with tempfile.TemporaryDirectory() as folder:
        for engine in arguments.engines:
            results[engine] = measure(engine, Path(folder, engine), arguments)
    if arguments.json:
        print(json.dumps(results))
        return
    table = Table("engine", "server", "requests/s", "per CPU-second", "p50, ms", "p99, ms", "wrong", "failed", box=None)
    for engine in arguments.engines:
        for name in ("reference", "ours"):
            row = results[engine][name]
            numbers = (row[key] for key in ("requests_per_second", "requests_per_cpu_second", "p50_ms", "p99_ms"))
            table.add_row(engine, name, *(f"{value:,.1f}" for value in numbers), str(row["wrong"]), str(row["failed"]))
    Console().print(table)


def measure(engine: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both servers with one engine."""
    invented = InventedCorpus()
    passages = list(islice(invented.passages(PASSAGES[engine]), PASSAGES[engine]))
    build_index(passages, folder, engine)
    retriever = open_index(folder)
    queries = list(dict.fromkeys(text for text, _ in invented.queries(passages, arguments.queries)))
    expected = [[hit.id for hit in hits] for hits in retriever.search(queries, TOPK)]
    retriever.close()
    ours = [sys.executable, "-m", "opid_gym.cli", "serve", "search", "--index", str(folder), "--port", "0"]
    reference = [sys.executable, __file__, "--reference", str(folder)]
    rows: dict[str, Any] = {"passages": len(passages), "queries": len(queries)}
    with serving(reference) as one, serving(ours) as other:
        loads = {"reference": Load(*one), "ours": Load(*other)}
        for _ in range(ROUNDS):  # in turns, so that what else the machine does meets both
            for of_server in loads.values():
                seconds = arguments.seconds / ROUNDS
                asyncio.run(of_server.run(queries, expected, arguments.clients, seconds))
    for name, of_server in loads.items():
        rows[name] = of_server.figures()
        talk.print(f"{engine}, {name}: {rows[name]}")
    rows["ratio"] = {
        key: round(rows["ours"][key] / rows["reference"][key], 2)
        for key in ("requests_per_second", "requests_per_cpu_second")
    }
    return rows


class Load:
    """What clients get from a server, over all rounds."""

    def __init__(self, port: int, process: psutil.Process) -> None:
        self.port, self.process = port, process
        self.times: list[float] = []
        self.wrong = self.failed = 0
        self.seconds = self.cpu = 0.0

    async def run(self, queries: list[str], expected: list[list[str]], clients: int, seconds: float) -> None:
        """A round: a second to warm up, then so many clients for so many seconds."""
        for note, length in ((False, 1.0), (True, seconds)):
            cpu, started = sum(self.process.cpu_times()[:2]), time.perf_counter()
            places = [number * len(queries) // clients for number in range(clients)]
            end = started + length
            await asyncio.gather(*(self._client(queries, expected, place, end, note) for place in places))
            if note:
                self.seconds += time.perf_counter() - started
                self.cpu += sum(self.process.cpu_times()[:2]) - cpu

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
        }

    async def _client(self, queries: list[str], expected: list[list[str]], place: int, end: float, note: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        head = "POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        while time.perf_counter() < end:
            place = (place + 1) % len(queries)
            body = json.dumps({"queries": [queries[place]], "topk": TOPK, "return_scores": True}).encode()
            started = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            answer_head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer_head, re.IGNORECASE)[1])
            answer = await reader.readexactly(length)
            if note:
                self.times.append(time.perf_counter() - started)
            if b" 200 " not in answer_head.split(b"\r\n", 1)[0]:
                self.failed += 1
                continue
            (result,) = json.loads(answer)["result"]
            # Not the order: how a batch is composed changes the last digits of vectors, and so ties.
            self.wrong += {hit["document"]["id"] for hit in result} != set(expected[place])
        writer.close()


@contextmanager
def serving(command: list[str]) -> Iterator[tuple[int, psutil.Process]]:
    """Port and process of a server that says its address on standard error; ended afterwards."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
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
    import socket

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
        "seconds": arguments.seconds,
        "topk": TOPK,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


if __name__ == "__main__":
    main()
