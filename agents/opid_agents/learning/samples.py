"""From trajectories to step samples: the prompt of each step and the reply to it, as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opid_agents.skills.contrast import discounted_returns
from opid_agents.skills.reading import state_names
from opid_gym.prompting import PromptView
from opid_gym.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class StepSample:
    """One decision of a language model, ready to be learned from.

    Attributes:
        trajectory, step: where it comes from: position in the batch of trajectories, and step in it.
        group: the group of the trajectory, equal for rollouts of one task.
        prompt_ids, reply_ids: tokens.
        log_probs: of the reply tokens, under the policy and temperature they were sampled with.
        score: outcome of the trajectory, less the penalty if this step's action was invalid.
        success: the trajectory solved its task.
        step_return: discounted return from this step on, less this step's penalty.
        anchor: the name of the state the step was taken in.
    """

    trajectory: int
    step: int
    group: int
    prompt_ids: Sequence[int]
    reply_ids: Sequence[int]
    log_probs: Sequence[float]
    score: float
    success: bool
    step_return: float = 0.0
    anchor: str = ""


def step_samples(
    trajectories: Sequence[Trajectory],
    *,
    reward_scale: float = 1.0,
    invalid_penalty: float = 0.1,
    gamma: float = 0.95,
) -> list[StepSample]:
    """Every step of every trajectory as a sample.

    The score is ``reward_scale * return of the trajectory``, and ``invalid_penalty`` less on a step with an
    invalid action (OPID, stage 1).

    Args:
        trajectories: recorded by an `opid_agents.lm.LMAgent` with ``record_tokens=True``.
        reward_scale: factor on the return.
        invalid_penalty: what an invalid action costs its own step.
        gamma: discount of `StepSample.step_return`.

    Raises:
        ValueError: a step was recorded without its tokens.
    """
    samples = []
    for t, trajectory in enumerate(trajectories):
        returns, anchors = discounted_returns(trajectory, gamma), state_names(trajectory)
        for s, step in enumerate(trajectory.steps):
            missing = sorted({"prompt_ids", "reply_ids", "log_probs"} - set(step.data))
            if missing:
                raise ValueError(
                    f"step {s} of trajectory {t} has no {missing}: play with LMAgent(..., record_tokens=True)"
                )
            penalty = 0.0 if step.valid else invalid_penalty
            samples.append(
                StepSample(
                    trajectory=t,
                    step=s,
                    group=trajectory.group,
                    prompt_ids=step.data["prompt_ids"],
                    reply_ids=step.data["reply_ids"],
                    log_probs=step.data["log_probs"],
                    score=reward_scale * trajectory.episode_return - penalty,
                    success=trajectory.success,
                    step_return=reward_scale * returns[s] - penalty,
                    anchor=anchors[s],
                )
            )
    return samples


def view_at(trajectory: Trajectory, step: int) -> PromptView:
    """What the agent knew at a step."""
    history = [(s.observation, s.action) for s in trajectory.steps[:step]]
    now = trajectory.steps[step]
    return PromptView(trajectory.task, now.observation, history, now.admissible_actions)


def pad(values: Sequence[Sequence[float]], width: int | None = None) -> Tensor:
    """Rows of different lengths as one float tensor ``[B, L]``, zeros on the right."""
    width = max((len(row) for row in values), default=0) if width is None else width
    padded = torch.zeros(len(values), width)
    for i, row in enumerate(values):
        padded[i, : len(row)] = torch.tensor(list(row), dtype=torch.float32)
    return padded


def response_mask(samples: Sequence[StepSample]) -> Tensor:
    """``[B, L]`` bool, True on reply tokens."""
    lengths = torch.tensor([len(sample.reply_ids) for sample in samples])
    return torch.arange(int(lengths.max()) if len(lengths) else 0)[None, :] < lengths[:, None]


def token_rewards(samples: Sequence[StepSample], mask: Tensor) -> Tensor:
    """``[B, L]``: each sample's score on its last reply token, 0 elsewhere."""
    rewards = torch.zeros(mask.shape)
    last = mask.sum(-1) - 1
    rewards[torch.arange(len(samples)), last] = torch.tensor([sample.score for sample in samples])
    return rewards
