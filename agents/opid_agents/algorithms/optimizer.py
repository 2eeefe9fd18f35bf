"""AdamW for weights of any precision, and its learning rate over a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from opid_agents.settings import Settings


class OptimizerSettings(Settings):
    """How the weights are updated from an iteration's samples."""

    learning_rate: float = Field(3e-4, gt=0, description="learning rate of AdamW")
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of the iterations over which the learning rate rises linearly"
    )
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="learning rate after the warm-up: constant, or falling to 0 along a half cosine"
    )
    weight_decay: float = Field(0.0, ge=0, description="weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to it")
    epochs: int = Field(1, ge=1, description="passes over the samples of an iteration")
    minibatches: int = Field(1, ge=1, description="updates in a pass")
    minibatch_size: int | None = Field(
        None, ge=1, description="instead of minibatches: step samples in an update; none: as minibatches says"
    )
    max_bad_updates: int = Field(
        5, ge=1, description="the run stops after this many updates in a row without a finite loss and gradient"
    )

    def updates(self, samples: int) -> int:
        """Updates in a pass over `samples` step samples.

        >>> OptimizerSettings(minibatch_size=256).updates(1000)
        4
        """
        return self.minibatches if self.minibatch_size is None else max(1, math.ceil(samples / self.minibatch_size))

    def rate(self, iteration: int, iterations: int) -> float:
        """The learning rate in `iteration`, from 1, of a run of `iterations`.

        >>> settings = OptimizerSettings(learning_rate=1.0, warmup=0.2, schedule="cosine")
        >>> [round(settings.rate(i, 10), 2) for i in (1, 2, 3, 6, 10)]
        [0.5, 1.0, 0.97, 0.59, 0.03]
        """
        rising = self.warmup * iterations
        if iteration < rising:
            return self.learning_rate * iteration / rising
        if self.schedule == "constant":
            return self.learning_rate
        done = (iteration - max(rising, 1)) / max(1, iterations + 1 - max(rising, 1))
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(
    weights: Sequence[nn.Parameter],
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float] = (0.9, 0.999),
) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over `weights`; lower precision than float32 is trained through float32 copies."""
    full = all(weight.dtype == torch.float32 for weight in weights)
    kind = torch.optim.AdamW if full else MasterAdamW
    return kind(weights, lr=learning_rate, weight_decay=weight_decay, betas=betas)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all weights."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


class MasterAdamW(torch.optim.AdamW):
    """AdamW on float32 copies of the weights, which are written back after each step.

    A learning rate of 1e-6 changes a bfloat16 weight by less than its rounding, so that nothing would ever be learned;
    the copies collect the small changes. They belong to the state that `state_dict` saves.

    Args:
        weights: what is trained; gradients are read from them.
        options: of `torch.optim.AdamW`.
    """

    def __init__(self, weights: Sequence[nn.Parameter], **options: Any) -> None:
        self.weights = list(weights)
        for weight in self.weights:
            # The gradients of an update's parts are added up in float32: bfloat16 loses small ones among large sums.
            weight.grad_dtype = torch.float32
        self.masters = [nn.Parameter(weight.detach().float().clone()) for weight in self.weights]
        super().__init__(self.masters, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update from the gradients of the weights."""
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
        super().step(closure)
        for weight, master in zip(self.weights, self.masters, strict=True):
            master.grad = None
            weight.copy_(master)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the weights."""
        for weight in self.weights:
            weight.grad = None if set_to_none or weight.grad is None else torch.zeros_like(weight.grad)

    def state_dict(self) -> dict[str, Any]:
        """As every optimizer's, and the copies."""
        return super().state_dict() | {"masters": [master.detach() for master in self.masters]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        masters: list[Tensor] = state_dict["masters"]
        with torch.no_grad():
            for master, saved in zip(self.masters, masters, strict=True):
                master.copy_(saved)
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masters"})
