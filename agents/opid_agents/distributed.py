"""The processes that learn together, as one of them sees the others.

All run the same program. Each plays whole groups and scores what it played; what they found is gathered, so that every
process sees the whole iteration; then each computes a part of the gradient. `torchrun` starts them
(`opid_agents.launch` does it for one machine) and `join` makes one of them a member.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from opid_gym.guard import end_with_parent

T = TypeVar("T")

# The first process may make a warm start meanwhile. A process that ends is noticed at once, without any time limit.
_PATIENCE = timedelta(hours=12)
_GRACE = 15.0  # seconds in which whoever started the processes ends the others


class ProcessLost(RuntimeError):
    """Another process of the run has ended, so that this one cannot go on."""


@dataclass(frozen=True, slots=True)
class Processes:
    """One of several processes. Those methods that exchange something must be called by all, in the same order.

    Alone (the default) nothing is exchanged and nothing is needed.

    Attributes:
        rank: this process's number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's folder and talks to the user."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether something with a number, such as a task of an iteration, is this process's part."""
        return number % self.size == self.rank

    def own(self, items: Sequence[T]) -> list[T]:
        """This process's part of what all know: every `size`-th, from the `rank`-th on.

        >>> Processes(1, 3).own("abcdefg")
        ['b', 'e']
        """
        return list(items[self.rank :: self.size])

    def gather(self, mine: T) -> list[T]:
        """What every process has, by rank.

        Raises:
            ProcessLost: another one has ended.
        """
        if self.size == 1:
            return [mine]
        import torch.distributed as dist

        found: list[T | None] = [None] * self.size
        with _noticing_loss():
            dist.all_gather_object(found, mine)
        return found  # type: ignore[return-value]

    def share(self, value: T) -> T:
        """What the first process has.

        Raises:
            ProcessLost: another one has ended.
        """
        return self.gather(value if self.leads else None)[0]  # type: ignore[return-value]

    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Add up the gradients of all processes, in place and all at once; a missing one counts as 0.

        A weight that has no gradient anywhere keeps none.

        Raises:
            ProcessLost: another one has ended.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        given = torch.tensor([weight.grad is not None for weight in weights], device=weights[0].device)
        flat = torch.cat([*(_gradient(weight).ravel() for weight in weights), given.float()])  # float32 at least
        with _noticing_loss():
            dist.all_reduce(flat)
        parts = flat.split([*(weight.numel() for weight in weights), len(weights)])
        for weight, part, anywhere in zip(weights, parts, parts[-1].tolist(), strict=False):
            if anywhere:
                gradient = _gradient(weight)
                weight.grad = gradient.copy_(part.view_as(gradient))


ALONE = Processes()
"""One process."""


@contextmanager
def join() -> Iterator[Processes]:
    """Be one of the processes that torchrun started, as its environment says; without torchrun be alone.

    Where there are GPUs, each process of a machine gets its own (``cuda`` then means that one). When another process
    ends, this one says nothing, because whoever started them says which it was; it waits to be ended. When whoever
    started them is killed, it ends too. One that crashes in native code prints where its Python code was
    (`faulthandler`). A program's last line should be `end_process`.
    """
    if not _one_of_several():
        yield ALONE
        return
    import torch.distributed as dist

    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun waits for what it started; others may not
        end_with_parent()
    faulthandler.enable(2)  # standard error itself: whatever stands in for it may have no descriptor
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_PATIENCE)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:
        if not is_loss(error):
            raise
        time.sleep(_GRACE)
        raise SystemExit(1) from None
    finally:
        dist.destroy_process_group()


def end_process(code: int | str | None = 0) -> None:
    """End one of several processes now, as its program's last line; alone do nothing.

    Threads of gloo outlive `join`, for models and their meshes hold its groups. One that gives back the tensors of the
    last exchange needs the interpreter's lock, and whoever asks for it while the interpreter shuts down is ended by
    force, which here aborts the process (PyTorch issue 190489). So this runs what `atexit` knows of and leaves without
    shutting down; it waits for no thread.

    Args:
        code: as that of `SystemExit`, but a text is not printed.
    """
    if not _one_of_several():
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def balanced(costs: Sequence[float], parts: int) -> list[list[int]]:
    """Positions in `costs` in `parts` parts of about equal sums, the same on every machine; a part may be empty.

    The dearest is given away first, each to the part with the least so far (Graham 1969).

    >>> balanced([5, 1, 4, 3, 2], 2)
    [[0, 1, 4], [2, 3]]
    """
    found: list[list[int]] = [[] for _ in range(parts)]
    sums = [0.0] * parts
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = sums.index(min(sums))
        found[least].append(i)
        sums[least] += costs[i]
    return [sorted(part) for part in found]


def interleaved(parts: Sequence[Sequence[T]]) -> list[T]:
    """The list whose parts `Processes.own` gave, by rank.

    >>> interleaved(["adg", "be", "cf"])
    ['a', 'b', 'c', 'd', 'e', 'f', 'g']
    """
    longest = max(map(len, parts), default=0)
    return [part[i] for i in range(longest) for part in parts if i < len(part)]


def is_loss(error: BaseException) -> bool:
    """Whether an error comes from another process having ended; collectives within a model raise it unnamed."""
    import torch.distributed as dist

    return isinstance(error, ProcessLost | dist.DistError) or "/gloo/" in str(error)


def _one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if is_loss(error):
            raise ProcessLost("another process of the run has ended") from error
        raise


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight, dtype=weight.grad_dtype) if weight.grad is None else weight.grad
