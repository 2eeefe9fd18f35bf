"""GiGPO: credit for single steps, from siblings that stood in the same state (arXiv 2505.10978).

Pure functions. The rollouts of one task often come to the same state, named by its *anchor observation*, and leave it
by different actions; the discounted returns that followed tell these actions apart. No teacher and no critic is
needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from opid_agents.algorithms.advantages import (
    EPSILON,
    Advantage,
    Mode,
    group_statistics,
    make_advantage,
    outcome_advantage,
    require_mode,
    spread,
)
from opid_agents.algorithms.shapes import group_index, require_column, require_matrix


def anchor_groups(anchors: Sequence[str], task_ids: Any, *, similarity: float | None = None) -> Int[Tensor, " batch"]:
    """Group the samples of one task that share an anchor observation.

    Args:
        anchors: the text that names the state of each sample, B of them.
        task_ids: B ids; samples of different tasks are never in one group.
        similarity: None: anchors must be equal. A number: an anchor joins the first group of its task, in order of
            appearance, whose first member it resembles so much (`difflib.SequenceMatcher.ratio`); the reference uses
            0.95.

    Returns:
        The group of each sample, numbers from 0 in order of first appearance, on the CPU.

    Raises:
        ValueError: a similarity outside (0, 1], or different numbers of anchors and ids.

    >>> anchor_groups(["a hall", "a hall", "a hall"], ["t1", "t1", "t2"])
    tensor([0, 0, 1])
    """
    task = group_index(task_ids, len(anchors)).tolist()
    if similarity is None:
        return group_index(list(zip(task, anchors, strict=True)), len(anchors), "anchors")
    if not 0 < similarity <= 1:
        raise ValueError(f"similarity must be in (0, 1] or None, got {similarity}")
    groups: list[int] = []
    known: dict[tuple[int, str], int] = {}
    firsts: dict[int, list[tuple[int, SequenceMatcher[str]]]] = {}  # of each task: its groups by their first member
    for place in zip(task, anchors, strict=True):
        if place not in known:
            new = sum(map(len, firsts.values()))
            known[place] = _first_similar(place[1], firsts.setdefault(place[0], []), similarity, new)
        groups.append(known[place])
    return torch.tensor(groups, dtype=torch.long)


def _first_similar(anchor: str, firsts: list[tuple[int, SequenceMatcher[str]]], similarity: float, new: int) -> int:
    for number, matcher in firsts:
        matcher.set_seq1(anchor)
        # Two cheap upper bounds before the real thing.
        if (
            matcher.real_quick_ratio() >= similarity
            and matcher.quick_ratio() >= similarity
            and matcher.ratio() >= similarity
        ):
            return number
    firsts.append((new, SequenceMatcher(None, "", anchor)))
    return new


@torch.no_grad()
def state_advantage(
    step_returns: Float[Tensor, " batch"],
    response_mask: Shaped[Tensor, "batch tokens"],
    state_groups: Any,
    *,
    mode: Mode = "mean_norm",
    epsilon: float = EPSILON,
) -> Float[Tensor, "batch tokens"]:
    """How much more followed a step than the mean of its state's group; 0 for a state that was seen once.

    ``A[i, l] = (R_i - mean) / (std + epsilon)`` with the unbiased standard deviation; ``mean_norm`` leaves out the
    division.

    Args:
        step_returns: ``[B]``, discounted return from each step on.
        response_mask: ``[B, L]``, not 0 on response tokens.
        state_groups: B ids, equal for samples to compare; see `anchor_groups`.
        mode, epsilon: see above.

    Raises:
        ValueError: a wrong shape, number of ids, or mode.
    """
    require_mode(mode)
    require_matrix("response_mask", response_mask)
    batch = response_mask.shape[0]
    returns = require_column("step_returns", step_returns, batch, torch.device("cpu")).double()
    group = group_index(state_groups, batch, "state_groups")
    statistics = group_statistics(returns, group)
    advantage = returns - statistics.mean[group]
    if mode == "mean_std_norm":
        std = statistics.std.masked_fill(statistics.count == 1, 1.0)
        advantage = advantage / (std[group] + epsilon)
    return spread(advantage, response_mask, torch.as_tensor(step_returns))


def state_gap(step_returns: Any, state_groups: Any) -> Float[Tensor, " batch"]:
    """How far the return that followed each step stayed behind the best one of its state's group; 0 for the best.

    Args:
        step_returns: B numbers, discounted return from each step on.
        state_groups: B ids, equal for samples to compare; see `anchor_groups`.

    Raises:
        ValueError: a wrong shape or number of ids.

    >>> state_gap([1.0, 0.25, 0.5], ["hall", "hall", "cellar"]).tolist()
    [0.0, 0.75, 0.0]
    """
    batch = len(step_returns)
    returns = require_column("step_returns", step_returns, batch, torch.device("cpu")).double()
    group = group_index(state_groups, batch, "state_groups")
    best = torch.full((int(group.max()) + 1 if batch else 0,), -torch.inf, dtype=returns.dtype)
    return best.scatter_reduce(0, group, returns, "amax")[group] - returns


@torch.no_grad()
def gigpo_advantage(
    token_level_rewards: Float[Tensor, "batch tokens"],
    response_mask: Shaped[Tensor, "batch tokens"],
    task_ids: Any,
    step_returns: Float[Tensor, " batch"],
    anchors: Sequence[str],
    *,
    trajectory_ids: Any = None,
    mode: Mode = "mean_norm",
    state_weight: float = 1.0,
    similarity: float | None = None,
) -> Advantage:
    """GiGPO's advantage: the outcome's plus `state_weight` times the state's, both in the same mode.

    The outcome's mean and standard deviation run over step samples, as in the public implementation's default; with
    `trajectory_ids` over trajectories, as the paper writes it. What is taken from a step's return for an invalid
    action (the public implementation takes it from that step only) is the caller's business.

    Args:
        token_level_rewards, response_mask, task_ids, trajectory_ids, mode: see
            `opid_agents.algorithms.advantages.outcome_advantage`.
        step_returns, anchors: see `state_advantage` and `anchor_groups`.
        state_weight: w; 1 in the paper.
        similarity: see `anchor_groups`.

    Raises:
        ValueError: a wrong shape, number of ids, mode or similarity.
    """
    outcome = outcome_advantage(token_level_rewards, response_mask, task_ids, trajectory_ids, mode=mode)
    state = state_advantage(
        step_returns, response_mask, anchor_groups(anchors, task_ids, similarity=similarity), mode=mode
    )
    return make_advantage(outcome, response_mask, extra=state_weight * state.to(outcome))
