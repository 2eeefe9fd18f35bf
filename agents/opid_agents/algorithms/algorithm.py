"""What an algorithm is: an advantage and a loss, on the rollouts that all algorithms share.

`opid_agents.algorithms.table` has those that are bundled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from pydantic import Field
from torch import Tensor

from opid_agents.algorithms.advantages import Advantage, Mode
from opid_agents.algorithms.losses import LossInputs, LossOutput, LossSettings, policy_loss
from opid_agents.algorithms.shapes import sample_mask
from opid_agents.settings import Settings
from opid_gym.named import did_you_mean

Baseline = Literal["steps", "trajectories"]
Teacher = Literal["none", "routing", "scores"]
Swap = Literal["shuffled", "other_task"]
TeacherWeights = Literal["policy", "ema", "start"]
Imitated = Literal["advice", "reply"]


class AdvantageSettings(Settings):
    """The constants of an advantage that algorithms share; those of a single one are its `constants`."""

    mode: Mode = Field("mean_std_norm", description="group advantage with or without division by the spread")
    baseline: Baseline = Field(
        "steps",
        description="mean and spread of the outcome over all step samples of a group (as in OPID's code), or over its "
        "trajectories",
    )
    episode_weight: float = Field(0.001, ge=0, description="weight of the episode skill's shift; 0: not computed")
    step_weight: float = Field(0.001, ge=0, description="weight of the step skill's shift; 0: not computed")
    center: bool = Field(False, description="subtract the mean of the shifts over their routed tokens")
    normalize: bool = Field(False, description="standardise the shifts over their routed tokens")
    clip: float | None = Field(None, gt=0, description="limit of a token's shift; none: no limit")
    gamma: float = Field(
        0.95,
        ge=0,
        le=1,
        description="discount of the returns that gigpo, ucob and the contrast of siblings use",
    )


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
        trajectory_ids: B ids, equal for the steps of one trajectory. Only some algorithms need this and the following.
        step_returns: ``[B]``, discounted return from each step on, less the step's own penalty.
        anchors: B texts that name the state of each step.
        success: ``[B]``, not 0 for steps of successful episodes.
        other_episode_log_probs, other_step_log_probs: ``[B, L]`` with the skill of another task in place of the
            sample's own; for algorithms that contrast the two (`Algorithm.other_skill`).
        disagrees: ``[B]``, not 0 where the advice behind the step skill is another action than the one taken.
        action_mask: ``[B, L]``, not 0 on the response tokens that spell the action; None: all of them do.
        settings: the constants that algorithms share.
        constants: those of the algorithm (`Algorithm.constants`).
        iteration: of the run, from 1, for constants with a schedule.
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
    other_episode_log_probs: Float[Tensor, "batch tokens"] | None = None
    other_step_log_probs: Float[Tensor, "batch tokens"] | None = None
    disagrees: Shaped[Tensor, " batch"] | None = None
    action_mask: Shaped[Tensor, "batch tokens"] | None = None
    settings: AdvantageSettings = field(default_factory=AdvantageSettings)
    constants: Mapping[str, Any] = field(default_factory=dict)
    iteration: int = 1

    def needed(self, name: str) -> Any:
        """A field that may be None.

        Raises:
            ValueError: it is None.
        """
        value = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is None, but this algorithm or baseline needs it")
        return value


@dataclass(frozen=True, slots=True)
class Algorithm:
    """What tells one algorithm from another.

    Attributes:
        name: its name in recipes and results.
        advantage: from one record to another; the tensors it returns carry no gradient. None: it does not train.
        loss: from one record to another.
        constants: its own constants with their values; a recipe may give others (``constants.NAME=``). Empty, for an
            algorithm of one's own: any.
        teacher: ``none``; ``routing``: skills are extracted and routed but nothing is scored (stages 2 and 3 of
            OPID); ``scores``: the sampled tokens are scored again with the skills in the prompt (stages 2 to 4).
        teacher_weights: whose weights the teacher has: those of the ``policy`` that sampled, those of the ``start``, or
            their exponential moving average (``ema``: after every iteration it moves to the policy's by the constant
            ``ema_rate``).
        distills: the loss uses the teacher, so samples with a teacher are trained whatever their advantage is.
        distributions: the loss needs whole distributions: the policy's, and the teacher's, all of it or the constant
            ``top_k`` likeliest tokens.
        other_skill: the tokens are scored with the skill of another task, too.
        action_tokens: the advantage looks at the tokens of the reply that spell the action.
        imitates: what is imitated besides, at steps with a step skill and with the constant ``imitation_weight``:
            ``advice``: the action that the skill names, where it names one; ``reply``: what the teacher says there with
            the skill in its prompt. None: nothing.
        needs_variance: groups whose rollouts all have the same return teach it nothing.
        library: skills are kept in a library and put into the prompts of rollouts.
        library_at_test: the prompts of evaluations have them too; None: as the recipe says.
        swap: replace the routed skills: ``shuffled`` among all of the iteration, or by those of an ``other_task``.
    """

    name: str
    advantage: Callable[[AdvantageInputs], Advantage] | None
    loss: Callable[[LossInputs], LossOutput] = policy_loss
    constants: Mapping[str, Any] = field(default_factory=dict)
    teacher: Teacher = "none"
    teacher_weights: TeacherWeights = "policy"
    distills: bool = False
    distributions: bool = False
    other_skill: bool = False
    action_tokens: bool = False
    imitates: Imitated | None = None
    needs_variance: bool = True
    library: bool = False
    library_at_test: bool | None = False
    swap: Swap | None = None

    @property
    def needs_skills(self) -> bool:
        """Skills are extracted for it."""
        return self.teacher != "none" or self.library

    def with_constants(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The algorithm's constants, with those given in their place.

        Raises:
            ValueError: it has others, and none of that name.
        """
        for name, value in given.items():
            if self.constants and name not in self.constants:
                hint = did_you_mean(name, self.constants)
                raise ValueError(
                    f"constants.{name}={value!r}: {self.name} has no such constant; {hint and hint + ' '}"
                    f"allowed: {sorted(self.constants)}"
                )
            if name in self.constants and not _alike(self.constants[name], value):
                raise ValueError(f"constants.{name}={value!r}: {self.name} needs a value like {self.constants[name]!r}")
        return {**self.constants, **given}


def teacher_scores(
    inputs: AdvantageInputs,
) -> tuple[Float[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """One teacher a sample, for algorithms that know only one: the step skill's where there is one, else the episode's.

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


def other_scores(inputs: AdvantageInputs) -> Float[Tensor, "batch tokens"]:
    """As `teacher_scores`, with the skill of another task in place of the sample's own.

    Raises:
        ValueError: the tokens have a teacher, but were not scored with another skill.
    """
    teacher = inputs.old_log_probs
    for name in ("episode", "step"):
        mask = getattr(inputs, f"{name}_mask")
        if mask is not None and getattr(inputs, f"{name}_log_probs") is not None:
            rows = sample_mask(f"{name}_mask", mask, len(teacher), teacher.device)
            if bool(rows.any()):
                used = (inputs.response_mask != 0) & rows[:, None]
                teacher = torch.where(used, inputs.needed(f"other_{name}_log_probs"), teacher)
    return teacher


def trained_samples(
    algorithm: Algorithm,
    advantage: Advantage,
    settings: LossSettings,
    teacher_mask: Shaped[Tensor, "batch tokens"] | None = None,
) -> Bool[Tensor, " batch"]:
    """Which samples an update has to compute; the others have no gradient.

    These are the samples with an advantage or with a distillation term, and all of them if the loss has a KL or an
    entropy term.
    """
    active = (advantage.advantages != 0).any(-1)
    if settings.kl_coef != 0 or settings.entropy_coef != 0:
        return torch.ones_like(active)
    if algorithm.distills and teacher_mask is not None:
        active = active | (teacher_mask != 0).any(-1)
    return active


def _alike(known: Any, given: Any) -> bool:
    """Whether a value can stand for a constant: a number for a number; what may be None has no type to check."""
    if known is None:
        return True
    if isinstance(known, (bool, str)):
        return type(known) is type(given)
    return isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
