"""Algorithms whose teacher is a term of the loss.

Most add it to GRPO's loss with the constant ``weight``; those that distil alone say so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from opid_agents.algorithms.advantages import Advantage, make_advantage
from opid_agents.algorithms.algorithm import AdvantageInputs
from opid_agents.algorithms.baselines import shifts
from opid_agents.algorithms.distillation import (
    confidence_weights,
    credit_weights,
    gated_pull,
    importance,
    reverse_kl,
    until_disagreement,
    weighted_k3,
)
from opid_agents.algorithms.distributions import divergence, entropy
from opid_agents.algorithms.losses import LossInputs, LossOutput, distillation_loss


def teacher_alone(inputs: AdvantageInputs) -> Advantage:
    """No advantage: the loss has the teacher, and the outcome is not used. The shifts go to the diagnostics."""
    episode, step = shifts(inputs)
    return make_advantage(torch.zeros_like(episode), inputs.response_mask, episode_shift=episode, step_shift=step)


# -- Sampled tokens --
def grpo_opsd_loss(inputs: LossInputs) -> LossOutput:
    """GRPO plus reverse KL to the teacher on the sampled tokens.

    Not what stands as "GRPO+OPSD" in SDAR's tables (`grpo_opsd_as_released`).
    """
    return distillation_loss(
        inputs, lambda it: reverse_kl(it.log_probs, it.needed("teacher_log_probs")), weight=inputs.constants["weight"]
    )


def sdar_loss(inputs: LossInputs) -> LossOutput:
    """GRPO plus a gated pull to the teacher (SDAR, arXiv 2605.15155).

    Constants: ``weight`` 0.01 and ``sharpness`` 5 of the gate, in paper and code alike (they differ in search QA's
    coefficient of the KL to the reference: 0.01 in the paper's table, 0.001 in its script).

    With a sharpness of 0 the gate is 1/2 everywhere; that is how SDAR's scripts run "GRPO+OPSD". The mean gradient of
    ``(teacher - log_probs) / 2`` over the policy's own samples is 0 whatever the teacher says.
    """
    return distillation_loss(inputs, _pull, weight=inputs.constants["weight"])


def skill_sd_loss(inputs: LossInputs) -> LossOutput:
    """GRPO plus importance-weighted k3 (Skill-SD, arXiv 2604.10674).

    Constant ``weight``: 0.1 is its default; SDAR's scripts run it with 0.001 (`skill_sd_as_released`).
    """
    return distillation_loss(
        inputs,
        lambda it: weighted_k3(it.log_probs, it.old_log_probs, it.needed("teacher_log_probs")),
        weight=inputs.constants["weight"],
    )


# -- Whole distributions --
def sdpo_loss(inputs: LossInputs) -> LossOutput:
    """Distillation alone, by a divergence between distributions, with importance weights (SDPO, arXiv 2601.20802).

    Constants: ``alpha`` 0.5 is the Jensen-Shannon divergence (code: 1.0, reverse KL, for programming tasks); the
    teacher's ``top_k`` 100 likeliest tokens and a tail (0: the whole vocabulary); its weights are a moving average
    (``ema_rate`` 0.05); ``limit`` 2 of the importance weight. Its code takes the mean over the tokens with a teacher;
    ours is over all tokens, so that it does not depend on how many are routed. Ours too: the hint is a skill, the
    paper's is a successful sibling's reply or the environment's feedback.
    """
    constants = inputs.constants

    def term(it: LossInputs) -> Tensor:
        weight = importance(it.log_probs, it.old_log_probs, limit=constants["limit"])
        return weight * _divergence(it, constants["alpha"])

    return distillation_loss(inputs, term, weight=constants["weight"])


def divergence_loss(inputs: LossInputs) -> LossOutput:
    """A divergence between the distributions of teacher and policy at the tokens that have a teacher.

    Constant ``alpha``: 0 is forward KL, 1 reverse KL, between them lies the generalised Jensen-Shannon divergence
    (`opid_agents.algorithms.distributions.divergence`). With it distil

    - ``opsd_full``: 0.5, alone, from the weights of the start (Self-Distilled Reasoner, arXiv 2601.18734, as in its
      code; ``opsd`` takes the sampled token's difference as an advantage);
    - ``sdft`` and ``sdft_reverse``: 0 and 1, alone. its paper writes the reverse divergence, its results are those
      of the forward one;
    - ``opid_forward_kl``, of our own: 0, with the outcome. It moves probability to what the teacher would have said,
      and not only away from what was sampled; a loss, because as an advantage it would have no mean gradient.
    """
    alpha = inputs.constants["alpha"]
    return distillation_loss(inputs, lambda it: _divergence(it, alpha), weight=inputs.constants["weight"])


def srpo_loss(inputs: LossInputs) -> LossOutput:
    """Successes learn from the outcome, failures from the teacher (SRPO, arXiv 2604.02288).

    A failed reply with a teacher is taken out of GRPO's term and gets SDPO's divergence instead, its tokens weighted by
    how sure the teacher is (`opid_agents.algorithms.distillation.confidence_weights`). Constants: ``weight``, ``alpha``
    and ``top_k`` as in `sdpo_loss`, ``strength`` of the weighting.
    """
    return _failures_taught(inputs, lambda routed: routed)


def srpo_reply_loss(inputs: LossInputs) -> LossOutput:
    """`srpo_loss` up to the first token of a reply in whose place the teacher would have said another. Of our own.

    What the teacher says itself is imitated besides (`opid_agents.algorithms.algorithm.Algorithm.imitates`): it goes on
    where the policy's reply is of no more use. Constants: those of `srpo_loss`.
    """

    def hear(routed: Tensor) -> Tensor:
        likeliest = inputs.needed("teacher_distribution").log_probs.amax(-1)
        sampled = inputs.needed("teacher_log_probs")
        return until_disagreement(sampled, likeliest, inputs.sample, inputs.position, routed)

    return _failures_taught(inputs, hear)


def _failures_taught(inputs: LossInputs, hear: Callable[[Tensor], Tensor]) -> LossOutput:
    """GRPO's loss without failed replies that have a teacher, and the divergence to it at the tokens where it is heard.

    Args:
        inputs: of the loss.
        hear: from the tokens of these replies to those among them where the teacher is heard.
    """
    if inputs.teacher_mask is None:
        return distillation_loss(inputs, lambda it: torch.zeros_like(it.log_probs), weight=0.0)
    routed = ~inputs.needed("success")[inputs.sample] & (inputs.teacher_mask != 0)
    heard = hear(routed)
    constants = inputs.constants

    def term(it: LossInputs) -> Tensor:
        surprise = _scatter(heard, entropy(it.needed("teacher_distribution").rows(heard).outcomes()))
        weight = confidence_weights(surprise, it.sample, heard, strength=constants["strength"])
        return weight * _divergence(it, constants["alpha"])

    advantages = torch.where(routed, 0.0, inputs.advantages)
    changed = replace(inputs, advantages=advantages, teacher_mask=heard)
    return distillation_loss(changed, term, weight=constants["weight"])


def ucob_loss(inputs: LossInputs) -> LossOutput:
    """GRPO plus forward KL to the teacher, by as much as a step's return stayed behind (UCOB, arXiv 2606.29502).

    Constants: ``top_k`` 32 likeliest tokens; ``margin`` 0.05, ``temperature`` 0.2 and ``limit`` 2 of the weight of each
    sample (`opid_agents.algorithms.distillation.credit_weights`). Ours: UCOB compares rollouts with and without skills
    from one state and lets the better view teach the other, in both directions. Here no rollout sees a skill: a step
    counts by how far it stayed behind the best sibling in the same state (`LossInputs.state_gap`), and the teacher is
    the policy with the skill.
    """
    constants = inputs.constants

    def term(it: LossInputs) -> Tensor:
        weight = credit_weights(
            it.needed("state_gap"),
            margin=constants["margin"],
            temperature=constants["temperature"],
            limit=constants["limit"],
        )
        return weight.to(it.log_probs)[it.sample] * _divergence(it, 0.0)

    return distillation_loss(inputs, term, weight=constants["weight"])


def _pull(inputs: LossInputs) -> Tensor:
    teacher = inputs.needed("teacher_log_probs")
    return gated_pull(inputs.log_probs, teacher, sharpness=inputs.constants["sharpness"])


def _divergence(inputs: LossInputs, alpha: float) -> Tensor:
    """Between teacher and policy at the tokens that have a teacher, ``[n]``; 0 elsewhere."""
    used = inputs.needed("teacher_mask") != 0
    teacher = inputs.needed("teacher_distribution").rows(used)
    student = teacher.outcomes_of(inputs.needed("distribution")[used])
    return _scatter(used, divergence(student, teacher.outcomes(), alpha))


def _scatter(where: Tensor, values: Tensor) -> Tensor:
    return torch.zeros(len(where), dtype=values.dtype, device=values.device).masked_scatter(where, values)
