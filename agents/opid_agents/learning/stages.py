"""The five stages of OPID as functions; `opid_agents.learning.train` calls them in this order.

Roll out, extract, route, re-score, update (OPID, arXiv 2606.26790). Each takes records and returns records.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from gymnasium.vector import VectorEnv
from torch import Tensor

from opid_agents.learning.advantages import Advantage
from opid_agents.learning.diagnostics import occupancy_share
from opid_agents.learning.learner import Learner, Swap, trained_samples
from opid_agents.learning.losses import LossInputs, LossSettings
from opid_agents.learning.samples import StepSample, pad, view_at
from opid_agents.lm import LMAgent, LMSettings, fit_prompt
from opid_agents.packing import Row, batches
from opid_agents.policy import Policy, Sampler
from opid_agents.skills.controls import other_task_skills, shuffle_skills
from opid_agents.skills.extract import Extractor, Skills
from opid_agents.skills.route import Route, RoutingMode, route
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory


# -- Stage 1 --
def roll_out(
    envs: VectorEnv,
    policy: Policy,
    settings: LMSettings,
    task_ids: Sequence[str],
    rollouts: int,
    *,
    temperature: float,
    seed: int,
    skill_for: Callable[[str, str], str | None] | None = None,
    sampler: Sampler | None = None,
    on_episode: Callable[[int], None] = lambda episodes: None,
) -> list[Trajectory]:
    """Play every task `rollouts` times with `policy`; `skill_for` and `sampler` as in `opid_agents.lm.LMAgent`.

    Returns:
        Trajectories, siblings side by side; ``group`` is the task's position in `task_ids`.
    """
    agent = LMAgent(
        policy,
        settings,
        temperature=temperature,
        seed=seed,
        record_tokens=True,
        skill_for=skill_for,
        sampler=sampler,
    )
    repeated = [task_id for task_id in task_ids for _ in range(rollouts)]
    finished: list[Trajectory | None] = [None] * len(repeated)
    for trajectory in play(envs, agent, repeated):
        index = trajectory.metadata["index"]
        trajectory.group = index // rollouts
        finished[index] = trajectory
        on_episode(1)
    return [trajectory for trajectory in finished if trajectory is not None]


# -- Stage 2 --
def extract(
    extractor: Extractor,
    trajectories: Sequence[Trajectory],
    groups: set[int],
    wanted: Callable[[Trajectory], bool] = lambda trajectory: True,
) -> tuple[list[Skills | None], dict[str, float]]:
    """The skills of each wanted trajectory of the given groups, None for the others; and the extractor's metrics."""
    members: dict[int, list[int]] = {}
    for i, trajectory in enumerate(trajectories):
        if trajectory.group in groups:
            members.setdefault(trajectory.group, []).append(i)
    found: list[Skills | None] = [None] * len(trajectories)
    places = list(members.values())
    extraction = extractor.extract_all([[trajectories[i] for i in group] for group in places], wanted)
    for group, skills in zip(places, extraction.skills, strict=True):
        for i, skill in zip(group, skills, strict=True):
            found[i] = skill
    return found, extraction.metrics


# -- Stage 3 --
def route_all(
    trajectories: Sequence[Trajectory],
    skills: Sequence[Skills | None],
    *,
    mode: RoutingMode,
    episode_weight: float,
    step_weight: float,
) -> list[Route]:
    """The route of every step sample, in the order of `opid_agents.learning.samples.step_samples`."""
    return [
        way
        for trajectory, skill in zip(trajectories, skills, strict=True)
        for way in route(skill, len(trajectory), mode=mode, episode_weight=episode_weight, step_weight=step_weight)
    ]


def swap_skills(routes: Sequence[Route], tasks: Sequence[str], swap: Swap | None, *, seed: int) -> list[Route]:
    """The routes with the wrong skills a control asks for; see `opid_agents.skills.controls`."""
    if swap == "shuffled":
        return shuffle_skills(routes, random.Random(seed))
    if swap == "other_task":
        return other_task_skills(routes, tasks, random.Random(seed))
    return list(routes)


# -- Stage 4 --
def rescore_old(
    policy: Policy, samples: Sequence[StepSample], *, temperature: float
) -> tuple[list[StepSample], float | None]:
    """Samples of another engine with the log-probabilities that `policy` itself gives them.

    Returns:
        The samples, and the mean absolute change of a token's log-probability: rounding, or the engine samples from
        other weights. None without tokens.
    """
    scored = policy.score([s.prompt_ids for s in samples], [s.reply_ids for s in samples], temperature=temperature)
    gaps = [
        abs(ours - theirs)
        for sample, values in zip(samples, scored, strict=True)
        for ours, theirs in zip(values, sample.log_probs, strict=True)
    ]
    rescored = [replace(sample, log_probs=values) for sample, values in zip(samples, scored, strict=True)]
    return rescored, sum(gaps) / len(gaps) if gaps else None


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """Log-probabilities ``[B, L]`` of the sampled tokens with a skill in the prompt; which samples ``[B]`` have one.

    `occupancy` is the share of re-scored prompts that are, skill removed, exactly what was sampled from: 1.0, or
    there is a bug.
    """

    episode: Tensor
    step: Tensor
    episode_mask: Tensor
    step_mask: Tensor
    occupancy: float | None
    rescored_tokens: int


def rescore(
    policy: Policy,
    settings: LMSettings,
    trajectories: Sequence[Trajectory],
    samples: Sequence[StepSample],
    routes: Sequence[Route],
    width: int,
    *,
    temperature: float,
    score: bool = True,
) -> TeacherScores:
    """Score the sampled tokens again with the routed skills in the prompts, by the policy that sampled them.

    Without `score` the masks are the same and the log-probabilities 0, for learners that only want to know where.
    """
    asked: list[tuple[int, str]] = []
    prompts: list[Sequence[int]] = []
    sampled: list[str | None] = []
    rescored: list[str] = []
    for i, (sample, way) in enumerate(zip(samples, routes, strict=True)):
        trajectory = trajectories[sample.trajectory]
        step = trajectory.steps[sample.step]
        for kind, skill in (("episode", way.episode), ("step", way.step)):
            if skill is None:
                continue
            fitted = fit_prompt(
                policy,
                settings,
                view_at(trajectory, sample.step),
                dropped=step.data.get("dropped", 0),
                **{f"{kind}_skill": skill},
            )
            if fitted.dropped != step.data.get("dropped", 0):
                continue  # with the skill it no longer fits without forgetting more than the policy had forgotten
            asked.append((i, kind))
            prompts.append(fitted.ids)
            sampled.append(step.prompt)
            rescored.append(fitted.prompt.without_skill())
    replies = [samples[i].reply_ids for i, _ in asked]
    if score:
        scored = policy.score(prompts, replies, temperature=temperature)
    else:
        scored, prompts = [[0.0] * len(reply) for reply in replies], []
    rows: dict[str, list[Sequence[float]]] = {kind: [()] * len(samples) for kind in ("episode", "step")}
    masks = {kind: torch.zeros(len(samples), dtype=torch.bool) for kind in rows}
    for (i, kind), values in zip(asked, scored, strict=True):
        rows[kind][i] = values
        masks[kind][i] = True
    return TeacherScores(
        pad(rows["episode"], width),
        pad(rows["step"], width),
        masks["episode"],
        masks["step"],
        occupancy_share(sampled, rescored),
        sum(len(prompt) for prompt in prompts),
    )


# -- Stage 5 --
class Scorer(Protocol):
    """Log-probabilities of replies, as `opid_agents.policy.Policy.score` gives them."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]], *, temperature: float = 1.0
    ) -> list[list[float]]: ...


@dataclass(frozen=True, slots=True)
class UpdateResult:
    """What the updates of an iteration did; metrics are means over them."""

    metrics: dict[str, float]
    updates: int
    skipped: int
    skipped_in_a_row: int


def update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    learner: Learner,
    samples: Sequence[StepSample],
    advantage: Advantage,
    settings: LossSettings,
    *,
    temperature: float,
    epochs: int,
    minibatches: int,
    clip_norm: float,
    seed: int,
    reference: Scorer | None = None,
    skipped_in_a_row: int = 0,
    teacher: tuple[Tensor, Tensor] | None = None,
    on_row: Callable[[int], None] = lambda rows: None,
) -> UpdateResult:
    """Train the policy in place.

    Samples without a gradient (`opid_agents.learning.learner.trained_samples`) are left out; the token mean counts
    them. An update whose loss or gradient is not finite is skipped and counted. `teacher` has log-probabilities and
    mask, both ``[B, L]``, for losses that distil; `reference` scores for the KL term.
    """
    tokens = sum(len(sample.reply_ids) for sample in samples)
    trained = trained_samples(learner, advantage, settings, None if teacher is None else teacher[1])
    active: list[int] = trained.nonzero()[:, 0].tolist()
    rows = policy.rows([samples[i].prompt_ids for i in active], [samples[i].reply_ids for i in active])
    old = pad([sample.log_probs for sample in samples], advantage.advantages.shape[1])
    ref = None
    if reference is not None and active:
        ref = torch.zeros_like(old)
        scored = reference(
            [samples[i].prompt_ids for i in active], [samples[i].reply_ids for i in active], temperature=temperature
        )
        ref[active] = pad(scored, old.shape[1])
    rng = random.Random(seed)
    totals: dict[str, float] = {}
    updates = skipped = 0
    for _ in range(epochs):
        for part in _parts(rows, minibatches, rng):
            metrics: dict[str, float] = {}
            finite = True
            for batch in batches(part, policy.train_tokens):
                now = policy.log_probs(batch, temperature=temperature)
                # The samples' own indices, then the token's: from [B, L] to the flat order of the rows.
                which = torch.tensor(active)[now.sample.cpu()], now.position.cpu()
                out = learner.loss(
                    LossInputs(
                        log_probs=now.log_probs[None],
                        old_log_probs=old[which][None].to(policy.device),
                        advantages=advantage.advantages[which][None].to(policy.device),
                        response_mask=torch.ones(1, len(now.log_probs), dtype=torch.bool, device=policy.device),
                        ref_log_probs=None if ref is None else ref[which][None].to(policy.device),
                        entropies=now.entropies[None],
                        teacher_log_probs=None if teacher is None else teacher[0][which][None].to(policy.device),
                        teacher_mask=None if teacher is None else teacher[1][which][None].to(policy.device),
                        total_weight=tokens / minibatches,
                        settings=settings,
                    )
                )
                finite = finite and bool(torch.isfinite(out.loss))
                out.loss.backward()
                for name, value in out.metrics.items():
                    metrics[name] = metrics.get(name, 0.0) + value
                on_row(len(batch))
            norm = torch.nn.utils.clip_grad_norm_(policy.trained(), clip_norm)
            if finite and bool(torch.isfinite(norm)):
                optimizer.step()
                updates += 1
                skipped_in_a_row = 0
                metrics["grad_norm"] = float(norm)
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + value
            else:
                skipped += 1
                skipped_in_a_row += 1
            optimizer.zero_grad(set_to_none=True)
    means = {name: value / updates for name, value in totals.items()} if updates else {}
    means |= {"trained_samples": float(len(active)), "trained_tokens": float(sum(len(row.ids) for row in rows))}
    return UpdateResult(means, updates, skipped, skipped_in_a_row)


def _parts(rows: Sequence[Row], count: int, rng: random.Random) -> list[list[Row]]:
    """Rows at random in `count` parts of about equal size; no empty parts."""
    shuffled = rng.sample(list(rows), len(rows))
    size = math.ceil(len(rows) / count) if rows else 1
    return [shuffled[i : i + size] for i in range(0, len(shuffled), size)]
