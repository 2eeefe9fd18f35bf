"""Diagnostics: what the two signals of OPID do to each other, measured at every update.

They answer questions that success rates leave open. How much of the advantage comes from skills? Do skills
say something the outcome does not (`correlation`)? Was the re-scored prompt the sampled one, plus a skill and
nothing else (`occupancy_share`)? Does the skill term push against the outcome, on successes of all things
(`negative_distillation`)?

Pure functions. A figure that is not defined (no routed token, no success) is None and not NaN, so that it
survives JSON.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from opid_agents.algorithms.advantages import Advantage
from opid_agents.algorithms.shapes import require_matrix, sample_mask


@dataclass(frozen=True, slots=True)
class NegativeDistillation:
    """Where the skill term pushes against the outcome.

    Attributes:
        opposed_on_success, opposed_on_failure: share of the routed tokens of successful / failed episodes
            whose weighted shift and outcome advantage have opposite signs; None without such tokens. On
            failures that is often right: a good step of a failed episode deserves it. On successes it means
            that a skill made what worked less likely.
        shift_on_success, shift_on_failure: mean weighted shift of the same tokens. Its expectation on the
            policy's own samples is -KL(old || teacher) <= 0, so an uncentred term punishes successes too.
    """

    opposed_on_success: float | None
    opposed_on_failure: float | None
    shift_on_success: float | None
    shift_on_failure: float | None

    def alarm(self, threshold: float = 0.5) -> bool:
        """Whether the skills push successful episodes too often against their outcome.

        That is when more than `threshold` (a share) of the routed tokens of successful episodes are pushed against it.
        """
        return self.opposed_on_success is not None and self.opposed_on_success > threshold


def advantage_shares(advantage: Advantage, response_mask: Shaped[Tensor, "batch tokens"]) -> dict[str, float]:
    """Shares of the parts of an advantage in the sum of their absolute values, over response tokens.

    The parts are |A_ep|, |w_ep Delta_ep|, |w_step Delta_step| and what else an algorithm adds (`Advantage.extra`).

    Returns:
        ``outcome``, ``episode``, ``step`` and ``extra``; they sum to 1, or are all 0 where there is no signal at all.
    """
    require_matrix("response_mask", response_mask, advantage.outcome.shape)
    tokens = response_mask != 0
    sizes = {
        "outcome": float(advantage.outcome[tokens].abs().sum()),
        "episode": float((advantage.episode_weight * advantage.episode_shift[tokens]).abs().sum()),
        "step": float((advantage.step_weight * advantage.step_shift[tokens]).abs().sum()),
        "extra": 0.0 if advantage.extra is None else float(advantage.extra[tokens].abs().sum()),
    }
    total = sum(sizes.values())
    return {name: size / total if total > 0 else 0.0 for name, size in sizes.items()}


def routed_shares(response_mask: Shaped[Tensor, "batch tokens"], episode_mask: Any, step_mask: Any) -> dict[str, float]:
    """Shares of the response tokens that are routed to a skill; 0 without tokens.

    The keys are ``episode``, ``step`` (routed to that skill) and ``any`` (to either).
    """
    require_matrix("response_mask", response_mask)
    tokens = (response_mask != 0).sum(-1)
    batch, total = len(tokens), int(tokens.sum())
    episode = _rows("episode_mask", episode_mask, batch, tokens.device)
    step = _rows("step_mask", step_mask, batch, tokens.device)
    return {
        name: int(tokens[rows].sum()) / total if total else 0.0
        for name, rows in (("episode", episode), ("step", step), ("any", episode | step))
    }


def correlation(
    x: Float[Tensor, "batch tokens"], y: Float[Tensor, "batch tokens"], where: Shaped[Tensor, "batch tokens"]
) -> float | None:
    """Pearson's correlation of `x` and `y` over the entries where `where` is not 0.

    Between the outcome advantage and a shift: near 1 the skill repeats the outcome, near 0 it adds to it,
    below 0 it works against it.

    Returns:
        None for fewer than two entries or where one of the two does not vary.
    """
    require_matrix("x", x)
    require_matrix("y", y, x.shape)
    require_matrix("where", where, x.shape)
    used = where != 0
    a, b = x[used].double(), y[used].double()
    # Compared before subtracting a mean, whose rounding would pass for variation.
    if len(a) < 2 or bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return None
    a, b = a - a.mean(), b - b.mean()
    value = float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())
    return max(-1.0, min(1.0, value)) if math.isfinite(value) else None


def occupancy_share(sampled: Sequence[Any], rescored_without_skill: Sequence[Any]) -> float | None:
    """Share of prompts that are, skill removed, exactly the prompt the response was sampled from.

    Anything below 1.0 is a bug.

    Args:
        sampled: the prompts of the rollout: texts, bytes or lists of token ids.
        rescored_without_skill: the re-scored prompts without their skill parts, in the same order and form.

    Returns:
        The share; None for no prompts.

    Raises:
        ValueError: different numbers of prompts.
    """
    if len(sampled) != len(rescored_without_skill):
        raise ValueError(
            f"one re-scored prompt for each sampled one is needed, got {len(rescored_without_skill)} for {len(sampled)}"
        )
    if not sampled:
        return None
    same = sum(bool(a == b) for a, b in zip(sampled, rescored_without_skill, strict=True))
    return same / len(sampled)


def negative_distillation(
    outcome: Float[Tensor, "batch tokens"],
    shift: Float[Tensor, "batch tokens"],
    routed_tokens: Shaped[Tensor, "batch tokens"],
    success: Any,
) -> NegativeDistillation:
    """Where the (weighted) skill shift opposes the outcome advantage; see `NegativeDistillation`.

    Args:
        outcome: the outcome advantage.
        shift: the skill term added to it.
        routed_tokens: not 0 on response tokens of routed samples.
        success: ``[B]``, not 0 for samples of successful episodes.
    """
    require_matrix("outcome", outcome)
    require_matrix("shift", shift, outcome.shape)
    require_matrix("routed_tokens", routed_tokens, outcome.shape)
    rows = sample_mask("success", success, outcome.shape[0], outcome.device)
    # Signs and not the product, which underflows to 0 for small numbers.
    opposed = (outcome.sign() * shift.sign() < 0).float()
    won = (routed_tokens != 0) & rows[:, None]
    lost = (routed_tokens != 0) & ~rows[:, None]
    return NegativeDistillation(_mean(opposed, won), _mean(opposed, lost), _mean(shift, won), _mean(shift, lost))


def diagnose(
    advantage: Advantage,
    response_mask: Shaped[Tensor, "batch tokens"],
    episode_mask: Any,
    step_mask: Any,
    success: Any,
) -> dict[str, float | None]:
    """All of the above for one update, under the names they are logged by.

    Args:
        advantage: what an algorithm returned.
        response_mask: ``[B, L]``, not 0 on response tokens.
        episode_mask, step_mask: ``[B]`` or None, as given to the algorithm.
        success: ``[B]``, not 0 for samples of successful episodes.

    Returns:
        ``share/*`` (of the advantage), ``routed/*`` (of the tokens), ``correlation/episode`` and
        ``correlation/step`` (with the outcome, over the tokens routed to that skill), ``opposed/success`` and
        ``opposed/failure``, ``shift/success`` and ``shift/failure``, and ``alarm/negative_distillation`` (1.0
        or 0.0).
    """
    require_matrix("response_mask", response_mask, advantage.outcome.shape)
    tokens = response_mask != 0
    batch, device = tokens.shape[0], tokens.device
    episode = tokens & _rows("episode_mask", episode_mask, batch, device)[:, None]
    step = tokens & _rows("step_mask", step_mask, batch, device)[:, None]
    # Algorithms that use their teacher otherwise than as a sum have weights of 0; what it says counts all the same.
    summed = advantage.episode_weight != 0 or advantage.step_weight != 0
    term = advantage.skill_term if summed else advantage.episode_shift + advantage.step_shift
    opposition = negative_distillation(advantage.outcome, term, episode | step, success)
    figures: dict[str, float | None] = {}
    figures |= {f"share/{name}": value for name, value in advantage_shares(advantage, response_mask).items()}
    figures |= {
        f"routed/{name}": value for name, value in routed_shares(response_mask, episode_mask, step_mask).items()
    }
    return figures | {
        "correlation/episode": correlation(advantage.outcome, advantage.episode_shift, episode),
        "correlation/step": correlation(advantage.outcome, advantage.step_shift, step),
        "opposed/success": opposition.opposed_on_success,
        "opposed/failure": opposition.opposed_on_failure,
        "shift/success": opposition.shift_on_success,
        "shift/failure": opposition.shift_on_failure,
        "alarm/negative_distillation": float(opposition.alarm()),
    }


def _rows(name: str, mask: Any, batch: int, device: torch.device) -> Tensor:
    return sample_mask(name, [False] * batch if mask is None else mask, batch, device)


def _mean(values: Tensor, where: Tensor) -> float | None:
    mean = float(values[where].mean())  # NaN without tokens
    return mean if math.isfinite(mean) else None
