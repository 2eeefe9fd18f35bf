"""Metrics as TensorBoard event files, for those who watch many runs side by side.

The run's own ``metrics.jsonl`` stays the record; the event files only repeat its numbers. Weights & Biases reads them
too (``wandb sync``).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Writes each iteration's numbers into a folder for ``tensorboard --logdir``.

    Args:
        folder: where to.
        after: of an earlier part of the run, what came after this iteration is not shown.

    Raises:
        ValueError: `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "tensorboard=true needs the package tensorboard: pip install 'opid-gym[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One point in every curve that has a number."""
        for name, value in metrics.items():
            if isinstance(value, int | float) and name != "iteration":
                self._writer.add_scalar(name, value, metrics["iteration"])
        self._writer.flush()

    def close(self) -> None:
        """Nothing more will come."""
        self._writer.close()
