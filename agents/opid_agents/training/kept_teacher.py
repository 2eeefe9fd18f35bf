"""A teacher with weights of its own: those of the start, or a moving average of the policy's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from opid_agents.policy import Policy

FILE = "teacher.pt"


@dataclass(slots=True)
class Teacher:
    """A copy of the policy that scores with skills in the prompts and is not trained.

    Attributes:
        policy: its weights are the teacher's.
        rate: after every iteration it moves to the trained policy's weights by this share (0: it stays the start).
    """

    policy: Policy
    rate: float = 0.0
    # In float32: in bfloat16 a small step towards the policy would be lost in rounding.
    _average: list[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate must be in [0, 1], got {self.rate}")
        self._average = [weight.detach().float().clone() for weight in self.policy.trained()]

    @torch.no_grad()
    def follow(self, policy: Policy) -> None:
        """Move towards another policy's weights."""
        if self.rate == 0:
            return
        pairs = zip(self.policy.trained(), self._average, policy.trained(), strict=True)
        for weight, average, current in pairs:
            average.lerp_(policy.whole(current.detach()).float(), self.rate)
            weight.copy_(average)

    def save(self, folder: Path) -> None:
        """Write the weights into a checkpoint's folder, where they change."""
        if self.rate != 0:
            torch.save(self._average, folder / FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Restore what `save` wrote."""
        if self.rate == 0:
            return
        saved = torch.load(folder / FILE, map_location=self.policy.device, weights_only=True)
        for weight, average, value in zip(self.policy.trained(), self._average, saved, strict=True):
            average.copy_(value)
            weight.copy_(value)
