"""Metrics for those who watch many runs side by side: TensorBoard event files, Weights & Biases.

The run's own ``metrics.jsonl`` stays the record; boards only repeat its numbers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from opid_agents.recipes.recipe import Recipe


class Board(Protocol):
    """Shows metrics somewhere."""

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One point in every curve that has a number."""

    def close(self) -> None:
        """Nothing more will come."""


def open_boards(recipe: Recipe, folder: Path, *, after: int = 0) -> list[Board]:
    """The boards a recipe wants.

    Args:
        recipe: its keys ``tensorboard`` and ``wandb`` are used.
        folder: the run's.
        after: the iteration after which the run goes on.

    Raises:
        ValueError: the package of one is not installed.
    """
    boards: list[Board] = []
    if recipe.tensorboard:
        boards.append(TensorBoard(folder / "tensorboard", after=after))
    if recipe.wandb:
        boards.append(WeightsAndBiases(folder, recipe.wandb, recipe.model_dump(mode="json")))
    return boards


class TensorBoard:
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
        """See `Board`."""
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, metrics["iteration"])
        self._writer.flush()

    def close(self) -> None:
        """See `Board`."""
        self._writer.close()


class WeightsAndBiases:
    """Logs each iteration's numbers as a run of Weights & Biases.

    Without a network, ``WANDB_MODE=offline`` keeps them in the folder for ``wandb sync``. A resumed run goes on under
    the same id, which lies in ``wandb_id.txt``.

    Args:
        folder: the run's; its name is the run's name.
        project: of Weights & Biases.
        config: shown with the run.

    Raises:
        ValueError: `wandb` is not installed.
    """

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise ValueError("wandb=PROJECT needs the package wandb: pip install 'opid-gym[wandb]'") from None
        known = folder / "wandb_id.txt"
        if not known.is_file():
            known.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
        self._run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=known.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=folder,
            config=dict(config),
            settings=wandb.Settings(silent=True, console="off"),
        )

    def write(self, metrics: Mapping[str, Any]) -> None:
        """See `Board`."""
        self._run.log(_numbers(metrics), step=metrics["iteration"])

    def close(self) -> None:
        """See `Board`."""
        self._run.finish()


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "iteration"}
