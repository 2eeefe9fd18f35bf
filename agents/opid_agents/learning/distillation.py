"""Other ways to learn from a teacher that sees the skill: advantages and loss terms.

Pure functions of log-probabilities of the *sampled* tokens, all ``[B, L]``: the teacher's (the frozen policy under
prompt + skill), the sampling policy's (`old`), and the policy's own, which carries the gradient. Tokens without a
teacher (`teacher_mask` 0) are left as they are by an advantage and are 0 in a loss term; what stands there is never
read.

Sources: RLSD (arXiv 2604.03128), Skill-SD (arXiv 2604.10674), SDAR (arXiv 2605.15155), OPSD (Self-Distilled
Reasoner, arXiv 2601.18734).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from opid_agents.learning.losses import kl_divergence
from opid_agents.learning.shapes import require_matrix


@torch.no_grad()
def rlsd_advantage(
    outcome: Float[Tensor, "batch tokens"],
    teacher_log_probs: Float[Tensor, "batch tokens"],
    old_log_probs: Float[Tensor, "batch tokens"],
    teacher_mask: Shaped[Tensor, "batch tokens"],
    *,
    mix: float = 0.5,
    clip: float = 0.2,
) -> Float[Tensor, "batch tokens"]:
    """Direction from the reward, size from the teacher (RLSD, arXiv 2604.03128).

        w = clip(exp(sign(A) (teacher - old)), 1 - clip, 1 + clip),    A' = A ((1 - mix) + mix w).

    The sign of the outcome advantage A is never changed.

    Args:
        outcome: A, e.g. from `opid_agents.learning.advantages.outcome_advantage`.
        teacher_log_probs, old_log_probs, teacher_mask: see the module.
        mix: lambda; the paper lets it fall from 0.5 to 0 over 50 updates.
        clip: how far the weight may be from 1.

    Raises:
        ValueError: a wrong shape, or a number out of range.
    """
    _require("outcome", outcome, teacher_log_probs, old_log_probs, teacher_mask)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must be in [0, 1], got {mix}")
    if not 0 <= clip < 1:
        raise ValueError(f"clip must be in [0, 1), got {clip}")
    shift = torch.where(teacher_mask != 0, teacher_log_probs - old_log_probs, 0.0)
    weight = (outcome.sign() * shift).exp().clamp(1 - clip, 1 + clip)
    return outcome * ((1 - mix) + mix * weight)


def reverse_kl(
    log_probs: Float[Tensor, "batch tokens"],
    teacher_log_probs: Float[Tensor, "batch tokens"],
    teacher_mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens"]:
    """KL(policy || teacher) on sampled tokens: the term of grpo_opsd.

    Its value is the estimate ``l = log_probs - teacher``. Its gradient is ``l`` times that of `log_probs`, whose mean
    over the policy's samples is the gradient of the divergence; differentiating ``l`` itself would give noise with
    mean 0 (arXiv 2506.09477).
    """
    _require("log_probs", log_probs, teacher_log_probs, teacher_mask)
    value = kl_divergence(log_probs, teacher_log_probs, teacher_mask, "k1").detach()
    pull = kl_divergence(log_probs, teacher_log_probs, teacher_mask, "k2")
    return value + pull - pull.detach()


def weighted_k3(
    log_probs: Float[Tensor, "batch tokens"],
    old_log_probs: Float[Tensor, "batch tokens"],
    teacher_log_probs: Float[Tensor, "batch tokens"],
    teacher_mask: Shaped[Tensor, "batch tokens"],
) -> Float[Tensor, "batch tokens"]:
    """The term of Skill-SD (arXiv 2604.10674): ``rho k3`` with ``rho = exp(log_probs - old)`` and
    ``k3 = exp(-l) - 1 + l``, ``l = log_probs - teacher``. Both factors carry the gradient. As in the public
    implementation ``-l`` counts up to 20 in the exponent, and ``log rho`` up to 10."""
    _require("log_probs", log_probs, old_log_probs, teacher_log_probs, teacher_mask)
    used = teacher_mask != 0
    log_ratio = torch.where(used, log_probs - old_log_probs.detach(), 0.0)
    difference = torch.where(used, log_probs - teacher_log_probs.detach(), 0.0)
    return log_ratio.clamp(max=10.0).exp() * ((-difference).clamp(max=20.0).exp() - 1 + difference)


def gated_pull(
    log_probs: Float[Tensor, "batch tokens"],
    teacher_log_probs: Float[Tensor, "batch tokens"],
    teacher_mask: Shaped[Tensor, "batch tokens"],
    *,
    sharpness: float = 5.0,
) -> Float[Tensor, "batch tokens"]:
    """The term of SDAR (arXiv 2605.15155): ``g (teacher - log_probs)`` with the gate
    ``g = sigmoid(sharpness (teacher - log_probs))``, which carries no gradient: tokens the teacher finds likelier are
    pushed up, the others hardly at all."""
    _require("log_probs", log_probs, teacher_log_probs, teacher_mask)
    gap = torch.where(teacher_mask != 0, teacher_log_probs.detach() - log_probs, 0.0)
    return torch.sigmoid(sharpness * gap.detach()) * gap


def _require(name: str, first: Tensor, *others: Tensor) -> None:
    require_matrix(name, first)
    for other in others:
        require_matrix(f"what goes with {name}", other, first.shape)
