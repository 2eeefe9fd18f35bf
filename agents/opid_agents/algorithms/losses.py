"""Losses: from log-probabilities and advantages to one number to minimise.

Pure functions of flat vectors: n response tokens of B step samples, one after the other, without padding. Which sample
a token belongs to is in `LossInputs.sample`, so sums, means and ratios by sample (`opid_agents.algorithms.sequences`)
do not depend on how tokens were packed for the forward pass. The one entry point for an algorithm is `policy_loss`: one
record in, one record out.

Sources: PPO (arXiv 1707.06347), dual clip (arXiv 1912.09729), the KL estimators k1, k2, k3 (J. Schulman,
"Approximating KL divergence", 2020), the constant divisor (Dr. GRPO, arXiv 2503.20783).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from pydantic import Field
from torch import Tensor

from opid_agents.algorithms.distributions import Distribution
from opid_agents.algorithms.shapes import require_column, require_like, require_vector
from opid_agents.settings import Settings

KlEstimator = Literal["k1", "k2", "k3"]
KL_ESTIMATORS: tuple[str, ...] = get_args(KlEstimator)
Aggregation = Literal["token_mean", "sequence_mean", "constant"]

# The reference implementation's guards against overflow; beyond them the gradient is 0.
_LOG_RATIO_LIMIT = 20.0
_K3_LIMIT = 10.0


class LossSettings(Settings):
    """The constants of a loss that all algorithms share; those of a single one are its `constants`."""

    clip_low: float = Field(0.2, ge=0, lt=1, description="the probability ratio counts only down to 1 - clip_low")
    clip_high: float = Field(0.2, ge=0, description="the probability ratio counts only up to 1 + clip_high")
    dual_clip: float | None = Field(
        3.0, gt=1, description="largest loss of a token with a negative advantage A, in units of |A|; none: no limit"
    )
    aggregation: Aggregation = Field(
        "token_mean",
        description="token_mean: each token counts the same; sequence_mean: each reply counts the same; constant: sum "
        "of each reply's tokens, divided by the maximum tokens per reply (Dr. GRPO)",
    )
    kl_coef: float = Field(
        0.0, ge=0, description="coefficient of the KL divergence from the starting policy; 0: no reference is kept"
    )
    kl_estimator: KlEstimator = Field("k3", description="estimator of that divergence")
    entropy_coef: float = Field(0.0, description="coefficient of the entropy bonus")
    importance_limit: float = Field(
        2.0, gt=0, description="with staleness: largest weight of a token that older weights sampled"
    )


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Everything a loss may use, for a batch or a part of one: n tokens of B samples, V tokens in the vocabulary.

    A sample's tokens need not all be here; whatever is computed by sample (`opid_agents.algorithms.sequences`) refuses
    a part of one. The training loop never splits a sample.

    Attributes:
        log_probs: ``[n]`` of the sampled tokens under the policy being trained; carries the gradient.
        old_log_probs: ``[n]`` under the policy that sampled them, or with `importance` under that before the updates.
        advantages: ``[n]``.
        sample: ``[n]``, the sample of each token, an index into what is given by sample.
        position: ``[n]``, each token's position in its reply, from 0.
        lengths: ``[B]``, number of tokens of each sample's reply.
        steps: ``[B]``, each sample's step in its episode, from 0.
        valid: ``[B]``, whether an action could be read from the reply.
        success: ``[B]``, whether the episode succeeded.
        state_gap: ``[B]``, how far the discounted return after each step stayed behind the best one after the same
            state (`opid_agents.algorithms.gigpo.state_gap`).
        ref_log_probs: ``[n]`` under the reference policy; needed if ``settings.kl_coef`` is not 0.
        entropies: ``[n]`` of the policy's distribution at each token; needed, with its gradient, if
            ``settings.entropy_coef`` is not 0.
        teacher_log_probs: ``[n]`` under the frozen teacher with the skill in the prompt; for algorithms that distil.
        teacher_mask: ``[n]``, not 0 on the tokens that have a teacher.
        distribution: ``[n, V]``, log-probabilities of all tokens under the policy being trained, with gradient; for
            algorithms that ask for distributions.
        teacher_distribution: the same of the teacher, all tokens or the likeliest; rows without a teacher are never
            read.
        importance: ``[n]``, what each token's terms are multiplied by because older weights than those of
            `old_log_probs` sampled it; divisors do not count it. None: 1 each.
        sample_weights: ``[B]``, how often each sample counts: weight 2 equals the same sample twice. None: 1 each.
        total_tokens, total_samples: divisors of the means: the weighted numbers of tokens and samples of the *whole*
            batch, those included that have no gradient and are not here. None: of what is here. Given, the losses of
            the parts of a batch add up to the loss of the whole.
        max_tokens: maximum tokens per reply; needed for ``aggregation="constant"``.
        iteration: of the run, from 1, for constants with a schedule.
        settings: the constants that all algorithms share.
        constants: those of the algorithm (`opid_agents.algorithms.Algorithm.constants`).
    """

    log_probs: Float[Tensor, " tokens"]
    old_log_probs: Float[Tensor, " tokens"]
    advantages: Float[Tensor, " tokens"]
    sample: Int[Tensor, " tokens"]
    position: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " batch"]
    steps: Int[Tensor, " batch"] | None = None
    valid: Bool[Tensor, " batch"] | None = None
    success: Bool[Tensor, " batch"] | None = None
    state_gap: Float[Tensor, " batch"] | None = None
    ref_log_probs: Float[Tensor, " tokens"] | None = None
    entropies: Float[Tensor, " tokens"] | None = None
    teacher_log_probs: Float[Tensor, " tokens"] | None = None
    teacher_mask: Shaped[Tensor, " tokens"] | None = None
    distribution: Float[Tensor, "tokens vocabulary"] | None = None
    teacher_distribution: Distribution | None = None
    importance: Float[Tensor, " tokens"] | None = None
    sample_weights: Shaped[Tensor, " batch"] | None = None
    total_tokens: float | None = None
    total_samples: float | None = None
    max_tokens: int | None = None
    iteration: int = 1
    settings: LossSettings = field(default_factory=LossSettings)
    constants: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_padded(cls, response_mask: Shaped[Tensor, "batch tokens"], **values: Any) -> LossInputs:
        """Inputs from rows padded to one length.

        Args:
            response_mask: ``[B, L]``, not 0 on response tokens.
            values: the attributes; those given by token are ``[B, L]`` (the two distributions ``[B, L, V]`` and one of
                the flat tokens), all others as they are.

        >>> inputs = LossInputs.from_padded(
        ...     torch.tensor([[1, 1], [1, 0]]),
        ...     **{name: torch.zeros(2, 2) for name in ("log_probs", "old_log_probs", "advantages")},
        ... )
        >>> inputs.sample.tolist(), inputs.position.tolist(), inputs.lengths.tolist()
        ([0, 0, 1], [0, 1, 0], [2, 1])
        """
        tokens = response_mask != 0
        position = tokens.long().cumsum(-1) - 1
        flat: dict[str, Any] = {
            name: value[tokens] if isinstance(value, Tensor) and value.shape[:2] == tokens.shape else value
            for name, value in values.items()
        }
        return cls(sample=tokens.nonzero()[:, 0], position=position[tokens], lengths=tokens.sum(-1), **flat)

    def needed(self, name: str) -> Any:
        """An attribute that may be None.

        Raises:
            ValueError: it is None.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is None, but this loss needs it")
        return value


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss to call ``.backward()`` on, and figures to log.

    Each metric is a mean with the same weights and divisor as the loss, so the metrics of micro-batches add up too.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, float]


def policy_loss(inputs: LossInputs) -> LossOutput:
    """PPO-clip on the advantages, with KL and entropy terms, averaged as ``settings.aggregation`` says.

    The terms are plus ``kl_coef * KL(pi || pi_ref)`` and minus ``entropy_coef * entropy``.

    Returns:
        The loss and the metrics ``loss``, ``policy_loss``, ``clip_fraction`` (tokens where the clipped ratio
        is what counts), ``dual_clip_fraction``, ``old_kl`` (k1 estimate of KL(pi_old || pi)), and ``ref_kl``,
        ``entropy`` where they can be computed.

    Raises:
        ValueError: a wrong shape, or something the settings need is missing.
    """
    require_inputs(inputs)
    return surrogate_loss(inputs, ppo_clip(inputs.log_probs, inputs.old_log_probs, inputs.advantages, inputs.settings))


def surrogate_loss(inputs: LossInputs, surrogate: Surrogate) -> LossOutput:
    """As `policy_loss`, with another surrogate in place of PPO's."""
    settings = inputs.settings
    weights = token_weights(inputs)

    def mean(values: Tensor) -> Tensor:
        return (weights * values).sum()

    policy = mean(surrogate.loss)
    loss = policy
    metrics = {
        "policy_loss": policy,
        "clip_fraction": mean(surrogate.clipped),
        "dual_clip_fraction": mean(surrogate.dual_clipped),
        "old_kl": mean(-surrogate.log_ratio),
    }
    if inputs.ref_log_probs is not None:
        kl = mean(kl_divergence(inputs.log_probs, inputs.ref_log_probs, settings.kl_estimator))
        metrics["ref_kl"] = kl
        if settings.kl_coef != 0:
            loss = loss + settings.kl_coef * kl
    if inputs.entropies is not None:
        entropy = mean(inputs.entropies)
        metrics["entropy"] = entropy
        if settings.entropy_coef != 0:
            loss = loss - settings.entropy_coef * entropy
    return LossOutput(
        loss,
        {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in metrics.items()},
    )


def distillation_loss(
    inputs: LossInputs,
    term: Callable[[LossInputs], Float[Tensor, " tokens"]],
    *,
    weight: float,
    base: LossOutput | None = None,
) -> LossOutput:
    """`policy_loss` plus `weight` times the mean of a distillation term over *all* response tokens.

    Args:
        inputs: without a teacher the term is 0.
        term: from the inputs to ``[n]``; what it is on tokens without a teacher does not matter.
        weight: of the term.
        base: the loss to add to, of the same inputs; None: `policy_loss`.

    Returns:
        The loss and the metrics of the base, and ``distillation``.

    Raises:
        ValueError: a wrong shape, or something the settings need is missing.
    """
    base = policy_loss(inputs) if base is None else base
    if inputs.teacher_mask is None:
        return LossOutput(base.loss, base.metrics | {"distillation": 0.0})
    require_like("teacher_mask", inputs.teacher_mask, inputs.log_probs)
    used = inputs.teacher_mask != 0
    if inputs.teacher_log_probs is not None:
        require_like("teacher_log_probs", inputs.teacher_log_probs, inputs.log_probs)
        # What stands there without a teacher may be NaN, and 0 * NaN would be the gradient.
        filled = torch.where(used, inputs.teacher_log_probs, inputs.log_probs).detach()
        inputs = replace(inputs, teacher_log_probs=filled)
    mean = aggregate(torch.where(used, term(inputs), 0.0), inputs)
    loss = base.loss + weight * mean
    return LossOutput(loss, base.metrics | {"loss": float(loss.detach()), "distillation": float(mean.detach())})


def aggregate(values: Float[Tensor, " tokens"], inputs: LossInputs) -> Float[Tensor, ""]:
    """The mean of a value by token, as ``settings.aggregation`` says."""
    return (token_weights(inputs) * values).sum()


def token_weights(inputs: LossInputs) -> Float[Tensor, " tokens"]:
    """What each token's value is multiplied by in `aggregate`, divisors and all.

    With the weight w of a token's sample and its length m:

    - ``token_mean``: ``w / total_tokens``;
    - ``sequence_mean``: ``w / m / total_samples``;
    - ``constant``: ``w / max_tokens / total_samples``;

    each times the token's ``importance``, where there is one.

    Raises:
        ValueError: a wrong shape, a weight below 0, a divisor that is not positive, or no `max_tokens` where it is
            needed.
    """
    like, sample = inputs.log_probs, inputs.sample
    batch = len(inputs.lengths)
    weights = torch.ones(batch, dtype=like.dtype, device=like.device)
    if inputs.sample_weights is not None:
        weights = require_column("sample_weights", inputs.sample_weights, batch, like.device).to(like.dtype)
        if not bool((weights >= 0).all()):
            raise ValueError(f"sample_weights must be >= 0, got {weights.tolist()}")
    for name in ("total_tokens", "total_samples"):
        value = getattr(inputs, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be > 0, got {value}")
    by_token = weights[sample]
    weighted = by_token
    if inputs.importance is not None:
        require_like("importance", inputs.importance, like)
        weighted = by_token * inputs.importance.detach()
    if inputs.settings.aggregation == "token_mean":
        total = float(by_token.sum()) if inputs.total_tokens is None else inputs.total_tokens
        return weighted / (total or 1.0)
    if inputs.total_samples is None:
        here = torch.zeros(batch, dtype=torch.bool, device=sample.device).index_fill(0, sample, True)
        total = float(weights[here].sum())
    else:
        total = inputs.total_samples
    if inputs.settings.aggregation == "sequence_mean":
        return weighted / inputs.lengths.to(like)[sample] / (total or 1.0)
    if inputs.max_tokens is None:
        raise ValueError("max_tokens is None, but aggregation is 'constant'; give the maximum tokens per reply")
    return weighted / inputs.max_tokens / (total or 1.0)


@dataclass(frozen=True, slots=True)
class Surrogate:
    """PPO's loss by token, before averaging, with what was clipped (1.0 or 0.0); all ``[n]``."""

    loss: Float[Tensor, " tokens"]
    log_ratio: Float[Tensor, " tokens"]
    clipped: Float[Tensor, " tokens"]
    dual_clipped: Float[Tensor, " tokens"]


def ppo_clip(
    log_probs: Float[Tensor, " tokens"],
    old_log_probs: Float[Tensor, " tokens"],
    advantages: Float[Tensor, " tokens"],
    settings: LossSettings | None = None,
) -> Surrogate:
    """The clipped surrogate of PPO (arXiv 1707.06347) with dual clip (arXiv 1912.09729), by token.

    With ``r = exp(log_probs - old_log_probs)``, the log-ratio limited to +-20:

        loss = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)),    and for A < 0 at most -A * dual_clip.
    """
    settings = settings or LossSettings()
    require_like("old_log_probs", old_log_probs, log_probs)
    require_like("advantages", advantages, log_probs)
    log_ratio = (log_probs - old_log_probs.detach()).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    advantage = advantages.detach()
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
    log_probs: Float[Tensor, " tokens"],
    ref_log_probs: Float[Tensor, " tokens"],
    estimator: KlEstimator = "k3",
) -> Float[Tensor, " tokens"]:
    """Estimates of KL(pi || pi_ref) from sampled tokens, by token.

    With ``l = log pi - log pi_ref``: k1 = l (unbiased, can be negative), k2 = l^2 / 2 (biased, low variance),
    k3 = exp(-l) - 1 + l (unbiased, never negative). As in the reference implementation k3 limits l to +-20
    and itself to 10.
    """
    require_like("ref_log_probs", ref_log_probs, log_probs)
    if estimator not in KL_ESTIMATORS:
        raise ValueError(f"unknown KL estimator {estimator!r}; allowed: {list(KL_ESTIMATORS)}")
    log_ratio = log_probs - ref_log_probs.detach()
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    log_ratio = log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return ((-log_ratio).exp() - 1 + log_ratio).clamp(max=_K3_LIMIT)


def require_inputs(inputs: LossInputs) -> None:
    """Check the shapes of a loss's inputs, and that what its settings need is there.

    Raises:
        ValueError: a wrong shape, or something is missing.
    """
    require_vector("log_probs", inputs.log_probs)
    for name in ("old_log_probs", "advantages", "sample", "position", "ref_log_probs", "entropies"):
        value = getattr(inputs, name)
        if value is not None:
            require_like(name, value, inputs.log_probs)
    for name, coefficient in (("ref_log_probs", "kl_coef"), ("entropies", "entropy_coef")):
        value = getattr(inputs.settings, coefficient)
        if value != 0 and getattr(inputs, name) is None:
            raise ValueError(f"{name} is None, but {coefficient} is {value}; give it or set {coefficient} to 0")
