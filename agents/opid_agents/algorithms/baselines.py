"""Algorithms without a teacher: what every other one is compared with.

Each function here and in `opid_agents.algorithms.shaping` and `opid_agents.algorithms.auxiliary` is what one algorithm
makes of the records that all of them get; `opid_agents.algorithms.table` puts them together.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from opid_agents.algorithms.advantages import (
    Advantage,
    make_advantage,
    outcome_advantage,
    rloo_advantage,
    skill_shift,
)
from opid_agents.algorithms.algorithm import AdvantageInputs
from opid_agents.algorithms.gigpo import gigpo_advantage
from opid_agents.algorithms.losses import LossInputs, LossOutput, policy_loss, ppo_clip, require_inputs, surrogate_loss
from opid_agents.algorithms.sequences import sequence_log_ratio


def grpo(inputs: AdvantageInputs) -> Advantage:
    """The outcome alone (GRPO, arXiv 2402.03300). The shifts of whatever skills there are go to the diagnostics.

    Paper and code: the paper's mean and spread run over the trajectories of a group (``baseline="trajectories"``) and
    its loss is a mean over replies; OPID's and verl-agent's code takes them over all step samples, and the mean over
    tokens. The defaults are the code's.
    """
    episode, step = shifts(inputs)
    return make_advantage(outcome(inputs), inputs.response_mask, episode_shift=episode, step_shift=step)


def rloo(inputs: AdvantageInputs) -> Advantage:
    """The outcome less the mean of the group's other trajectories (RLOO, arXiv 2402.14740)."""
    return make_advantage(
        rloo_advantage(
            inputs.token_level_rewards, inputs.response_mask, inputs.task_ids, inputs.needed("trajectory_ids")
        ),
        inputs.response_mask,
    )


def gigpo(inputs: AdvantageInputs) -> Advantage:
    """The outcome, and how steps compare with others in the same state (GiGPO, arXiv 2505.10978).

    Constants: ``weight`` of the state term; ``similarity`` at which two states are one (none: only equal ones; 0.95 in
    its code for WebShop). In groups that always win or lose, states still tell steps apart, so these are trained.
    """
    return gigpo_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        inputs.needed("step_returns"),
        inputs.needed("anchors"),
        trajectory_ids=baseline_ids(inputs),
        mode=inputs.settings.mode,
        state_weight=inputs.constants["weight"],
        similarity=inputs.constants["similarity"],
    )


def dr_grpo(inputs: AdvantageInputs) -> Advantage:
    """The score less the group's mean, undivided (Dr. GRPO, arXiv 2503.20783); see `dr_grpo_loss`."""
    return grpo(replace(inputs, settings=inputs.settings.model_copy(update={"mode": "mean_norm"})))


def dr_grpo_loss(inputs: LossInputs) -> LossOutput:
    """`policy_loss` with a constant divisor, the maximum tokens per reply (Dr. GRPO, arXiv 2503.20783).

    Neither the spread of a group nor the length of a reply weighs its tokens. The constant is that of the paper's code.
    """
    return policy_loss(replace(inputs, settings=inputs.settings.model_copy(update={"aggregation": "constant"})))


def gspo_loss(inputs: LossInputs) -> LossOutput:
    """PPO's loss with one probability ratio for a whole reply, and a mean over replies (GSPO, arXiv 2507.18071).

    The ratio is the geometric mean of the tokens' ratios, ``s = exp(mean(log pi - log old))``. It is written by token,
    ``s_t = sg(s) pi_t / sg(pi_t)`` (the paper's GSPO-token), which has the same value and, where all tokens of a reply
    have one advantage, the same gradient. No dual clip.

    Constants: ``clip_low`` and ``clip_high``, 3e-4 and 4e-4 in the paper, as the ratio of a reply moves much less than
    that of a token; they stand for those of the settings.
    """
    require_inputs(inputs)
    settings = inputs.settings.model_copy(
        update={
            "clip_low": inputs.constants["clip_low"],
            "clip_high": inputs.constants["clip_high"],
            "dual_clip": None,
            "aggregation": "sequence_mean",
        }
    )
    log_ratio = sequence_log_ratio(inputs).detach()[inputs.sample]
    # Its value is the reply's, its gradient the token's.
    current = inputs.log_probs - inputs.log_probs.detach() + log_ratio
    surrogate = ppo_clip(current, torch.zeros_like(current), inputs.advantages, settings)
    return surrogate_loss(replace(inputs, settings=settings), surrogate)


def outcome(inputs: AdvantageInputs) -> Tensor:
    """GRPO's advantage, ``[B, L]``."""
    return outcome_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        baseline_ids(inputs),
        mode=inputs.settings.mode,
    )


def shifts(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Delta of the episode skill and of the step skill, each ``[B, L]``, 0 where there is none.

    Both are centred, normalised and clipped as the settings say.
    """
    settings = inputs.settings

    def shift(scores: Tensor | None, mask: Any) -> Tensor:
        if scores is None or mask is None:
            return torch.zeros_like(inputs.old_log_probs)
        return skill_shift(
            scores,
            inputs.old_log_probs,
            inputs.response_mask,
            mask,
            center=settings.center,
            normalize=settings.normalize,
            clip=settings.clip,
        )

    return shift(inputs.episode_log_probs, inputs.episode_mask), shift(inputs.step_log_probs, inputs.step_mask)


def baseline_ids(inputs: AdvantageInputs) -> Any:
    """The trajectories that mean and spread run over; None: they run over step samples."""
    return inputs.needed("trajectory_ids") if inputs.settings.baseline == "trajectories" else None
