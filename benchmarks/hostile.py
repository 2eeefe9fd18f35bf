"""Servers under slow, cut and malformed clients for as long as one likes; at little cost.

    python -m benchmarks.hostile --minutes 60 --results hostile.json

Every server runs as users start it. A few times a second a client sends it a good request, a mutated one, or a part of
one and hangs up; and up to fifty clients send a byte a second and never finish. Reported are what was sent, good
requests that were not answered with 200, answers of 5xx (but 501), how long the server bore a slow client, and
processes, threads, open files and memory of the server at the start and when the slow clients have gone. Ends with 1
if a good request was not answered, if there was such a 5xx, or if a slow client was borne for twice the patience.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.copies import ROOT
from opid_gym.files import write_file
from opid_gym.patience import REQUEST_SECONDS
from opid_gym.trajectory import Step, Trajectory, write_jsonl
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers import build_index
from tests.fuzzing import mutated_bytes

SLOW = 50
ANSWER_SECONDS = 60


def request(line: str, body: bytes = b"") -> bytes:
    """A good request as it goes over the wire."""
    head = f"{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


@dataclass
class Server:
    """A server as a command, and good requests.

    Attributes:
        words: of the command.
        good: requests that it answers with 200.
    """

    words: list[str]
    good: list[bytes]
    seen: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slow: list[tuple[socket.socket, float]] = field(default_factory=list)
    borne: float = 0.0

    def play(self, seconds: float, seed: int) -> dict[str, Any]:
        """Start it, trouble it for a while, and report."""
        command = [sys.executable, "-m", "opid_gym.cli", *self.words]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
        ) as process:
            try:
                assert process.stdout is not None
                said = ""
                while not (address := re.search(r"http://127\.0\.0\.1:(\d+)", said)):
                    line = process.stdout.readline()
                    if not line:
                        raise RuntimeError(f"{self.words}: {said}")
                    said += line
                threading.Thread(target=process.stdout.read, daemon=True).start()
                self.port = int(address[1])
                self.good = [good.replace(b"localhost", f"127.0.0.1:{self.port}".encode()) for good in self.good]
                for good in self.good:
                    self.ask(good)
                before = belongings(process.pid)
                self.trouble(seconds, random.Random(seed))
                self.leave()
                return {
                    "sent": dict(self.seen),
                    "faults": self.faults[:20],
                    "slow_client_borne_seconds": round(self.borne, 1),
                    "before": before,
                    "after": belongings(process.pid),
                }
            finally:
                process.kill()

    def trouble(self, seconds: float, rng: random.Random) -> None:
        """Send all kinds of requests."""
        end = time.monotonic() + seconds
        next_drip = 0.0
        while time.monotonic() < end:
            kind = rng.choice(("good", "mutated", "mutated", "cut", "slow"))
            good = rng.choice(self.good)
            if kind == "good":
                self.ask(good)
            elif kind == "mutated":
                self.send(mutated_bytes(good, rng), rng)
            elif kind == "cut":
                self.send(good[: rng.randrange(len(good))], rng, hang_up=True)
            elif len(self.slow) < SLOW:
                connection = self.connect()
                connection.sendall(good[: rng.randrange(len(good))])
                connection.setblocking(False)
                self.slow.append((connection, time.monotonic()))
            self.seen[kind] += 1
            if time.monotonic() >= next_drip:
                self.drip()
                next_drip = time.monotonic() + 1
            time.sleep(0.3)

    def connect(self) -> socket.socket:
        """A new connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_SECONDS)

    def ask(self, good: bytes) -> None:
        """Send a good request; its answer must be 200."""
        try:
            with self.connect() as connection:
                connection.sendall(good)
                answer = connection.recv(12)
        except OSError as error:
            answer = repr(error).encode()
        if answer[9:] != b"200":
            self.faults.append(f"{good[:60]!r}: {answer!r}")

    def send(self, data: bytes, rng: random.Random, hang_up: bool = False) -> None:
        """Send anything; a 5xx is a fault, silence is not."""
        try:
            with self.connect() as connection:
                if hang_up and rng.random() < 0.5:  # with a reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.settimeout(0.5)
                connection.sendall(data)
                answer = b"" if hang_up else connection.recv(12)
                if answer[9:10] == b"5" and answer[9:] != b"501":  # which is said of methods that there are not
                    self.faults.append(f"{data[:2000]!r}: {answer!r}")
        except OSError:
            return

    def drip(self) -> None:
        """Every slow client sends a byte; those that were ended go."""
        for client in list(self.slow):
            connection, since = client
            try:
                connection.send(b"1")
                try:
                    ended = not connection.recv(4096)
                except BlockingIOError:
                    ended = False
            except OSError:
                ended = True
            self.borne = max(self.borne, time.monotonic() - since)
            if ended:
                connection.close()
                self.slow.remove(client)

    def leave(self) -> None:
        """Slow clients hang up, and the server gets the time to notice."""
        for connection, _ in self.slow:
            connection.close()
        self.slow.clear()
        time.sleep(REQUEST_SECONDS + 10)


def belongings(pid: int) -> dict[str, Any]:
    """What a process and its children have, together."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {
        "processes": len(processes),
        "threads": sum(process.num_threads() for process in processes),
        "files": sum(process.num_fds() for process in processes),
        "megabytes": round(sum(process.memory_info().rss for process in processes) / 1e6, 1),
    }


def servers(folder: Path) -> dict[str, Server]:
    """The servers; what they serve is made in a folder."""
    build_index([Passage(str(n), f"Item {n}", f"number{n} of a long list") for n in range(300)], folder / "index")
    steps = [Step("a room", "look", 0.0, "the room"), Step("the room", "go", 1.0, "done")]
    (folder / "run").mkdir()
    write_jsonl(folder / "run" / "trajectories.jsonl", [Trajectory("t1", "look", "Look.", steps, success=True)])
    reset = request("POST /reset", b'{"session_id": "mine", "seed": 1}')
    search = request("POST /retrieve", b'{"queries": ["number7", "list"], "topk": 3, "return_scores": true}')
    health = request("GET /health")
    index = ["serve", "search", "--index", str(folder / "index")]
    return {
        "env": Server(["serve", "env", "--set", "size=small", "--port", "0"], [reset, health]),
        "search": Server([*index, "--port", "0"], [search, health]),
        "shop": Server(["serve", "webshop", "--num-products", "100", "--port", "0"], [request("GET /")]),
        "view": Server(["view", str(folder / "run"), "--port", "0"], [request("GET /")]),
        "search replicas": Server([*index, "--port", "18765", "--replicas", "2"], [search, health]),
    }


def main() -> None:
    """Trouble the servers, all at the same time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--server", action="append", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, help="file for what was found")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="opid-gym-hostile-") as name:
        every = servers(Path(name))
        chosen = arguments.server or [name for name in every if name != "search replicas"]

        def play(name: str) -> None:
            found[name] = every[name].play(arguments.minutes * 60, arguments.seed)
            print(f"{name}: {found[name]}", file=sys.stderr, flush=True)

        threads = [threading.Thread(target=play, args=(name,)) for name in chosen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = json.dumps({"minutes": arguments.minutes, "servers": dict(sorted(found.items()))}, indent=1)
    if arguments.results:
        write_file(arguments.results, said + "\n")
    print(said)
    late = [one["slow_client_borne_seconds"] >= 2 * REQUEST_SECONDS for one in found.values()]
    sys.exit(len(found) < len(chosen) or any(late) or any(one["faults"] for one in found.values()))


if __name__ == "__main__":
    main()
