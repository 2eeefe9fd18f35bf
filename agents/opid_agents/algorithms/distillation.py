"""Other ways to learn from a teacher that sees the skill: advantages and terms of a loss.

Pure functions. Advantages are computed from log-probabilities of the *sampled* tokens, all ``[B, L]``: the teacher's
(the frozen policy under prompt + skill) and the sampling policy's (`old`); what stands where `teacher_mask` is 0 is
never read. Terms of a loss are flat vectors ``[n]``; they carry the gradient of the policy's own log-probabilities, and
only tokens with a teacher should be given or counted (`opid_agents.algorithms.losses.distillation_loss` sees to it).

Sources: RLSD (arXiv 2604.03128), Skill-SD (arXiv 2604.10674), SDAR (arXiv 2605.15155), OPSD (Self-Distilled Reasoner,
arXiv 2601.18734), SDPO (arXiv 2601.20802), SRPO (arXiv 2604.02288), StepOPSD (arXiv 2605.27140), RLCSD
(arXiv 2606.11709), UCOB (arXiv 2606.29502).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from opid_agents.algorithms.losses import kl_divergence
from opid_agents.algorithms.shapes import require_like, require_matrix

_TIE = 1e-3  # nats between two computations of one log-probability


# -- Advantages, [B, L] --
@torch.no_grad()
def rlsd_advantage(
    outcome: Float[Tensor, "batch tokens"],
    teacher_log_probs: Float[Tensor, "batch tokens"],
    old_log_probs: Float[Tensor, "batch tokens"],
    teacher_mask: Shaped[Tensor, "batch tokens"],
    *,
    mix: float = 0.5,
    low: float = 0.8,
    high: float = 1.2,
) -> Float[Tensor, "batch tokens"]:
    """Direction from the reward, size from the teacher (RLSD, arXiv 2604.03128).

        w = clip(exp(sign(A) (teacher - old)), low, high),    A' = A ((1 - mix) + mix w).

    The sign of the outcome advantage A is never changed. With another policy's log-probabilities in place of
    `old_log_probs`, those under a wrong skill, this is the contrast of RLCSD.

    Args:
        outcome: A, e.g. from `opid_agents.algorithms.advantages.outcome_advantage`.
        teacher_log_probs, old_log_probs, teacher_mask: see the module.
        mix: lambda; the paper lets it fall from 0.5 to 0 over 50 updates.
        low, high: bounds of the weight.

    Raises:
        ValueError: a wrong shape, or a number out of range.
    """
    _require("outcome", outcome, teacher_log_probs, old_log_probs, teacher_mask)
    if not 0 <= mix <= 1:
        raise ValueError(f"mix must be in [0, 1], got {mix}")
    if not 0 < low <= 1 <= high:
        raise ValueError(f"low must be in (0, 1] and high at least 1, got {low} and {high}")
    shift = torch.where(teacher_mask != 0, teacher_log_probs - old_log_probs, 0.0)
    weight = (outcome.sign() * shift).exp().clamp(low, high)
    return outcome * ((1 - mix) + mix * weight)


@torch.no_grad()
def step_weights(
    outcome: Float[Tensor, "batch tokens"],
    shift: Float[Tensor, "batch tokens"],
    where: Bool[Tensor, "batch tokens"],
    *,
    clip: float | None = None,
) -> Float[Tensor, "batch tokens"]:
    """The weights of StepOPSD (arXiv 2605.27140): ``w = 2 sigmoid(sign(A) Delta)``, in (0, 2).

    Over the tokens of each step's action they are divided by their mean, so that a step keeps its credit and only
    shares it differently.

    Args:
        outcome: A, the outcome advantage.
        shift: Delta, 0 where there is no teacher.
        where: the tokens that are weighted; 1 elsewhere.
        clip: first limit w to ``[1 - clip, 1 + clip]``; None: no limit.

    Raises:
        ValueError: a wrong shape.
    """
    _require("outcome", outcome, shift, where)
    weight = 2 * torch.sigmoid(outcome.sign() * torch.where(where, shift, 0.0))
    if clip is not None:
        weight = weight.clamp(1 - clip, 1 + clip)
    count = where.sum(-1, keepdim=True)
    mean = torch.where(where, weight, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
    return torch.where(where, weight / mean.clamp(min=1e-6), 1.0)


# -- Terms of a loss, [n] --
def reverse_kl(
    log_probs: Float[Tensor, " tokens"], teacher_log_probs: Float[Tensor, " tokens"]
) -> Float[Tensor, " tokens"]:
    """KL(policy || teacher) on sampled tokens: the term of grpo_opsd.

    Its value is the estimate ``l = log_probs - teacher``. Its gradient is ``l`` times that of `log_probs`, whose mean
    over the policy's samples is the gradient of the divergence; differentiating ``l`` itself would give noise with
    mean 0 (arXiv 2506.09477).
    """
    value = kl_divergence(log_probs, teacher_log_probs, "k1").detach()
    pull = kl_divergence(log_probs, teacher_log_probs, "k2")
    return value + pull - pull.detach()


def weighted_k3(
    log_probs: Float[Tensor, " tokens"],
    old_log_probs: Float[Tensor, " tokens"],
    teacher_log_probs: Float[Tensor, " tokens"],
) -> Float[Tensor, " tokens"]:
    """The term of Skill-SD (arXiv 2604.10674): ``rho k3`` with ``rho = exp(log_probs - old)``.

    ``k3 = exp(-l) - 1 + l`` with ``l = log_probs - teacher``. Both factors carry the gradient. As in the public
    implementation ``-l`` counts up to 20 in the exponent, and ``log rho`` up to 10.
    """
    require_like("old_log_probs", old_log_probs, log_probs)
    require_like("teacher_log_probs", teacher_log_probs, log_probs)
    difference = log_probs - teacher_log_probs.detach()
    ratio = (log_probs - old_log_probs.detach()).clamp(max=10.0).exp()
    return ratio * ((-difference).clamp(max=20.0).exp() - 1 + difference)


def gated_pull(
    log_probs: Float[Tensor, " tokens"], teacher_log_probs: Float[Tensor, " tokens"], *, sharpness: float = 5.0
) -> Float[Tensor, " tokens"]:
    """The term of SDAR (arXiv 2605.15155): ``g (teacher - log_probs)`` with a gate g.

    The gate ``g = sigmoid(sharpness (teacher - log_probs))`` carries no gradient: tokens the teacher finds likelier are
    pushed up, the others hardly at all. With a sharpness of 0 the gate is 1/2 everywhere.
    """
    require_like("teacher_log_probs", teacher_log_probs, log_probs)
    gap = teacher_log_probs.detach() - log_probs
    return torch.sigmoid(sharpness * gap.detach()) * gap


def until_disagreement(
    sampled: Float[Tensor, " tokens"],
    likeliest: Float[Tensor, " tokens"],
    sample: Int[Tensor, " tokens"],
    position: Int[Tensor, " tokens"],
    routed: Bool[Tensor, " tokens"],
) -> Bool[Tensor, " tokens"]:
    """The routed tokens of each reply, up to the first one in whose place the teacher would have said another.

    After that token the teacher goes on from what it would not have said, and what it expects there means little.

    Args:
        sampled: log-probabilities that the teacher gives to the sampled tokens ...
        likeliest: ... and to the likeliest token in the place of each.
        sample, position: of each token: its sample, and its place in the reply.
        routed: which tokens have a teacher.

    >>> one = torch.tensor([0, 0, 0])
    >>> until_disagreement(torch.tensor([-0.1, -3.0, -0.1]), torch.tensor([-0.1, -0.1, -0.1]), one, torch.arange(3),
    ...     one == 0)
    tensor([ True,  True, False])
    """
    wrong = routed & (sampled < likeliest - _TIE)
    never = int(position.max()) + 1 if len(position) else 0
    first = torch.full((int(sample.max()) + 1 if len(sample) else 0,), never, device=position.device)
    first = first.scatter_reduce(0, sample[wrong], position[wrong], "amin")
    return routed & (position <= first[sample])


def importance(
    log_probs: Float[Tensor, " tokens"], old_log_probs: Float[Tensor, " tokens"], *, limit: float
) -> Float[Tensor, " tokens"]:
    """Truncated importance weights, ``min(exp(log_probs - old), limit)``, without gradient.

    A term is multiplied by them because its tokens were sampled by an older policy (SDPO: a limit of 2).
    """
    require_like("old_log_probs", old_log_probs, log_probs)
    return (log_probs - old_log_probs).detach().clamp(-20.0, 20.0).exp().clamp(max=limit)


def confidence_weights(
    entropies: Float[Tensor, " tokens"],
    sample: Int[Tensor, " tokens"],
    used: Bool[Tensor, " tokens"],
    *,
    strength: float = 1.0,
) -> Float[Tensor, " tokens"]:
    """Weights that trust a teacher where it is sure (SRPO, arXiv 2604.02288): ``exp(-strength H)``, normalised.

    They are divided by their mean over the reply's tokens that have a teacher.

    Args:
        entropies: H of the teacher's distribution, in nats, without gradient.
        sample: the reply of each token.
        used: which tokens have a teacher; 0 elsewhere.
        strength: beta; 0: 1 everywhere.
    """
    require_like("sample", sample, entropies)
    require_like("used", used, entropies)
    weight = torch.where(used, (-strength * entropies.detach()).exp(), 0.0)
    batch = int(sample.max()) + 1 if len(sample) else 0
    total = torch.zeros(batch, dtype=weight.dtype, device=weight.device).index_add(0, sample, weight)
    count = torch.zeros_like(total).index_add(0, sample, used.to(weight))
    return weight / (total / count.clamp(min=1))[sample].clamp(min=1e-12)


def credit_weights(
    gap: Float[Tensor, " batch"], *, margin: float = 0.05, temperature: float = 0.2, limit: float = 2.0
) -> Float[Tensor, " batch"]:
    """How much a view teaches another one whose return is lower by `gap` (UCOB, arXiv 2606.29502).

    The weight is ``min(gap / temperature, limit)``, and 0 where the gap is within the margin.
    """
    return torch.where(gap > margin, (gap / temperature).clamp(max=limit), 0.0)


def _require(name: str, first: Tensor, *others: Tensor) -> None:
    require_matrix(name, first)
    for other in others:
        require_matrix(f"what goes with {name}", other, first.shape)
