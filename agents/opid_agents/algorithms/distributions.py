"""Whole distributions over the vocabulary, all of it or the likeliest tokens and a tail, and how they differ.

One sampled token tells little of what a teacher would have said; its distribution tells all. Kept whole that is n x V
numbers, which is nothing for a small vocabulary and too much for a large one: `Distribution` keeps either all, or the k
likeliest tokens, whose rest is one more outcome, the *tail* (SDPO, arXiv 2601.20802).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Distribution:
    """Log-probabilities at n tokens.

    Attributes:
        log_probs: ``[n, k]``.
        ids: ``[n, k]``, the vocabulary's tokens they belong to; None: all, k = V in the vocabulary's order.
    """

    log_probs: Float[Tensor, "tokens outcomes"]
    ids: Int[Tensor, "tokens outcomes"] | None = None

    @classmethod
    def of(cls, log_probs: Float[Tensor, "tokens vocabulary"], top_k: int | None = None) -> Distribution:
        """All of a distribution, or its `top_k` likeliest tokens."""
        if top_k is None or top_k >= log_probs.shape[-1]:
            return cls(log_probs)
        values, ids = log_probs.topk(top_k, dim=-1)
        return cls(values, ids)

    def rows(self, index: Tensor) -> Distribution:
        """The distributions at some of the tokens."""
        return Distribution(self.log_probs[index], None if self.ids is None else self.ids[index])

    def to(self, device: torch.device) -> Distribution:
        """On another device."""
        return Distribution(self.log_probs.to(device), None if self.ids is None else self.ids.to(device))

    def outcomes(self) -> Float[Tensor, "tokens outcomes"]:
        """Log-probabilities that sum to 1: with the tail as last outcome where only the likeliest tokens are kept."""
        return self.log_probs if self.ids is None else _with_tail(self.log_probs)

    def outcomes_of(self, log_probs: Float[Tensor, "tokens vocabulary"]) -> Float[Tensor, "tokens outcomes"]:
        """Another distribution over the same outcomes, to compare the two; keeps its gradient.

        Raises:
            ValueError: another number of tokens, or of tokens in the vocabulary.
        """
        if self.ids is None:
            if log_probs.shape != self.log_probs.shape:
                raise ValueError(
                    f"both distributions must have the same shape [tokens, vocabulary], got {list(log_probs.shape)} "
                    f"and {list(self.log_probs.shape)}"
                )
            return log_probs
        if len(log_probs) != len(self.ids):
            raise ValueError(f"one row for each of {len(self.ids)} tokens is needed, got {len(log_probs)}")
        return _with_tail(log_probs.gather(-1, self.ids))


def divergence(
    student: Float[Tensor, "tokens outcomes"], teacher: Float[Tensor, "tokens outcomes"], alpha: float
) -> Float[Tensor, " tokens"]:
    """From forward to reverse KL, by token, with its exact gradient; the teacher has none.

    With the mixture ``m = (1 - alpha) student + alpha teacher``:

    - ``alpha = 0``: forward, KL(teacher || student);
    - ``alpha = 1``: reverse, KL(student || teacher);
    - between: the generalised Jensen-Shannon divergence ``alpha KL(teacher || m) + (1 - alpha) KL(student || m)``.

    The ends are not the limits of what lies between (which are 0), but what the implementations of SDPO
    (arXiv 2601.20802) and GKD (arXiv 2306.13649) mean by them.

    Args:
        student, teacher: log-probabilities of the same outcomes, each row summing to 1.
        alpha: in [0, 1].

    Raises:
        ValueError: different shapes, or `alpha` out of range.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher must have one shape, got {list(student.shape)}, {list(teacher.shape)}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    teacher = teacher.detach()
    if alpha == 0:
        return _kl(teacher, student)
    if alpha == 1:
        return _kl(student, teacher)
    mixture = torch.logaddexp(student + math.log(1 - alpha), teacher + math.log(alpha))
    return alpha * _kl(teacher, mixture) + (1 - alpha) * _kl(student, mixture)


def entropy(log_probs: Float[Tensor, "*positions outcomes"]) -> Float[Tensor, "*positions"]:
    """Entropy in nats; an outcome of log-probability -inf counts as impossible."""
    # p log p is 0 at p = 0; written so that the gradient there is 0 too, and not NaN.
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -math.inf, 0.0)).sum(-1)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q); what p holds for impossible counts nothing."""
    difference = (p - q).masked_fill(p == -math.inf, 0.0)
    return (p.exp() * difference).sum(-1)


def _with_tail(log_probs: Tensor) -> Tensor:
    """The probability that is left as one more outcome; never quite 0, so that its logarithm is finite."""
    total = log_probs.logsumexp(-1, keepdim=True).clamp(max=-1e-7)
    return torch.cat([log_probs, torch.log(-torch.expm1(total))], -1)
