"""Advantages: how much better than expected each response token was.

Pure functions of tensors. A row is one *step sample* (the prompt of one step and the response to it), a
column one response token; B samples, L tokens. `outcome_advantage` is GRPO's group-relative advantage,
`rloo_advantage` the leave-one-out one, `skill_shift` is what a skill changes in the log-probability of the tokens
that were sampled, `opid_advantage` adds outcome and shifts as OPID does. `opid_agents.algorithms.gigpo` and
`opid_agents.algorithms.distillation` have the others.

Nothing here carries gradients: advantages are constants of the loss.

Sources: OPID (arXiv 2606.26790), GRPO (DeepSeekMath, arXiv 2402.03300), RLOO (arXiv 2402.14740).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from opid_agents.algorithms.shapes import group_index, require_matrix, sample_mask

Mode = Literal["mean_std_norm", "mean_norm"]
MODES: tuple[str, ...] = get_args(Mode)
EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Advantage:
    """Advantages and what they are made of.

    ``advantages = outcome + episode_weight * episode_shift + step_weight * step_shift + extra``, all of shape
    ``[B, L]`` and 0 outside the response.

    Attributes:
        advantages: what the loss uses.
        outcome: the outcome term A_ep.
        episode_shift, step_shift: Delta of the episode and of the step skill, *before* weighting; 0 where no
            skill is routed.
        episode_weight, step_weight: the weights that were used; 0 where the shifts do not enter as a sum.
        metrics: figures to log.
        extra: what an algorithm adds besides: GiGPO's state term, RLSD's re-weighting; None: nothing.
    """

    advantages: Float[Tensor, "batch tokens"]
    outcome: Float[Tensor, "batch tokens"]
    episode_shift: Float[Tensor, "batch tokens"]
    step_shift: Float[Tensor, "batch tokens"]
    episode_weight: float
    step_weight: float
    metrics: dict[str, float]
    extra: Float[Tensor, "batch tokens"] | None = None

    @property
    def skill_term(self) -> Float[Tensor, "batch tokens"]:
        """The weighted shifts."""
        return self.episode_weight * self.episode_shift + self.step_weight * self.step_shift


@torch.no_grad()
def outcome_advantage(
    token_level_rewards: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    task_ids: Any,
    trajectory_ids: Any = None,
    *,
    mode: Mode = "mean_std_norm",
    epsilon: float = EPSILON,
) -> Float[Tensor, "batch tokens"]:
    """Group-relative outcome advantage of step samples: GRPO (arXiv 2402.03300), as OPID's reference computes it.

    The score of sample i is ``S_i = sum_l token_level_rewards[i, l]``. With the mean and the unbiased
    standard deviation of S over *all step samples* of the task's group, so that long trajectories weigh more,

        A[i, l] = (S_i - mean) / (std + epsilon)     on response tokens, 0 elsewhere.

    ``mean_norm`` leaves out the division. A group of one sample has mean 0 and standard deviation 1: its
    advantage is its score.

    Every row counts as a sample of its group, even one without response tokens; a caller who pads the batch
    gives the padding rows a task id of their own.

    Args:
        token_level_rewards: rewards by token; where in the row they stand does not matter.
        response_mask: bool or numbers, not 0 on response tokens.
        task_ids: the group of each sample, B ids; see `opid_agents.algorithms.shapes.group_index`.
        trajectory_ids: None, or B ids: mean and standard deviation then run over trajectories, each
            counting once, by its first sample.
        mode: ``mean_std_norm`` or ``mean_norm``.
        epsilon: added to the standard deviation.

    Returns:
        ``[B, L]``, float32 (float64 if the rewards are).

    Raises:
        ValueError: a wrong shape, number of ids, or mode.
    """
    require_mode(mode)
    scores, group, counted = _scores(token_level_rewards, response_mask, task_ids, trajectory_ids)
    statistics = group_statistics(scores, group, counted)
    single = statistics.count == 1
    mean, std = statistics.mean.masked_fill(single, 0.0), statistics.std.masked_fill(single, 1.0)
    advantage = scores - mean[group]
    if mode == "mean_std_norm":
        advantage = advantage / (std[group] + epsilon)
    return spread(advantage, response_mask, token_level_rewards)


@torch.no_grad()
def rloo_advantage(
    token_level_rewards: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    task_ids: Any,
    trajectory_ids: Any = None,
) -> Float[Tensor, "batch tokens"]:
    """The score less the mean of the *other* members of the group (RLOO, arXiv 2402.14740).

    With n members of mean score m, ``A_i = (S_i - m) n / (n - 1)``; a group of one has its score as advantage.

    Args:
        token_level_rewards, response_mask, task_ids: see `outcome_advantage`.
        trajectory_ids: B ids; the members of a group are its trajectories, each counting once, by its first sample.
            None: its members are its step samples.

    Returns:
        ``[B, L]``, as `outcome_advantage`.

    Raises:
        ValueError: a wrong shape or number of ids.
    """
    scores, group, counted = _scores(token_level_rewards, response_mask, task_ids, trajectory_ids)
    statistics = group_statistics(scores, group, counted)
    single = statistics.count == 1
    mean = statistics.mean.masked_fill(single, 0.0)
    factor = (statistics.count / (statistics.count - 1)).masked_fill(single, 1.0)
    return spread((scores - mean[group]) * factor[group], response_mask, token_level_rewards)


@torch.no_grad()
def skill_shift(
    teacher_log_probs: Float[Tensor, "batch tokens"],
    old_log_probs: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    routed: Shaped[Tensor, " batch"],
    *,
    center: bool = False,
    normalize: bool = False,
    clip: float | None = None,
    epsilon: float = EPSILON,
) -> Float[Tensor, "batch tokens"]:
    """What the skill changes: Delta = log pi_old(y | prompt + skill) - log pi_old(y | prompt).

    OPID computes it in its stages 4 and 5.

    Args:
        teacher_log_probs: of the sampled tokens, under the prompt with the skill. Rows that are not routed
            and tokens outside the response are never read: they may hold anything, NaN too.
        old_log_probs: of the same tokens, under the prompt they were sampled from.
        response_mask: bool or numbers, not 0 on response tokens.
        routed: bool or numbers ``[B]``, not 0 where the sample has this skill.
        center: subtract the mean over all routed response tokens. On the policy's own samples the mean of Delta
            is -KL(old || teacher) <= 0, so that without this even successes are punished a little.
        normalize: subtract that mean and divide by the population standard deviation (+ epsilon); where that is
            <= epsilon only the mean is subtracted.
        clip: then limit to ``[-clip, clip]``; None: no limit.
        epsilon: see `normalize`.

    Returns:
        ``[B, L]``, 0 on what is not routed. A routed response token that is NaN stays NaN, so that the update
        can be refused.

    Raises:
        ValueError: a wrong shape, or a clip that is not positive.
    """
    require_matrix("old_log_probs", old_log_probs)
    require_matrix("teacher_log_probs", teacher_log_probs, old_log_probs.shape)
    require_matrix("response_mask", response_mask, old_log_probs.shape)
    _require_clip(clip)
    rows = sample_mask("routed", routed, old_log_probs.shape[0], old_log_probs.device)
    used = (response_mask != 0) & rows[:, None]
    dtype = _working_dtype(old_log_probs, teacher_log_probs)
    # torch.where and not a product with the mask: 0 * NaN is NaN.
    shift = torch.where(used, teacher_log_probs.to(dtype) - old_log_probs.to(dtype), 0.0)
    if (center or normalize) and bool(used.any()):
        values = shift[used]
        mean, std = values.mean(), values.std(correction=0)
        shift = torch.where(used, shift - mean, 0.0)
        if normalize and float(std) > epsilon:
            shift = shift / (std + epsilon)
    return shift if clip is None else shift.clamp(-clip, clip)


@torch.no_grad()
def opid_advantage(
    token_level_rewards: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    task_ids: Any,
    old_log_probs: Float[Tensor, "batch tokens"],
    episode_log_probs: Float[Tensor, "batch tokens"] | None,
    step_log_probs: Float[Tensor, "batch tokens"] | None,
    episode_mask: Shaped[Tensor, " batch"] | None,
    step_mask: Shaped[Tensor, " batch"] | None,
    *,
    trajectory_ids: Any = None,
    mode: Mode = "mean_std_norm",
    episode_weight: float = 0.001,
    step_weight: float = 0.001,
    center: bool = False,
    normalize: bool = False,
    clip: float | None = None,
) -> Advantage:
    """OPID's advantage (arXiv 2606.26790): outcome plus weighted skill shifts.

        A[i, l] = A_ep[i, l] + episode_weight * Delta_ep[i, l] + step_weight * Delta_step[i, l]

    The two shifts are centred, normalised and clipped each on its own. A sample with neither mask carries no skill
    term; with critical-first routing no sample has both, in mode ``additive`` it may.

    Args:
        token_level_rewards, response_mask, task_ids, trajectory_ids, mode: see `outcome_advantage`.
        old_log_probs: of the sampled tokens under the prompt they were sampled from.
        episode_log_probs, step_log_probs: of the same tokens with the episode / the step skill in the prompt;
            see `skill_shift`. None is allowed where no sample is routed to that skill.
        episode_mask, step_mask: ``[B]``, which samples are scored with that skill; None: none.
        episode_weight, step_weight: finite. The reference's default is 0.001 for both. A term with weight 0
            is not computed.
        center, normalize, clip: see `skill_shift`.

    Returns:
        The advantages, their parts, and metrics: ``advantage/mean``, ``advantage/abs_mean`` and, for
        `outcome` and both weighted shifts, ``advantage/<part>_abs_mean``, all over response tokens.

    Raises:
        ValueError: a wrong shape, mode, weight or clip, or samples routed to a skill whose log-probabilities
            are missing.
    """
    outcome = outcome_advantage(token_level_rewards, response_mask, task_ids, trajectory_ids, mode=mode)
    require_matrix("old_log_probs", old_log_probs, token_level_rewards.shape)
    _require_clip(clip)
    episode, step = (
        _one_shift(name, teacher, routed, weight, old_log_probs, response_mask, center, normalize, clip)
        for name, teacher, routed, weight in (
            ("episode", episode_log_probs, episode_mask, episode_weight),
            ("step", step_log_probs, step_mask, step_weight),
        )
    )
    return make_advantage(
        outcome,
        response_mask,
        episode_shift=episode,
        step_shift=step,
        episode_weight=episode_weight,
        step_weight=step_weight,
    )


def make_advantage(
    outcome: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    *,
    episode_shift: Float[Tensor, "batch tokens"] | None = None,
    step_shift: Float[Tensor, "batch tokens"] | None = None,
    episode_weight: float = 0.0,
    step_weight: float = 0.0,
    extra: Float[Tensor, "batch tokens"] | None = None,
) -> Advantage:
    """The sum of the parts, with its metrics; a shift that is None is 0."""
    none = torch.zeros_like(outcome)
    episode_shift = none if episode_shift is None else episode_shift
    step_shift = none if step_shift is None else step_shift
    parts = {"outcome": outcome}
    for name, weight, shift in (("episode", episode_weight, episode_shift), ("step", step_weight, step_shift)):
        # A shift of weight 0 is shown and not added: it may be NaN.
        parts[name] = weight * shift if weight != 0 else none
    if extra is not None:
        parts["extra"] = extra
    total = outcome.clone()
    for part in list(parts.values())[1:]:
        total = total + part
    tokens = response_mask != 0
    metrics = {"advantage/mean": _mean(total, tokens), "advantage/abs_mean": _mean(total.abs(), tokens)}
    metrics |= {f"advantage/{name}_abs_mean": _mean(part.abs(), tokens) for name, part in parts.items()}
    return Advantage(
        total, outcome, episode_shift, step_shift, float(episode_weight), float(step_weight), metrics, extra
    )


@dataclass(frozen=True, slots=True)
class GroupStatistics:
    """Of the scores of each group: how many, their mean, their unbiased standard deviation (NaN for one); ``[G]``."""

    count: Float[Tensor, " groups"]
    mean: Float[Tensor, " groups"]
    std: Float[Tensor, " groups"]


def group_statistics(
    scores: Float[Tensor, " batch"], group: Int[Tensor, " batch"], counted: Bool[Tensor, " batch"] | None = None
) -> GroupStatistics:
    """Statistics by group, over the samples that are `counted` (None: all of them).

    In float64, where equal scores have a mean equal to them, exactly: a group without variance gets an advantage of 0
    and not rounding noise over epsilon.
    """
    scores = scores.double()
    groups = int(group.max()) + 1 if len(group) else 0
    if counted is not None:
        scores, group = scores[counted], group[counted]
    count = torch.zeros(groups, dtype=torch.float64).index_add(0, group, torch.ones_like(scores))
    mean = torch.zeros_like(count).index_add(0, group, scores) / count
    squares = torch.zeros_like(count).index_add(0, group, (scores - mean[group]).square())
    return GroupStatistics(count, mean, (squares / (count - 1)).sqrt())


def spread(
    values: Float[Tensor, " batch"], response_mask: Shaped[Tensor, "batch tokens"], like: Tensor
) -> Float[Tensor, "batch tokens"]:
    """One value a sample on each of its response tokens, 0 elsewhere; device and (at least float32) dtype of `like`."""
    values = values.to(like.device, _working_dtype(like))
    return torch.where(response_mask != 0, values[:, None], 0.0)


def require_mode(mode: str) -> None:
    """Check the name of a mode.

    Raises:
        ValueError: an unknown one.
    """
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; allowed: {list(MODES)}")


def _scores(
    token_level_rewards: Tensor, response_mask: Tensor, task_ids: Any, trajectory_ids: Any
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Score and group of each sample, and which ones count: all (None), or the first of each trajectory."""
    require_matrix("token_level_rewards", token_level_rewards)
    require_matrix("response_mask", response_mask, token_level_rewards.shape)
    batch = token_level_rewards.shape[0]
    scores = token_level_rewards.sum(-1).to("cpu", torch.float64)
    group = group_index(task_ids, batch)
    if trajectory_ids is None:
        return scores, group, None
    trajectory = group_index(trajectory_ids, batch, "trajectory_ids")
    # Pairs, because ids may be unique within their task only.
    pair = group_index(list(zip(group.tolist(), trajectory.tolist(), strict=True)), batch)
    first = torch.ones(batch, dtype=torch.bool)
    first[1:] = pair[1:] > pair.cummax(0).values[:-1]
    return scores, group, first


def _one_shift(
    name: str,
    teacher: Tensor | None,
    routed: Any,
    weight: float,
    old_log_probs: Tensor,
    response_mask: Tensor,
    center: bool,
    normalize: bool,
    clip: float | None,
) -> Tensor:
    if not math.isfinite(weight):
        raise ValueError(f"{name}_weight must be a finite number, got {weight}")
    batch, device = old_log_probs.shape[0], old_log_probs.device
    if routed is None:
        routed = torch.zeros(batch, dtype=torch.bool)
    rows = sample_mask(f"{name}_mask", routed, batch, device)
    if teacher is not None:
        require_matrix(f"{name}_log_probs", teacher, old_log_probs.shape)
    elif weight != 0 and bool(rows.any()):
        raise ValueError(
            f"{name}_log_probs is None, but {name}_mask routes {int(rows.sum())} of {batch} samples to that skill; "
            f"give their log-probabilities or a mask without them"
        )
    if teacher is None or weight == 0:
        return torch.zeros_like(old_log_probs, dtype=_working_dtype(old_log_probs))
    return skill_shift(teacher, old_log_probs, response_mask, rows, center=center, normalize=normalize, clip=clip)


def _require_clip(clip: float | None) -> None:
    if clip is not None and not clip > 0:
        raise ValueError(f"clip must be a positive number or None, got {clip}")


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 if any of the tensors is, else float32, also for half precision and integers.

    Differences of log-probabilities are small against the numbers themselves.
    """
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _mean(values: Tensor, where: Tensor) -> float:
    return float(values[where].mean()) if bool(where.any()) else 0.0
