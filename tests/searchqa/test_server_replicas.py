"""Replicas on Ray Serve, as users start them; one is killed while it is asked."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil

from opid_gym_envs.searchqa.retrievers import build_index
from opid_gym_envs.searchqa.retrievers.http import HTTPRetriever
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
