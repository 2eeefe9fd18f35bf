"""From trajectories to a batch of step samples: the prompt of each step and the reply to it, as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from opid_agents.algorithms import AdvantageInputs, AdvantageSettings
from opid_agents.algorithms.distillation import importance
from opid_agents.algorithms.distributions import Distribution
from opid_agents.returns import discounted_returns, state_names
from opid_agents.sampling.constraints import TokenMask
from opid_agents.skills.advice import disagrees
from opid_agents.skills.route import Route
from opid_agents.trace import TokenTrace
from opid_gym.prompting import PromptView
from opid_gym.trajectory import Step, Trajectory

Reward = Literal["return", "success"]


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
        dropped: number of the oldest history pairs that the prompt leaves out.
        valid: an action could be read from the reply.
        action_from: the first reply token that spells the action.
        masks: the tokens that could have come at each place of the reply, where it was constrained; None: all.
        version: of the weights that sampled it, the number of iterations that they had learned from.
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
    dropped: int = 0
    valid: bool = True
    action_from: int = 0
    masks: Sequence[TokenMask] | None = None
    version: int = 0


def outcome_of(trajectory: Trajectory, reward: Reward) -> float:
    """What an episode is worth."""
    return float(trajectory.success) if reward == "success" else trajectory.episode_return


def step_samples(
    trajectories: Sequence[Trajectory],
    *,
    reward: Reward = "return",
    reward_scale: float = 1.0,
    invalid_penalty: float = 0.1,
    gamma: float = 0.95,
) -> list[StepSample]:
    """Every step of every trajectory as a sample.

    The score is ``reward_scale`` times the return of the trajectory, or times 1 for a success and 0 otherwise, and
    ``invalid_penalty`` less on a step with an invalid action (OPID, stage 1).

    Args:
        trajectories: recorded by an `opid_agents.lm.LMAgent` with ``record_tokens=True``.
        reward: what counts: the ``return``, or ``success`` alone, which then is the reward of the last step.
        reward_scale: factor on it.
        invalid_penalty: what an invalid action costs its own step.
        gamma: discount of `StepSample.step_return`.

    Raises:
        ValueError: a step was recorded without its tokens.
    """
    samples = []
    for t, trajectory in enumerate(trajectories):
        if reward == "success":
            returns = [trajectory.success * gamma**left for left in reversed(range(len(trajectory)))]
        else:
            returns = discounted_returns(trajectory, gamma)
        anchors = state_names(trajectory)
        for s, step in enumerate(trajectory.steps):
            trace = TokenTrace.from_data(step.data)
            if trace is None:
                raise ValueError(
                    f"step {s} of trajectory {t} has no tokens: play with LMAgent(..., record_tokens=True)"
                )
            penalty = 0.0 if step.valid else invalid_penalty
            samples.append(
                StepSample(
                    trajectory=t,
                    step=s,
                    group=trajectory.group,
                    prompt_ids=trace.prompt_ids,
                    reply_ids=trace.reply_ids,
                    log_probs=trace.log_probs,
                    dropped=trace.dropped,
                    score=reward_scale * outcome_of(trajectory, reward) - penalty,
                    success=trajectory.success,
                    step_return=reward_scale * returns[s] - penalty,
                    anchor=anchors[s],
                    valid=step.valid,
                    version=trajectory.metadata.get("version", 0),
                )
            )
    return samples


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """Log-probabilities of the sampled tokens with a skill in the prompt (stage 4).

    Attributes:
        episode, step: ``[B, L]`` with the episode's and with the step's skill; 0 where a sample has none.
        episode_mask, step_mask: ``[B]``, which samples have one.
        other_episode, other_step: as `episode` and `step`, with the skills of another task; None: not scored.
        distributions: the teacher's distributions at the tokens of each sample, under its step skill where it has one,
            else under its episode skill; None for samples without. Empty: not asked for.
        replies: what the teacher itself says in the place of each sample's reply, under its step skill; None for
            samples without one, and where the teacher came to no end. Empty: not asked for.
        occupancy: share of the re-scored prompts that are, skill removed, exactly what was sampled from: 1.0, or there
            is a bug. None: nothing was re-scored.
        rescored_tokens: prompt tokens that were scored for it ...
        rescored_prompts: ... and how many prompts that were.
    """

    episode: Float[Tensor, "batch tokens"]
    step: Float[Tensor, "batch tokens"]
    episode_mask: Bool[Tensor, " batch"]
    step_mask: Bool[Tensor, " batch"]
    occupancy: float | None
    rescored_tokens: int
    rescored_prompts: int = 0
    other_episode: Float[Tensor, "batch tokens"] | None = None
    other_step: Float[Tensor, "batch tokens"] | None = None
    distributions: Sequence[Distribution | None] = ()
    replies: Sequence[Sequence[int] | None] = ()

    def to_cpu(self) -> TeacherScores:
        """With the distributions in the memory of the CPU, as the other scores are."""
        cpu = torch.device("cpu")
        return replace(self, distributions=[None if one is None else one.to(cpu) for one in self.distributions])

    @classmethod
    def merged(cls, parts: Sequence[tuple[Sequence[int], TeacherScores]]) -> TeacherScores:
        """The scores of a batch from those of its parts, each given with the positions of its samples."""
        places = torch.tensor([place for own, _ in parts for place in own])
        order = places.argsort()
        tables = ("episode", "step", "episode_mask", "step_mask", "other_episode", "other_step")
        rows = {
            name: torch.cat([getattr(part, name) for _, part in parts])[order]
            for name in tables
            if all(getattr(part, name) is not None for _, part in parts)
        }
        known = [one for _, part in parts for one in part.distributions]
        said = [one for _, part in parts for one in part.replies]
        prompts = sum(part.rescored_prompts for _, part in parts)
        same = sum((part.occupancy or 0.0) * part.rescored_prompts for _, part in parts)
        return cls(
            **rows,
            occupancy=same / prompts if prompts else None,
            rescored_prompts=prompts,
            rescored_tokens=sum(part.rescored_tokens for _, part in parts),
            distributions=[known[i] for i in order.tolist()] if known else (),
            replies=[said[i] for i in order.tolist()] if said else (),
        )


@dataclass(frozen=True, slots=True)
class SamplerGap:
    """How far the policy is from what sampled its replies: rounding, or the sampler has other weights.

    Attributes:
        mean: mean absolute difference of the two log-probabilities of a token, in nats.
        kl: estimate of KL(sampler || policy), in nats a token: the mean of r - 1 - log r with the ratio r = policy's by
            sampler's probability, which is unbiased and never negative (Schulman 2020, "Approximating KL Divergence").
    """

    mean: float
    kl: float

    @classmethod
    def of(cls, sampled: Float[Tensor, " tokens"], scored: Float[Tensor, " tokens"]) -> SamplerGap | None:
        """From the sampler's and the policy's log-probabilities of sampled tokens; None without any."""
        if not len(sampled):
            return None
        log_ratio = (scored - sampled).double()
        return cls(float(log_ratio.abs().mean()), float((log_ratio.expm1() - log_ratio).mean()))


@dataclass(frozen=True, slots=True)
class Batch:
    """The step samples that an iteration trains, as they go from stage to stage.

    B samples, L tokens of the longest reply; row i of every field belongs to sample i.

    Attributes:
        trajectories: all of the iteration; the samples point into them.
        groups: number of groups that are trained.
        samples: the steps of these groups.
        routes: the skills that each sample is re-scored with (stage 3).
        response_mask: ``[B, L]``, True on reply tokens.
        old_log_probs: ``[B, L]``, of the reply tokens under the prompts they were sampled from.
        teacher: what the re-scoring gave; None before stage 4 and for a batch that is not trained.
        sampler_gap: how far the policy is from what sampled, where it scored the samples again; None: it did not.
        importance: ``[B, L]``, weights of the reply tokens where older weights sampled them, 0 elsewhere; None: all 1.
    """

    trajectories: Sequence[Trajectory]
    groups: int
    samples: Sequence[StepSample]
    routes: Sequence[Route]
    response_mask: Bool[Tensor, "batch tokens"]
    old_log_probs: Float[Tensor, "batch tokens"]
    teacher: TeacherScores | None = None
    sampler_gap: SamplerGap | None = None
    importance: Float[Tensor, "batch tokens"] | None = None

    @classmethod
    def of(
        cls, trajectories: Sequence[Trajectory], samples: Sequence[StepSample], routes: Sequence[Route] | None = None
    ) -> Batch:
        """A batch of samples; without `routes` none hears a skill.

        Raises:
            ValueError: another number of routes than of samples.
        """
        routes = [Route()] * len(samples) if routes is None else routes
        if len(routes) != len(samples):
            raise ValueError(f"one route for each sample is needed, got {len(routes)} for {len(samples)}")
        groups = len({sample.group for sample in samples})
        old = pad([sample.log_probs for sample in samples])
        return cls(trajectories, groups, samples, routes, response_mask(samples), old)

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, places: Sequence[int]) -> Batch:
        """The samples at some positions, as a batch of their own; not yet re-scored."""
        index = torch.tensor(places, dtype=torch.long)
        samples = [self.samples[i] for i in places]
        return replace(
            self,
            groups=len({sample.group for sample in samples}),
            samples=samples,
            routes=[self.routes[i] for i in places],
            response_mask=self.response_mask[index],
            old_log_probs=self.old_log_probs[index],
            importance=None if self.importance is None else self.importance[index],
            teacher=None,
        )

    def step_of(self, i: int) -> Step:
        """The step that a sample comes from."""
        return self.trajectories[self.samples[i].trajectory].steps[self.samples[i].step]

    def with_old_log_probs(self, scored: Sequence[Sequence[float]], *, importance_limit: float | None = None) -> Batch:
        """The batch with other log-probabilities of the sampled tokens, and how far they are from the former.

        Args:
            scored: of the tokens of each sample.
            importance_limit: weight the tokens by the ratio of new and former probability, at most this; None: do not.
        """
        rows = list(zip(self.samples, scored, strict=True))
        old = pad(scored, self.old_log_probs.shape[1])
        weights = None
        if importance_limit is not None:
            weights = importance(old, self.old_log_probs, limit=importance_limit) * self.response_mask
        return replace(
            self,
            samples=[replace(sample, log_probs=values) for sample, values in rows],
            old_log_probs=old,
            sampler_gap=SamplerGap.of(self.old_log_probs[self.response_mask], old[self.response_mask]),
            importance=weights,
        )

    def advantage_inputs(
        self, settings: AdvantageSettings, constants: Mapping[str, Any], iteration: int
    ) -> AdvantageInputs:
        """What an algorithm's advantage is computed from."""
        teacher = self.teacher
        width = self.response_mask.shape[1]
        first = torch.tensor([sample.action_from for sample in self.samples])
        return AdvantageInputs(
            token_level_rewards=token_rewards(self.samples, self.response_mask),
            response_mask=self.response_mask,
            task_ids=[sample.group for sample in self.samples],
            old_log_probs=self.old_log_probs,
            episode_log_probs=None if teacher is None else teacher.episode,
            step_log_probs=None if teacher is None else teacher.step,
            episode_mask=None if teacher is None else teacher.episode_mask,
            step_mask=None if teacher is None else teacher.step_mask,
            trajectory_ids=[sample.trajectory for sample in self.samples],
            step_returns=torch.tensor([sample.step_return for sample in self.samples]),
            anchors=[sample.anchor for sample in self.samples],
            success=torch.tensor([sample.success for sample in self.samples]),
            other_episode_log_probs=None if teacher is None else teacher.other_episode,
            other_step_log_probs=None if teacher is None else teacher.other_step,
            disagrees=torch.tensor([disagrees(self.step_of(i), way.step) for i, way in enumerate(self.routes)]),
            action_mask=self.response_mask & (torch.arange(width)[None, :] >= first[:, None]),
            settings=settings,
            constants=constants,
            iteration=iteration,
        )


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
