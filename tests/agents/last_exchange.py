"""Two processes of which the first comes to its end while threads of gloo still want the interpreter's lock.

``python -m tests.agents.last_exchange PORT CODE TEXT``. Without `end_process` it is aborted ("terminate called ..."),
unless it has a text to write out, for meanwhile they get the lock.
"""

from __future__ import annotations

import os
import sys
import time

import torch
import torch.distributed as dist
from opid_agents.distributed import end_process, join

HELD: list[object] = []  # to the end, as models and their meshes hold groups


def main(port: str, code: str, text: str) -> None:
    hears, says = os.pipe()
    rank = 0 if os.fork() else 1
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "RANK": str(rank)}
    with join() as processes:
        group = dist.new_group(backend="gloo")
        values = [torch.ones(3) for _ in range(2)]  # one for each of the group's threads
        processes.gather(None)
    HELD.extend([group, values])
    if rank == 1:
        os.read(hears, 1)
        time.sleep(0.1)  # until the first is busy; were that too short, the test would be easier, and pass
        for value in values:
            group.allreduce([value]).wait()
        os._exit(0)
    sys.setswitchinterval(1000)  # the threads must wait for the lock, as on a busy machine
    for value in values:
        group.allreduce([value])
    os.write(says, b".")
    until = time.perf_counter() + 0.5
    while time.perf_counter() < until:
        pass
    if text:
        sys.stdout.write(text)  # not yet written out
    end_process(int(code))


if __name__ == "__main__":
    main(*sys.argv[1:])
