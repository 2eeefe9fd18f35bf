"""Metrics for those who watch many runs side by side: TensorBoard event files, Weights & Biases.

The run's own ``metrics.jsonl`` stays the record; loggers only repeat its numbers.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from opid_agents.recipes.recipe import Recipe
from opid_gym.files import write_file
from opid_gym.named import missing_extra


class Logger(Protocol):
    """Shows metrics somewhere."""

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One point in every curve that has a number."""

    def close(self) -> None:
        """Nothing more will come."""


def open_loggers(recipe: Recipe, folder: Path, *, after: int = 0) -> list[Logger]:
    """The loggers that a recipe names.

    Args:
        recipe: its keys ``loggers`` and ``wandb_project`` are used.
        folder: the run's.
        after: the iteration after which the run goes on.

    Raises:
        ValueError: the package of one is not installed.
    """
    loggers: list[Logger] = []
    if "tensorboard" in recipe.loggers:
        loggers.append(TensorBoard(folder / "tensorboard", after=after))
    if "wandb" in recipe.loggers:
        loggers.append(WeightsAndBiases(folder, recipe.wandb_project, recipe.model_dump(mode="json")))
    return loggers


class TensorBoard:
    """Writes each iteration's numbers into a folder for ``tensorboard --logdir``.

    Args:
        folder: where to.
        after: of an earlier part of the run, what came after this iteration is not shown.

    Raises:
        ModuleNotFoundError: `tensorboard` is not installed.
    """

    def __init__(self, folder: Path, *, after: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise missing_extra("loggers=tensorboard", "tensorboard", "tensorboard") from None
        self._writer = SummaryWriter(str(folder), purge_step=after + 1 if after else None)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """See `Logger`."""
        for name, value in _numbers(metrics).items():
            self._writer.add_scalar(name, value, metrics["iteration"])
        self._writer.flush()

    def close(self) -> None:
        """See `Logger`."""
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
        ModuleNotFoundError: `wandb` is not installed.
    """

    def __init__(self, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError:
            raise missing_extra("loggers=wandb", "wandb", "wandb") from None
        known = folder / "wandb_id.txt"
        if not known.is_file():
            write_file(known, uuid.uuid4().hex[:8] + "\n")
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
        """See `Logger`."""
        self._run.log(_numbers(metrics), step=metrics["iteration"])

    def close(self) -> None:
        """See `Logger`."""
        self._run.finish()


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if isinstance(v, int | float) and k != "iteration"}
