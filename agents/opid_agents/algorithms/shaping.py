"""Algorithms whose teacher changes the advantage; the loss is PPO's.

Delta is what a skill in the prompt changes in the log-probability of a sampled token. Where one teacher a sample is
spoken of, it is the step skill's where there is one, else the episode's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from opid_agents.algorithms.advantages import Advantage, make_advantage, opid_advantage
from opid_agents.algorithms.algorithm import AdvantageInputs, other_scores, teacher_scores
from opid_agents.algorithms.baselines import baseline_ids, grpo, outcome, shifts
from opid_agents.algorithms.distillation import rlsd_advantage, step_weights
from opid_agents.algorithms.schedules import is_on, linear
from opid_agents.algorithms.shapes import group_index, sample_mask


# -- Of papers --
def opid(inputs: AdvantageInputs) -> Advantage:
    """The outcome plus the weighted shifts of both skills (OPID, arXiv 2606.26790).

    The weights and the clip are those of the recipe: ``advantage.episode_weight``, ``advantage.step_weight`` and
    ``advantage.clip``.
    """
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
        trajectory_ids=baseline_ids(inputs),
        mode=settings.mode,
        episode_weight=settings.episode_weight,
        step_weight=settings.step_weight,
        center=settings.center,
        normalize=settings.normalize,
        clip=settings.clip,
    )


def opid_as_released(inputs: AdvantageInputs) -> Advantage:
    """OPID as its code runs it: both weights 0.001 (constant ``weight``), neither centred nor normalised nor clipped.

    A thousandth of the advantage, so it speaks in groups without variance and hardly elsewhere.
    """
    weight = inputs.constants["weight"]
    return opid(_raw(inputs, episode_weight=weight, step_weight=weight))


def opsd(inputs: AdvantageInputs) -> Advantage:
    """The teacher alone, no outcome: ``A = teacher - old`` (OPSD, arXiv 2601.18734).

    Differs from its code (`opid_agents.algorithms.auxiliary.opsd_full`), which compares whole distributions.
    """
    episode, step = shifts(inputs)
    return make_advantage(
        torch.zeros_like(episode),
        inputs.response_mask,
        episode_shift=episode,
        step_shift=step,
        episode_weight=1.0,
        step_weight=1.0,
    )


def rlsd(inputs: AdvantageInputs) -> Advantage:
    """The outcome's direction with the teacher's size (RLSD, arXiv 2604.03128).

    Constants: ``mix`` falls linearly to 0 over ``iterations``; the weight is within ``1 +- clip``. As released in
    SDAR's code (`rlsd_as_released`) it falls over 100 iterations, in the paper over 50.
    """
    constants = inputs.constants
    mix = linear(constants["mix"], 0.0, constants["iterations"], inputs.iteration - 1)
    return _reweighted(inputs, inputs.old_log_probs, mix=mix, low=1 - constants["clip"], high=1 + constants["clip"])


def stepopsd(inputs: AdvantageInputs) -> Advantage:
    """Each step keeps its credit and shares it among the tokens of its action as the teacher says.

    This is StepOPSD (arXiv 2605.27140): ``A' = A ((1 - mix) + mix w)`` with the weights of
    `opid_agents.algorithms.distillation.step_weights`.

    Constants: ``mix`` and ``clip`` (0: none), which the paper tunes by task. Ours: skills come from the recipe's
    extractor, the paper writes its own hindsight contexts.
    """
    credit = outcome(inputs)
    teacher, mask = teacher_scores(inputs)
    shift = torch.where(mask, teacher - inputs.old_log_probs, 0.0)
    where = mask if inputs.action_mask is None else mask & (inputs.action_mask != 0)
    weight = step_weights(credit, shift, where, clip=inputs.constants["clip"] or None)
    return _with_extra(inputs, credit, credit * inputs.constants["mix"] * (weight - 1))


def rlcsd(inputs: AdvantageInputs) -> Advantage:
    """RLSD with a contrast for the shift: the right skill less a wrong one in the same template.

    What any hint does to style cancels (RLCSD, arXiv 2606.11709).

    Constants: ``mix``, ``clip`` as in `rlsd`. Ours: one wrong hint, a skill of another task, where the paper takes the
    mean over several; the bounded modulation is RLSD's, without its schedule.
    """
    constants = inputs.constants
    return _reweighted(
        inputs, other_scores(inputs), mix=constants["mix"], low=1 - constants["clip"], high=1 + constants["clip"]
    )


def adrs(inputs: AdvantageInputs) -> Advantage:
    """The outcome plus the raw shift in a window of the run (ADRS).

    The shift counts nothing for ``start`` iterations, then with the constant ``weight`` for ``length`` iterations, then
    nothing again; 20, 0.02 and 50 as published.
    """
    constants = inputs.constants
    on = is_on(inputs.iteration, constants["start"] + 1, constants["start"] + constants["length"])
    weight = constants["weight"] if on else 0.0
    return opid(_raw(inputs, episode_weight=weight, step_weight=weight))


# -- Of our own --
def opid_contrast(inputs: AdvantageInputs) -> Advantage:
    """OPID whose Delta is the right skill's log-probability less that of another task's skill."""
    others = {}
    for name in ("episode", "step"):
        mask, scores = getattr(inputs, f"{name}_mask"), getattr(inputs, f"{name}_log_probs")
        if mask is not None and scores is not None and bool(torch.as_tensor(mask).any()):
            # Delta is taken against `old`, so the other skill's shift is deducted from the teacher's score.
            others[f"{name}_log_probs"] = scores - inputs.needed(f"other_{name}_log_probs") + inputs.old_log_probs
    return opid(replace(inputs, **others))


def opid_bounded(inputs: AdvantageInputs) -> Advantage:
    """The outcome times a bounded weight, ``A' = A clip(exp(sign(A) Delta), low, high)``.

    This is RLSD's form all through the run, with wide bounds. It never turns a sign, so it is silent where the outcome
    is.
    """
    return _reweighted(
        inputs, inputs.old_log_probs, mix=1.0, low=inputs.constants["low"], high=inputs.constants["high"]
    )


def opid_disagree(inputs: AdvantageInputs) -> Advantage:
    """OPID only at steps whose skill names another action than the one taken.

    A skill that agrees has nothing to correct.
    """
    batch, device = len(inputs.response_mask), inputs.response_mask.device
    return opid(_only(inputs, sample_mask("disagrees", inputs.needed("disagrees"), batch, device)))


def opid_gated(inputs: AdvantageInputs) -> Advantage:
    """OPID only in groups whose teacher can be trusted.

    Over the routed tokens of such a group the mean Delta is higher in its successes than in its failures. Groups that
    always win or always lose cannot tell, and keep the outcome alone.
    """
    teacher, mask = teacher_scores(inputs)
    batch = len(mask)
    shift = torch.where(mask, teacher - inputs.old_log_probs, 0.0)
    group = group_index(inputs.task_ids, batch).to(shift.device)
    won = sample_mask("success", inputs.needed("success"), batch, shift.device)
    groups = int(group.max()) + 1 if batch else 0

    def means(rows: Tensor) -> Tensor:  # NaN without a routed token, and NaN is not higher
        counted = mask & rows[:, None]
        total, count = torch.where(counted, shift, 0.0).sum(-1), counted.sum(-1).to(shift)
        sums = [
            torch.zeros(groups, dtype=shift.dtype, device=shift.device).index_add(0, group, x) for x in (total, count)
        ]
        return sums[0] / sums[1]

    return opid(_only(inputs, (means(won) > means(~won))[group]))


def opid_window(inputs: AdvantageInputs) -> Advantage:
    """OPID in a window of the run: after ``start`` iterations, for ``length`` iterations (20 and 50)."""
    constants = inputs.constants
    on = is_on(inputs.iteration, constants["start"] + 1, constants["start"] + constants["length"])
    return opid(inputs) if on else grpo(inputs)


# -- Controls --
def constant_shift(inputs: AdvantageInputs) -> AdvantageInputs:
    """Inputs for a control without a teacher, where Delta does not depend on what the skills say.

    On the routed tokens Delta is the constant ``success`` or ``failure``, according to the outcome of the episode.
    """
    batch, device = len(inputs.response_mask), inputs.response_mask.device
    won = sample_mask("success", inputs.needed("success"), batch, device)
    constant = torch.where(won, inputs.constants["success"], inputs.constants["failure"]).to(inputs.old_log_probs)
    scores = inputs.old_log_probs + constant[:, None]
    return replace(
        _raw(inputs),
        episode_log_probs=scores,
        step_log_probs=scores,
        other_episode_log_probs=inputs.old_log_probs,
        other_step_log_probs=inputs.old_log_probs,
    )


def opid_constant(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher: OPID with a constant instead of Delta, on the same routed tokens."""
    return opid(constant_shift(inputs))


def opid_disagree_constant(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher for `opid_disagree`."""
    return opid_disagree(constant_shift(inputs))


def opid_bounded_constant(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher for `opid_bounded`."""
    return opid_bounded(constant_shift(inputs))


def opid_window_constant(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher for `opid_window`."""
    return opid_window(constant_shift(inputs))


def srpo_advice(inputs: AdvantageInputs) -> Advantage:
    """Control without a teacher for `srpo` and `srpo_reply`: failed replies that have a skill hear no outcome either.

    What these learn from is the advice itself, which is imitated (`Algorithm.imitates`).
    """
    batch, device = len(inputs.response_mask), inputs.response_mask.device
    failed = ~sample_mask("success", inputs.needed("success"), batch, device)
    _, taught = teacher_scores(inputs)
    advantages = torch.where(failed[:, None] & taught, 0.0, outcome(inputs))
    return make_advantage(advantages, inputs.response_mask)


def _raw(inputs: AdvantageInputs, **weights: float) -> AdvantageInputs:
    """Inputs whose shifts are neither centred nor normalised nor clipped."""
    plain = {"center": False, "normalize": False, "clip": None, **weights}
    return replace(inputs, settings=inputs.settings.model_copy(update=plain))


def _only(inputs: AdvantageInputs, rows: Tensor) -> AdvantageInputs:
    """Inputs in which only some samples have a teacher."""
    masks: dict[str, Any] = {}
    for name in ("episode_mask", "step_mask"):
        if (mask := getattr(inputs, name)) is not None:
            masks[name] = sample_mask(name, mask, len(rows), rows.device) & rows
    return replace(inputs, **masks)


def _reweighted(inputs: AdvantageInputs, against: Tensor, *, mix: float, low: float, high: float) -> Advantage:
    credit = outcome(inputs)
    teacher, mask = teacher_scores(inputs)
    weighted = rlsd_advantage(credit, teacher, against, mask, mix=mix, low=low, high=high)
    return _with_extra(inputs, credit, weighted - credit)


def _with_extra(inputs: AdvantageInputs, credit: Tensor, extra: Tensor) -> Advantage:
    """An advantage that is no sum of shifts; these go to the diagnostics."""
    episode, step = shifts(inputs)
    return make_advantage(credit, inputs.response_mask, episode_shift=episode, step_shift=step, extra=extra)
