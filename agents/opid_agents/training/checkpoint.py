"""Checkpoints: all that is needed to go on exactly where a run was stopped, whenever and however that was.

A checkpoint is sealed with hashes (`opid_gym.files`) before it gets its name, so that a damaged one is noticed.
Randomness needs no saving: every random stream of an iteration is derived from the run's seed and the
iteration's number (`opid_agents.streams.stream`).
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from opid_agents.algorithms.optimizer import MasterAdamW
from opid_agents.distributed import ALONE, Processes, ProcessLost, is_loss
from opid_agents.policy import Policy
from opid_agents.streams import stream
from opid_agents.training.kept_teacher import Teacher
from opid_gym.files import damage, remove_unfinished, replacing_folder

_PREFIX = "iteration-"
_KEPT = 2
_OPTIMIZER = "optimizer.pt"
_AHEAD = "ahead"
PARTS = "parts"
"""Folder of a checkpoint with the weights and the optimizer of a divided model, by `torch.distributed.checkpoint`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run has come.

    Attributes:
        iteration: finished iterations.
        episodes, env_steps: played in them.
        skipped_updates: updates left out because the loss or gradient was not finite, in all and now in a row.
        written: trajectories written down so far.
    """

    iteration: int = 0
    episodes: int = 0
    env_steps: int = 0
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    written: int = 0


def seed_everything(*names: object) -> None:
    """Seed the global generators of Python, NumPy and torch (dropout draws from the latter)."""
    seed = stream(*names)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class Writing:
    """A checkpoint that is being written, and is one once that has finished.

    Args:
        path: its folder.
        finished: None for one that is there already.
    """

    def __init__(self, path: Path, finished: Future[None] | None = None) -> None:
        self.path = path
        self._finished = finished

    def wait(self) -> None:
        """Wait until it is there.

        Raises:
            ProcessLost: another process has ended.
            OSError: it could not be written.
        """
        if self._finished is not None:
            self._finished.result()


def save_checkpoint(
    folder: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    teacher: Teacher | None = None,
    processes: Processes = ALONE,
    *,
    ahead: Mapping[int, bytes] | None = None,
) -> Writing:
    """Write a checkpoint beside the others, and remove all but the newest two that are whole.

    The first process writes it. Of a divided model and its optimizer each process writes its part (`PARTS`), from a
    copy that is made before this returns, while the run goes on: wait for it before the next one. With `ahead` it holds
    earlier weights too, those that the next iterations are played with (`opid_agents.training.ahead`).
    """
    target = folder / f"{_PREFIX}{progress.iteration:06d}"
    with ExitStack() as stack:
        scratch = target
        if processes.leads:
            remove_unfinished(folder)
            stack.callback(_prune, folder)
            scratch = stack.enter_context(replacing_folder(target))
            if teacher is not None:
                teacher.save(scratch)
            for version, weights in (ahead or {}).items():
                (scratch / _AHEAD).mkdir(exist_ok=True)
                (scratch / _AHEAD / f"{version}.safetensors").write_bytes(weights)
            (scratch / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
            if policy.shards is None:
                policy.save(scratch)
                torch.save(optimizer.state_dict(), scratch / _OPTIMIZER)
        if policy.shards is None:
            return Writing(target)
        parts = policy.shards.begin_to_save(processes.share(scratch) / PARTS, optimizer)
        rest = stack.pop_all()
    thread = ThreadPoolExecutor(1, "checkpoint")
    try:
        return Writing(target, thread.submit(_finish, parts, rest))
    finally:
        thread.shutdown(wait=False)


def _finish(parts: Future[None], rest: ExitStack) -> None:
    from torch.distributed.checkpoint.api import CheckpointException

    with rest:  # seals it and gives it its name
        try:
            parts.result()
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            if is_loss(first):
                raise ProcessLost("another process of the run has ended") from error
            raise OSError(f"a part of a checkpoint could not be written: {first}") from error


def _prune(folder: Path) -> None:
    kept = [path for path in _all(folder) if damage(path) is None][-_KEPT:]
    for path in _all(folder):
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(folder: Path, on_damage: Callable[[Path, str], None] | None = None) -> Path | None:
    """The newest checkpoint that is whole; None if there is none. The time is that of reading it once.

    Args:
        folder: of checkpoints.
        on_damage: is told about each newer one that is not whole: its folder, and what is wrong in words.
    """
    for path in reversed(_all(folder)):
        wrong = damage(path, thorough=True)
        if wrong is None:
            return path
        if on_damage is not None:
            on_damage(path, wrong)
    return None


def load_progress(checkpoint: Path) -> Progress:
    """How far the run had come."""
    return Progress(**json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))


def load_ahead(checkpoint: Path) -> dict[int, bytes]:
    """The earlier weights in a checkpoint, by the number of iterations that they have learned from."""
    return {int(file.stem): file.read_bytes() for file in (checkpoint / _AHEAD).glob("*.safetensors")}


def in_parts(checkpoint: Path) -> bool:
    """Whether a checkpoint is that of a divided model: it can be loaded into any model of that architecture."""
    return (checkpoint / PARTS).is_dir()


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer, policy: Policy) -> None:
    """Restore the optimizer's state in place, and the policy's weights where the checkpoint is that of a divided model.

    Raises:
        ValueError: it cannot be gone on with in this precision.
    """
    if in_parts(checkpoint):
        if isinstance(optimizer, MasterAdamW):
            raise ValueError(
                f"the checkpoint {str(checkpoint)!r} has float32 weights in parts: go on with several processes and "
                "parallel=shard, or with model.dtype=float32"
            )
        from opid_agents.sharding import load_parts

        load_parts(checkpoint / PARTS, policy.model, optimizer)
        return
    state = torch.load(checkpoint / _OPTIMIZER, map_location="cpu", weights_only=True)
    if policy.shards is None:
        optimizer.load_state_dict(state)
    else:
        policy.shards.load_optimizer(state, optimizer)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))
