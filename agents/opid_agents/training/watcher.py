"""What a run tells while it goes on; the terminal's way of showing it is in `opid_agents.commands`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from opid_gym.evaluation import Evaluation


@dataclass(frozen=True, slots=True)
class Check:
    """A check of the policy during the warm start, on train tasks that were not demonstrated.

    Attributes:
        step: updates made so far.
        success: success rate at the evaluation temperature.
        following: share of hints followed (`opid_agents.training.imitation.following_rate`) in the states of these
            rollouts ...
        following_expert: ... and of the expert's.
    """

    step: int
    success: float
    following: float
    following_expert: float


class Watcher(Protocol):
    """Is told how a run goes on."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A part of the work with `total` units (0: unknown); yields a function that takes how many more are done."""

    def phase(self, name: str) -> None:
        """A phase of the run begins: ``warm start``, ``evaluate before``, ``train`` or ``evaluate after``."""

    def resumed(self, iteration: int, repeated: int) -> None:
        """The run goes on after an iteration; `repeated` later ones had been finished, and are done again."""

    def stopped(self, finished: int, kept: int) -> None:
        """Somebody pressed Ctrl-C after `finished` iterations; a resumed run goes on after the first `kept` of them."""

    def warn(self, text: str) -> None:
        """Something in the run's folder is not as it should be, and the run goes on all the same."""

    def check(self, check: Check) -> None:
        """The policy was checked during the warm start."""

    def iteration(self, metrics: dict[str, Any]) -> None:
        """An iteration has ended."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Success on held-back tasks was measured, before or after training."""


class Silent:
    """Shows nothing; a base for watchers that show something."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """See `Watcher`."""
        return nullcontext(lambda done: None)

    def phase(self, name: str) -> None:
        """See `Watcher`."""

    def resumed(self, iteration: int, repeated: int) -> None:
        """See `Watcher`."""

    def stopped(self, finished: int, kept: int) -> None:
        """See `Watcher`."""

    def warn(self, text: str) -> None:
        """See `Watcher`."""

    def check(self, check: Check) -> None:
        """See `Watcher`."""

    def iteration(self, metrics: dict[str, Any]) -> None:
        """See `Watcher`."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """See `Watcher`."""
