"""Replicas on Ray Serve, as users start them; one is killed while it is asked."""

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer

import psutil
import pytest

from opid_gym_envs.searchqa.retrievers import build_index
from opid_gym_envs.searchqa.retrievers.http import HTTPRetriever
from opid_gym_envs.searchqa.server import replicas
from tests.patience import SECONDS, free_port, get, wait_for
from tests.searchqa.servers import corpus, opid_gym_serve


def replicas_of(process) -> set[int]:
    return {child.pid for child in psutil.Process(process.pid).children(recursive=True) if is_replica(child)}


def is_replica(process: psutil.Process) -> bool:
    try:
        return "ServeReplica" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False


def test_a_killed_replica_loses_nothing_and_is_replaced(tmp_path):
    build_index(corpus(), tmp_path / "index")
    arguments = ("--index", tmp_path / "index", "--port", free_port(), "--replicas", 2)
    with opid_gym_serve(*arguments) as (url, process), ThreadPoolExecutor(8) as clients:
        before = replicas_of(process)
        assert len(before) == 2
        retriever = HTTPRetriever(url, wait=0.1)
        answered = []

        def client(number: int) -> int:
            pick = random.Random(number)
            wrong = 0
            for _ in range(40):
                passage = pick.choice(corpus())
                wrong += retriever.search([passage.title], 1)[0][0].passage != passage
                answered.append(number)
            return wrong

        counts = clients.map(client, range(8))
        wait_for(lambda: len(answered) > 60)
        victim = min(before)
        psutil.Process(victim).kill()
        assert sum(counts) == 0
        assert len(answered) == 8 * 40
        wait_for(lambda: len(replicas_of(process) - {victim}) == 2)
        assert get(f"{url}/health").json()["passages"] == 100
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0


class Late(BaseHTTPRequestHandler):
    """Healthy the third time it is asked."""

    asked = 0

    def do_GET(self):
        type(self).asked += 1
        self.send_response(200 if self.asked == 3 else 404)
        self.end_headers()

    def log_message(self, *args):
        pass


def test_a_proxy_that_serve_gives_up_as_too_slow_is_not_the_end(tmp_path, monkeypatch):
    """As Ray Serve does on a busy machine; here it stands aside, and a server of our own is the next proxy."""
    ray = pytest.importorskip("ray")
    from ray import serve

    def start(**options):
        raise ray.exceptions.ActorDiedError

    announced = []

    def announce(address):
        announced.append(address)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(replicas, "start_ray", lambda cpus: None)
    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "run", lambda *arguments, **named: None)
    monkeypatch.setattr(serve, "shutdown", lambda: None)
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    with HTTPServer(("127.0.0.1", 0), Late) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            replicas.serve_replicas(
                tmp_path, {}, host="127.0.0.1", port=proxy.server_port, replicas=2, announce=announce
            )
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)
            proxy.shutdown()
            thread.join()
    assert (announced, Late.asked) == ([f"http://127.0.0.1:{proxy.server_port}"], 3)
