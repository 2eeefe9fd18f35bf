"""AdamW for weights of any precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


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
            weight.grad = None if set_to_none or weight.grad is None else torch.zeros_like(weight)

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
