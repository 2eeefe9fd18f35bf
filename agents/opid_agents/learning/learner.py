"""The learners by name: each is an advantage and a loss, on the same rollouts.

To add one, write a function from `AdvantageInputs` to `Advantage` (or from `LossInputs` to `LossOutput`) and
add one line to `LEARNERS`.

Besides the methods of the papers there are controls: everything of OPID but its teacher, or its teacher with the wrong
skills. A gain that a control has as well does not come from what the control lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from opid_agents.learning.advantages import (
    Advantage,
    Mode,
    make_advantage,
    opid_advantage,
    outcome_advantage,
    rloo_advantage,
    skill_shift,
)
from opid_agents.learning.distillation import gated_pull, reverse_kl, rlsd_advantage, weighted_k3
from opid_agents.learning.gigpo import gigpo_advantage
from opid_agents.learning.losses import LossInputs, LossOutput, LossSettings, distillation_loss, policy_loss
from opid_agents.learning.shapes import sample_mask

Baseline = Literal["steps", "trajectories"]
Teacher = Literal["none", "routing", "scores"]
Swap = Literal["shuffled", "other_task"]


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    """The constants of an advantage.

    Attributes:
        mode: ``mean_std_norm`` or ``mean_norm``.
        baseline: what the outcome's mean and standard deviation run over: ``steps`` (OPID's reference) or
            ``trajectories``. rloo always has trajectories.
        episode_weight, step_weight: weights of the skill shifts.
        center: subtract the mean of each shift over its routed tokens.
        normalize: standardise each shift over its routed tokens.
        clip: limit of each shift; None: none.
        state_weight: gigpo: weight of the state term.
        anchor_similarity: gigpo: anchors this much alike are one state; None: equal ones only.
        rlsd_mix: rlsd: lambda *of this update*; see `opid_agents.learning.schedules`.
        rlsd_clip: rlsd: how far a token's weight may be from 1.
        constant_success, constant_failure: opid_constant: what stands in for Delta on routed tokens of successful and
            of failed episodes.
    """

    mode: Mode = "mean_std_norm"
    baseline: Baseline = "steps"
    episode_weight: float = 0.001
    step_weight: float = 0.001
    center: bool = False
    normalize: bool = False
    clip: float | None = None
    state_weight: float = 1.0
    anchor_similarity: float | None = None
    rlsd_mix: float = 0.5
    rlsd_clip: float = 0.2
    constant_success: float = -2.0
    constant_failure: float = -2.0


@dataclass(frozen=True, slots=True)
class AdvantageInputs:
    """Everything an advantage may use: B step samples, L response tokens.

    Attributes:
        token_level_rewards: ``[B, L]``; a sample's score is the sum of its row.
        response_mask: ``[B, L]``, not 0 on response tokens.
        task_ids: B ids, equal for the samples of one group.
        old_log_probs: ``[B, L]`` under the prompts the tokens were sampled from.
        episode_log_probs, step_log_probs: ``[B, L]`` with the skill in the prompt; None where no sample has
            one.
        episode_mask, step_mask: ``[B]``, which samples have one; None: none.
        trajectory_ids: B ids, equal for the steps of one trajectory. Only some learners need this and the following.
        step_returns: ``[B]``, discounted return from each step on, less the step's own penalty.
        anchors: B texts that name the state of each step.
        success: ``[B]``, not 0 for steps of successful episodes.
        settings: the constants.
    """

    token_level_rewards: Float[Tensor, "batch tokens"]
    response_mask: Shaped[Tensor, "batch tokens"]
    task_ids: Any
    old_log_probs: Float[Tensor, "batch tokens"]
    episode_log_probs: Float[Tensor, "batch tokens"] | None = None
    step_log_probs: Float[Tensor, "batch tokens"] | None = None
    episode_mask: Shaped[Tensor, " batch"] | None = None
    step_mask: Shaped[Tensor, " batch"] | None = None
    trajectory_ids: Any = None
    step_returns: Float[Tensor, " batch"] | None = None
    anchors: Sequence[str] | None = None
    success: Shaped[Tensor, " batch"] | None = None
    settings: AdvantageSettings = field(default_factory=AdvantageSettings)


@dataclass(frozen=True, slots=True)
class Learner:
    """What tells one learner from another.

    Attributes:
        name: its name in recipes and results.
        advantage: from one record to another; the tensors it returns carry no gradient. None: it does not train.
        loss: from one record to another.
        teacher: ``none``; ``routing``: skills are extracted and routed but nothing is scored (stages 2 and 3 of
            OPID); ``scores``: the sampled tokens are scored again with the skills in the prompt (stages 2 to 4).
        distills: the loss uses the teacher's log-probabilities, so samples with a teacher are trained whatever their
            advantage is.
        needs_variance: groups whose rollouts all have the same return teach it nothing.
        library: skills are kept in a library and put into the prompts of rollouts.
        library_at_test: the prompts of evaluations have them too; None: as the recipe says.
        swap: replace the routed skills: ``shuffled`` among all of the iteration, or by those of an ``other_task``.
    """

    name: str
    advantage: Callable[[AdvantageInputs], Advantage] | None
    loss: Callable[[LossInputs], LossOutput] = policy_loss
    teacher: Teacher = "none"
    distills: bool = False
    needs_variance: bool = True
    library: bool = False
    library_at_test: bool | None = False
    swap: Swap | None = None

    @property
    def needs_skills(self) -> bool:
        """Skills are extracted for it."""
        return self.teacher != "none" or self.library


# -- Advantages --
def grpo(inputs: AdvantageInputs) -> Advantage:
    """The outcome alone (arXiv 2402.03300). The shifts of whatever skills there are go to the diagnostics."""
    outcome = _outcome(inputs)
    episode, step = _shifts(inputs)
    return make_advantage(outcome, inputs.response_mask, episode_shift=episode, step_shift=step)


def rloo(inputs: AdvantageInputs) -> Advantage:
    """The outcome less the mean of the group's other trajectories (arXiv 2402.14740)."""
    outcome = rloo_advantage(
        inputs.token_level_rewards, inputs.response_mask, inputs.task_ids, _needed(inputs, "trajectory_ids")
    )
    return make_advantage(outcome, inputs.response_mask)


def gigpo(inputs: AdvantageInputs) -> Advantage:
    """The outcome, and how steps compare with others in the same state (arXiv 2505.10978)."""
    return gigpo_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        _needed(inputs, "step_returns"),
        _needed(inputs, "anchors"),
        trajectory_ids=_baseline_ids(inputs),
        mode=inputs.settings.mode,
        state_weight=inputs.settings.state_weight,
        similarity=inputs.settings.anchor_similarity,
    )


def opid(inputs: AdvantageInputs) -> Advantage:
    """The outcome plus the weighted shifts of both skills (arXiv 2606.26790)."""
    settings = inputs.settings
    return opid_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        inputs.old_log_probs,
        inputs.episode_log_probs,
        inputs.step_log_probs,
        inputs.episode_mask,
        inputs.step_mask,
        trajectory_ids=_baseline_ids(inputs),
        mode=settings.mode,
        episode_weight=settings.episode_weight,
        step_weight=settings.step_weight,
        center=settings.center,
        normalize=settings.normalize,
        clip=settings.clip,
    )


def opid_constant(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher: OPID with a constant instead of Delta, on the same routed tokens."""
    settings = inputs.settings
    batch, device = len(inputs.response_mask), inputs.response_mask.device
    success = sample_mask("success", _needed(inputs, "success"), batch, device)
    constant = torch.where(success, settings.constant_success, settings.constant_failure)
    shifts = []
    for name, mask in (("episode_mask", inputs.episode_mask), ("step_mask", inputs.step_mask)):
        rows = sample_mask(name, [False] * batch if mask is None else mask, batch, device)
        shifts.append(torch.where((inputs.response_mask != 0) & rows[:, None], constant[:, None], 0.0))
    return make_advantage(
        _outcome(inputs),
        inputs.response_mask,
        episode_shift=shifts[0],
        step_shift=shifts[1],
        episode_weight=settings.episode_weight,
        step_weight=settings.step_weight,
    )


def opsd(inputs: AdvantageInputs) -> Advantage:
    """The teacher alone, no outcome: ``A = teacher - old`` (arXiv 2601.18734)."""
    episode, step = _shifts(inputs)
    return make_advantage(
        torch.zeros_like(episode),
        inputs.response_mask,
        episode_shift=episode,
        step_shift=step,
        episode_weight=1.0,
        step_weight=1.0,
    )


def rlsd(inputs: AdvantageInputs) -> Advantage:
    """The outcome's direction with the teacher's size (arXiv 2604.03128)."""
    outcome = _outcome(inputs)
    teacher, mask = teacher_scores(inputs)
    advantages = rlsd_advantage(
        outcome,
        teacher,
        inputs.old_log_probs,
        mask,
        mix=inputs.settings.rlsd_mix,
        clip=inputs.settings.rlsd_clip,
    )
    episode, step = _shifts(inputs)
    return make_advantage(
        outcome, inputs.response_mask, episode_shift=episode, step_shift=step, extra=advantages - outcome
    )


# -- Losses --
def grpo_opsd_loss(inputs: LossInputs) -> LossOutput:
    """Plus reverse KL to the teacher on the sampled tokens."""
    return distillation_loss(inputs, lambda it, teacher, mask: reverse_kl(it.log_probs, teacher, mask))


def skill_sd_loss(inputs: LossInputs) -> LossOutput:
    """Plus importance-weighted k3 (arXiv 2604.10674)."""
    return distillation_loss(
        inputs, lambda it, teacher, mask: weighted_k3(it.log_probs, it.old_log_probs, teacher, mask)
    )


def sdar_loss(inputs: LossInputs) -> LossOutput:
    """Plus a gated pull to the teacher (arXiv 2605.15155)."""
    return distillation_loss(
        inputs,
        lambda it, teacher, mask: gated_pull(it.log_probs, teacher, mask, sharpness=it.settings.gate_sharpness),
    )


LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for learner in (
        Learner("vanilla", None),
        Learner("skill_prompt", None, library=True, library_at_test=True),
        Learner("grpo", grpo),
        Learner("rloo", rloo),
        Learner("gigpo", gigpo),
        Learner("skill_grpo", grpo, library=True, library_at_test=None),
        Learner("opsd", opsd, teacher="scores", needs_variance=False),
        Learner("grpo_opsd", grpo, grpo_opsd_loss, teacher="scores", distills=True),
        Learner("skill_sd", grpo, skill_sd_loss, teacher="scores", distills=True),
        Learner("rlsd", rlsd, teacher="scores"),
        Learner("sdar", grpo, sdar_loss, teacher="scores", distills=True),
        Learner("opid", opid, teacher="scores"),
        Learner("opid_constant", opid_constant, teacher="routing"),
        Learner("opid_random_skill", opid, teacher="scores", swap="shuffled"),
        Learner("opid_other_task_skill", opid, teacher="scores", swap="other_task"),
    )
}


def get_learner(name: str) -> Learner:
    """The learner called `name`.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    try:
        return LEARNERS[name]
    except KeyError:
        raise ValueError(f"unknown learner {name!r}; allowed: {sorted(LEARNERS)}") from None


def teacher_scores(
    inputs: AdvantageInputs,
) -> tuple[Float[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """One teacher a sample, for learners that know only one: the step skill's where there is one, else the episode's.

    Returns:
        Its log-probabilities and the response tokens that have it, ``[B, L]``; `old` stands elsewhere.
    """
    tokens = inputs.response_mask != 0
    teacher, found = inputs.old_log_probs, torch.zeros_like(tokens)
    for name, scores, mask in (
        ("episode_mask", inputs.episode_log_probs, inputs.episode_mask),
        ("step_mask", inputs.step_log_probs, inputs.step_mask),
    ):
        if scores is not None and mask is not None:
            used = tokens & sample_mask(name, mask, len(tokens), tokens.device)[:, None]
            teacher, found = torch.where(used, scores, teacher), found | used
    return teacher, found


def trained_samples(
    learner: Learner,
    advantage: Advantage,
    settings: LossSettings,
    teacher_mask: Shaped[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, " batch"]:
    """Which samples an update has to compute: those with an advantage, or with a distillation term; all of them if
    the loss has a KL or an entropy term. The others have no gradient."""
    active = (advantage.advantages != 0).any(-1)
    if settings.kl_weight != 0 or settings.entropy_weight != 0:
        return torch.ones_like(active)
    if learner.distills and settings.distill_weight != 0 and teacher_mask is not None:
        active = active | (teacher_mask != 0).any(-1)
    return active


def _outcome(inputs: AdvantageInputs) -> Tensor:
    return outcome_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        _baseline_ids(inputs),
        mode=inputs.settings.mode,
    )


def _shifts(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Delta of the episode and of the step skill, 0 where there is none."""
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


def _baseline_ids(inputs: AdvantageInputs) -> Any:
    return _needed(inputs, "trajectory_ids") if inputs.settings.baseline == "trajectories" else None


def _needed(inputs: AdvantageInputs, name: str) -> Any:
    value = getattr(inputs, name)
    if value is None:
        raise ValueError(f"{name} is None, but this learner or baseline needs it")
    return value
