"""The learners by name: each is an advantage and a loss, on the same rollouts.

To add one, write a function from `AdvantageInputs` to `Advantage` (or from `LossInputs` to `LossOutput`) and
add one line to `LEARNERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float, Shaped
from torch import Tensor

from opid_agents.learning.advantages import Advantage, Mode, opid_advantage
from opid_agents.learning.losses import LossInputs, LossOutput, policy_loss


@dataclass(frozen=True, slots=True)
class AdvantageSettings:
    """The constants of an advantage; see `opid_agents.learning.advantages.opid_advantage`.

    Attributes:
        mode: ``mean_std_norm`` or ``mean_norm``.
        episode_weight, step_weight: weights of the skill shifts.
        normalize: standardise each shift over its routed tokens.
        clip: limit of each shift; None: none.
    """

    mode: Mode = "mean_std_norm"
    episode_weight: float = 0.001
    step_weight: float = 0.001
    normalize: bool = False
    clip: float | None = None


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
    settings: AdvantageSettings = field(default_factory=AdvantageSettings)


@dataclass(frozen=True, slots=True)
class Learner:
    """What tells one learner from another.

    Attributes:
        name: its name in recipes and results.
        needs_skills: stages 2 to 4 (extract, route, re-score) are run for it.
        advantage: from one record to another; the tensors it returns carry no gradient.
        loss: from one record to another.
    """

    name: str
    needs_skills: bool
    advantage: Callable[[AdvantageInputs], Advantage]
    loss: Callable[[LossInputs], LossOutput] = policy_loss


def grpo(inputs: AdvantageInputs) -> Advantage:
    """The outcome alone, whatever skills there are (arXiv 2402.03300)."""
    return opid_advantage(
        inputs.token_level_rewards,
        inputs.response_mask,
        inputs.task_ids,
        inputs.old_log_probs,
        None,
        None,
        None,
        None,
        mode=inputs.settings.mode,
        episode_weight=0.0,
        step_weight=0.0,
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
        mode=settings.mode,
        episode_weight=settings.episode_weight,
        step_weight=settings.step_weight,
        normalize=settings.normalize,
        clip=settings.clip,
    )


LEARNERS: dict[str, Learner] = {
    learner.name: learner
    for learner in (
        Learner("grpo", needs_skills=False, advantage=grpo),
        Learner("opid", needs_skills=True, advantage=opid),
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
