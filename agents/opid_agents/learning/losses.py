"""Losses: from log-probabilities and advantages to one number to minimise.

Pure functions of tensors; B step samples, L response tokens. The one entry point for a learner is
`policy_loss`: one record in, one record out.

Sources: PPO (arXiv 1707.06347), dual clip (arXiv 1912.09729), the KL estimators k1, k2, k3 (J. Schulman,
"Approximating KL divergence", 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from opid_agents.learning.shapes import require_column, require_matrix

KlEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS: tuple[str, ...] = get_args(KlEstimator)

# The reference implementation's guards against overflow; beyond them the gradient is 0.
_LOG_RATIO_LIMIT = 20.0
_K3_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The constants of `policy_loss`.

    Attributes:
        clip_low, clip_high: the probability ratio counts only within ``[1 - clip_low, 1 + clip_high]``.
        dual_clip: for negative advantages a token's loss is at most ``dual_clip * |A|``; must be > 1; None:
            no limit.
        kl_weight: beta of ``beta * KL(pi || pi_ref)``; 0 needs no reference.
        kl_estimator: ``k1``, ``k2`` or ``k3``.
        entropy_weight: subtracts ``entropy_weight * entropy`` (needs entropies).
        distill_weight: lambda of the learners that add a distillation term to the loss.
        gate_sharpness: of SDAR's gate.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0
    kl_weight: float = 0.0
    kl_estimator: KlEstimator = "k3"
    entropy_weight: float = 0.0
    distill_weight: float = 0.01
    gate_sharpness: float = 5.0

    def __post_init__(self) -> None:
        if not 0 <= self.clip_low < 1:
            raise ValueError(f"clip_low must be in [0, 1), got {self.clip_low}")
        if not self.clip_high >= 0:
            raise ValueError(f"clip_high must be >= 0, got {self.clip_high}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must be > 1 or None, got {self.dual_clip}")
        for name in ("kl_weight", "entropy_weight", "distill_weight", "gate_sharpness"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, got {getattr(self, name)}")
        if self.kl_estimator not in KL_ESTIMATORS:
            raise ValueError(f"unknown kl_estimator {self.kl_estimator!r}; allowed: {list(KL_ESTIMATORS)}")


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Everything a loss may use.

    Attributes:
        log_probs: ``[B, L]`` of the sampled tokens under the policy being trained; carries the gradient.
        old_log_probs: ``[B, L]`` under the policy that sampled them.
        advantages: ``[B, L]``.
        response_mask: ``[B, L]``, bool or numbers, not 0 on response tokens. What stands elsewhere is never
            read.
        ref_log_probs: ``[B, L]`` under the reference policy; needed if ``settings.kl_weight`` is not 0.
        entropies: ``[B, L]`` of the policy's distribution at each token; needed if
            ``settings.entropy_weight`` is not 0.
        teacher_log_probs: ``[B, L]`` under the frozen policy with the skill in the prompt; for learners that add a
            distillation term.
        teacher_mask: ``[B, L]``, not 0 on the response tokens that have a teacher.
        sample_weights: ``[B]``, how often each row counts: a row of weight 2 equals the same row twice. None:
            1 each.
        total_weight: divisor of the token mean. None: this batch's own sum of weights over its tokens.
            Whoever splits a batch into micro-batches gives the sum over the whole batch, and the losses of
            the parts add up to the loss of the whole.
        settings: the constants.
    """

    log_probs: Float[Tensor, "batch tokens"]
    old_log_probs: Float[Tensor, "batch tokens"]
    advantages: Float[Tensor, "batch tokens"]
    response_mask: Shaped[Tensor, "batch tokens"]
    ref_log_probs: Float[Tensor, "batch tokens"] | None = None
    entropies: Float[Tensor, "batch tokens"] | None = None
    teacher_log_probs: Float[Tensor, "batch tokens"] | None = None
    teacher_mask: Shaped[Tensor, "batch tokens"] | None = None
    sample_weights: Shaped[Tensor, " batch"] | None = None
    total_weight: float | None = None
    settings: LossSettings = field(default_factory=LossSettings)


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss to call ``.backward()`` on, and figures to log.

    Each metric is a token mean with the same weights and divisor as the loss, so the metrics of micro-batches
    add up too.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, float]


def policy_loss(inputs: LossInputs) -> LossOutput:
    """PPO-clip on the advantages, plus ``kl_weight * KL(pi || pi_ref)``, minus ``entropy_weight * entropy``;
    token mean.

    Returns:
        The loss and the metrics ``loss``, ``policy_loss``, ``clip_fraction`` (tokens where the clipped ratio
        is what counts), ``dual_clip_fraction``, ``old_kl`` (k1 estimate of KL(pi_old || pi)), and ``ref_kl``,
        ``entropy`` where they can be computed.

    Raises:
        ValueError: a wrong shape, or something the settings need is missing.
    """
    settings = inputs.settings
    require_matrix("log_probs", inputs.log_probs)
    shape = inputs.log_probs.shape
    for name in ("old_log_probs", "advantages", "response_mask", "ref_log_probs", "entropies"):
        value = getattr(inputs, name)
        if value is not None:
            require_matrix(name, value, shape)
    for name, weight in (("ref_log_probs", "kl_weight"), ("entropies", "entropy_weight")):
        if getattr(settings, weight) != 0 and getattr(inputs, name) is None:
            raise ValueError(
                f"{name} is None, but {weight} is {getattr(settings, weight)}; give it or set {weight} to 0"
            )
    tokens = inputs.response_mask != 0
    weights = token_weights(tokens, inputs.sample_weights, inputs.log_probs)

    def mean(values: Tensor) -> Tensor:
        return weighted_mean(values, weights, inputs.total_weight)

    surrogate = ppo_clip(inputs.log_probs, inputs.old_log_probs, inputs.advantages, tokens, settings)
    policy = mean(surrogate.loss)
    loss = policy
    metrics = {
        "policy_loss": policy,
        "clip_fraction": mean(surrogate.clipped),
        "dual_clip_fraction": mean(surrogate.dual_clipped),
        "old_kl": mean(-surrogate.log_ratio),
    }
    if inputs.ref_log_probs is not None:
        kl = mean(kl_divergence(inputs.log_probs, inputs.ref_log_probs, tokens, settings.kl_estimator))
        metrics["ref_kl"] = kl
        if settings.kl_weight != 0:
            loss = loss + settings.kl_weight * kl
    if inputs.entropies is not None:
        entropy = mean(inputs.entropies)
        metrics["entropy"] = entropy
        if settings.entropy_weight != 0:
            loss = loss - settings.entropy_weight * entropy
    return LossOutput(
        loss,
        {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in metrics.items()},
    )


def distillation_loss(
    inputs: LossInputs, term: Callable[[LossInputs, Tensor, Tensor], Float[Tensor, "batch tokens"]]
) -> LossOutput:
    """`policy_loss` plus ``distill_weight`` times the token mean of a distillation term.

    Args:
        inputs: without teacher log-probabilities the term is 0.
        term: from the inputs, the teacher's log-probabilities and the mask of the response tokens that have a teacher
            to ``[B, L]``, 0 elsewhere. The mean runs over *all* response tokens.

    Returns:
        The loss and the metrics of `policy_loss`, and ``distillation``.

    Raises:
        ValueError: a wrong shape, or something the settings need is missing.
    """
    base = policy_loss(inputs)
    if inputs.teacher_log_probs is None or inputs.teacher_mask is None:
        return LossOutput(base.loss, base.metrics | {"distillation": 0.0})
    require_matrix("teacher_log_probs", inputs.teacher_log_probs, inputs.log_probs.shape)
    require_matrix("teacher_mask", inputs.teacher_mask, inputs.log_probs.shape)
    tokens = inputs.response_mask != 0
    values = term(inputs, inputs.teacher_log_probs, tokens & (inputs.teacher_mask != 0))
    mean = weighted_mean(values, token_weights(tokens, inputs.sample_weights, inputs.log_probs), inputs.total_weight)
    loss = base.loss + inputs.settings.distill_weight * mean
    return LossOutput(loss, base.metrics | {"loss": float(loss.detach()), "distillation": float(mean.detach())})


@dataclass(frozen=True, slots=True)
class Surrogate:
    """PPO's loss by token, before averaging, with what was clipped (1.0 or 0.0); all ``[B, L]`` and 0 outside
    the response."""

    loss: Float[Tensor, "batch tokens"]
    log_ratio: Float[Tensor, "batch tokens"]
    clipped: Float[Tensor, "batch tokens"]
    dual_clipped: Float[Tensor, "batch tokens"]


def ppo_clip(
    log_probs: Float[Tensor, "batch tokens"],
    old_log_probs: Float[Tensor, "batch tokens"],
    advantages: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    settings: LossSettings | None = None,
) -> Surrogate:
    """The clipped surrogate of PPO (arXiv 1707.06347) with dual clip (arXiv 1912.09729), by token.

    With ``r = exp(log_probs - old_log_probs)``, the log-ratio limited to +-20:

        loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),    and for A < 0 at most -A * dual_clip.
    """
    settings = settings or LossSettings()
    require_matrix("log_probs", log_probs)
    for name, value in (
        ("old_log_probs", old_log_probs),
        ("advantages", advantages),
        ("response_mask", response_mask),
    ):
        require_matrix(name, value, log_probs.shape)
    tokens = response_mask != 0
    # Padding is replaced before exp(), so that neither it nor its gradient can become NaN.
    log_ratio = torch.where(tokens, log_probs - old_log_probs.detach(), 0.0).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    advantage = torch.where(tokens, advantages.detach(), 0.0)
    ratio = log_ratio.exp()
    free = -advantage * ratio
    limited = -advantage * ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    loss = torch.maximum(free, limited)
    dual_clipped = torch.zeros_like(loss)
    if settings.dual_clip is not None:
        ceiling = torch.where(advantage < 0, -advantage * settings.dual_clip, math.inf)
        dual_clipped = (loss > ceiling).to(loss.dtype)
        loss = torch.minimum(loss, ceiling)
    return Surrogate(loss, log_ratio, (limited > free).to(loss.dtype), dual_clipped)


def kl_divergence(
    log_probs: Float[Tensor, "batch tokens"],
    ref_log_probs: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    estimator: KlEstimator = "k3",
) -> Float[Tensor, "batch tokens"]:
    """Estimates of KL(pi || pi_ref) from sampled tokens, by token.

    With ``l = log pi - log pi_ref``: k1 = l (unbiased, can be negative), k2 = l^2 / 2 (biased, low variance),
    k3 = exp(-l) - 1 + l (unbiased, never negative). As in the reference implementation k3 limits l to +-20
    and itself to 10.
    """
    require_matrix("log_probs", log_probs)
    require_matrix("ref_log_probs", ref_log_probs, log_probs.shape)
    require_matrix("response_mask", response_mask, log_probs.shape)
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f"unknown KL estimator {estimator!r}; allowed: {list(KL_ESTIMATORS)}")
    log_ratio = torch.where(response_mask != 0, log_probs - ref_log_probs.detach(), 0.0)
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    log_ratio = log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return ((-log_ratio).exp() - 1 + log_ratio).clamp(max=_K3_LIMIT)


def entropy(logits: Float[Tensor, "*positions vocabulary"]) -> Float[Tensor, "*positions"]:
    """Entropy in nats of the distribution behind `logits`; a token forbidden by a logit of -inf counts as
    impossible."""
    log_probs = logits.log_softmax(-1)
    # p log p is 0 at p = 0; written so that the gradient there is 0 too, and not NaN.
    return -(log_probs.exp() * log_probs.masked_fill(log_probs == -math.inf, 0.0)).sum(-1)


def token_weights(
    response_mask: Shaped[Tensor, "batch tokens"],
    sample_weights: Any | None = None,
    like: Tensor | None = None,
) -> Float[Tensor, "batch tokens"]:
    """The weight of each token in a token mean: its sample's weight on response tokens, 0 elsewhere; dtype
    and device of `like`."""
    require_matrix("response_mask", response_mask)
    like = torch.zeros((), device=response_mask.device) if like is None else like
    weights = (response_mask != 0).to(like.device, like.dtype)
    if sample_weights is None:
        return weights
    column = require_column("sample_weights", sample_weights, response_mask.shape[0], like.device).to(like.dtype)
    if not bool((column >= 0).all()):
        raise ValueError(f"sample_weights must be >= 0, got {column.tolist()}")
    return weights * column[:, None]


def weighted_mean(
    values: Float[Tensor, "batch tokens"],
    weights: Float[Tensor, "batch tokens"],
    total_weight: float | None = None,
) -> Float[Tensor, ""]:
    """``sum(weights * values) / total_weight`` over the tokens whose weight is not 0; 0 if there are none.

    `total_weight` defaults to the sum of the weights.
    """
    if total_weight is not None and not total_weight > 0:
        raise ValueError(f"total_weight must be > 0, got {total_weight}")
    total = float(weights.sum()) if total_weight is None else total_weight
    return (torch.where(weights != 0, values, 0.0) * weights).sum() / (total or 1.0)
