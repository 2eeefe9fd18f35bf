"""Checkpoints: all that is needed to go on exactly where a run was stopped, whenever and however that was.

Randomness needs no saving: every random stream of an iteration is derived from the run's seed and the
    iteration's number (`stream`).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from opid_agents.policy import Policy

_PREFIX = "iteration-"
_KEPT = 2


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


def stream(*names: object) -> int:
    """A seed that depends on `names` alone, on every machine; e.g. ``stream(run_seed, "rollout", iteration)``."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def seed_everything(*names: object) -> None:
    """Seed the global generators of Python, NumPy and torch (dropout draws from the latter)."""
    seed = stream(*names)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_checkpoint(folder: Path, policy: Policy, optimizer: torch.optim.Optimizer, progress: Progress) -> Path:
    """Write a checkpoint beside the others and remove old ones.

    It is written under another name and renamed when complete, so a folder with a checkpoint's name is always
    whole.
    """
    target = folder / f"{_PREFIX}{progress.iteration:06d}"
    unfinished = folder / f".unfinished-{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    policy.save(unfinished)
    torch.save(optimizer.state_dict(), unfinished / "optimizer.pt")
    (unfinished / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    for file in unfinished.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    os.replace(unfinished, target)
    for old in _all(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; None if there is none."""
    return _all(folder)[-1] if _all(folder) else None


def load_progress(checkpoint: Path) -> Progress:
    """How far the run had come."""
    return Progress(**json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimizer's state in place."""
    optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", weights_only=True))


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*"))
