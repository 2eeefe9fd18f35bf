"""Search servers for the tests: in this process, or as users start them."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers import Hit
from opid_gym_envs.searchqa.server.app import SearchApp
from opid_gym_envs.searchqa.server.single import uvicorn_server
from tests.patience import SECONDS, wait_for

TOPICS = ["glacier", "violin", "harbour", "enzyme", "parliament", "meteor", "orchid", "turbine", "sonnet", "walrus"]
PLACES = ["Norway", "Ghana", "Peru", "Japan", "Malta", "Fiji", "Chad", "Cuba", "Iran", "Laos"]


def corpus() -> list[Passage]:
    """A hundred passages; each pair of topic and place is in one."""
    return [
        Passage(f"{topic}-{place}", f"{topic.title()} of {place}", f"The {topic} is well known all over {place}.")
        for topic in TOPICS
        for place in PLACES
    ]


class Slow:
    """A retriever that waits until it may answer; the passage it finds is the query itself."""

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.closed = False
        self.batches: list[tuple[list[str], int]] = []

    def search(self, queries, k):
        self.batches.append((list(queries), k))
        self.may_answer.wait(SECONDS)
        if any("poison" in query for query in queries):
            raise ZeroDivisionError("this engine cannot take poison")
        return [[Hit(query, 1.0, Passage(query, query, str(k)))] for query in queries]

    def close(self):
        self.closed = True


@contextmanager
def serving(app: SearchApp) -> Iterator[tuple[str, uvicorn.Server]]:
    """The address of an application served by a thread, and its server."""
    server = uvicorn_server(app, port=0)
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(SECONDS)


@contextmanager
def opid_gym_serve(*arguments: str | Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address that ``opid-gym serve search`` announces, and its process; killed in the end if it still runs."""
    command = [sys.executable, "-m", "opid_gym.cli", "serve", "search", *map(str, arguments)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = ""
            while not (address := re.search(r"(http://[^/ ]+)/retrieve", said)):
                line = process.stderr.readline()
                assert line, f"the server ended: {said}"
                said += line
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield address[1], process
        finally:
            process.kill()
