"""Stage 4 of OPID in detail: the sampled tokens under prompts that hold skills."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from opid_agents.algorithms.distributions import Distribution
from opid_agents.distributed import ALONE, Processes
from opid_agents.lm import LMSettings, fit_prompt
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.sampling.sampler import Sampler, SamplingParams
from opid_agents.skills.route import Route
from opid_agents.streams import stream
from opid_agents.training.batch import Batch, TeacherScores, pad, view_at
from opid_agents.training.diagnostics import occupancy_share
from opid_agents.training.scoring import owned, score_together


def rescores_old(recipe: Recipe, policy: Policy) -> bool:
    """Whether what was sampled is scored again before the updates (``sampler.rescore_old``).

    Older weights than those that are trained have others (``staleness``). Even of the same, one token at a time or a
    whole row at once is the same to seven digits in float32; in half precision the two differ in the second or third
    digit, and vLLM's kernels round in ways of their own.
    """
    wanted = recipe.sampler.rescore_old
    if wanted == "auto":
        return recipe.staleness > 0 or recipe.sampler.kind != "hf" or torch.finfo(policy.dtype).bits < 32
    return wanted


def rescore_old(
    policy: Policy,
    batch: Batch,
    *,
    temperature: float,
    processes: Processes = ALONE,
    importance_limit: float | None = None,
) -> Batch:
    """A batch with the log-probabilities that `policy` itself gives its tokens, in place of those of sampling.

    With a limit each token is weighted by the ratio of the two, truncated there, because other weights sampled it.
    """
    scored = score_together(policy.score, batch.samples, processes, temperature=temperature)
    return batch.with_old_log_probs(scored, importance_limit=importance_limit)


def together(batch: Batch, processes: Processes, rescore: Callable[[Batch, Sequence[int]], Batch]) -> Batch:
    """A batch that was re-scored in parts: each process scores the samples of its own groups, and all get the whole.

    Args:
        batch: the same for all.
        processes: who takes part.
        rescore: from a part of the batch and the positions of its samples to the part with its teacher's scores.
    """
    if processes.size == 1:
        return rescore(batch, range(len(batch)))
    own = owned(batch.samples, processes)
    mine = rescore(batch.take(own), own).teacher
    assert mine is not None
    parts = processes.gather((own, mine.to_cpu()))
    return replace(batch, teacher=TeacherScores.merged(parts))


@dataclass(frozen=True, slots=True)
class SkilledPrompt:
    """The prompt of a sample with a skill in it.

    Attributes:
        sample: of which sample.
        kind: of skill, ``episode`` or ``step``.
        ids: its tokens.
        sampled, without_skill: the text that the reply was sampled from, and this prompt's without the skill.
    """

    sample: int
    kind: str
    ids: Sequence[int]
    sampled: str | None
    without_skill: str


def skilled_prompts(policy: Policy, settings: LMSettings, batch: Batch, routes: Sequence[Route]) -> list[SkilledPrompt]:
    """The prompts of a batch with the skills of `routes` in them.

    A prompt that no longer fits the model's context, without forgetting more history than it had, is left out.
    """
    prompts = []
    for i, (sample, way) in enumerate(zip(batch.samples, routes, strict=True)):
        step = batch.step_of(i)
        for kind, skill in (("episode", way.episode), ("step", way.step)):
            if skill is None:
                continue
            view = view_at(batch.trajectories[sample.trajectory], sample.step)
            fitted = fit_prompt(policy, settings, view, dropped=sample.dropped, **{f"{kind}_skill": skill})
            if fitted.dropped == sample.dropped:
                prompts.append(SkilledPrompt(i, kind, fitted.ids, step.prompt, fitted.prompt.without_skill()))
    return prompts


def routed_only(policy: Policy, settings: LMSettings, batch: Batch) -> Batch:
    """A batch that knows which samples hear which skill; nothing is scored, log-probabilities are 0."""
    prompts = skilled_prompts(policy, settings, batch, batch.routes)
    masks = _masks(prompts, len(batch))
    nothing = torch.zeros(batch.response_mask.shape)
    return replace(
        batch,
        teacher=TeacherScores(nothing, nothing, masks["episode"], masks["step"], _occupancy(prompts), 0, len(prompts)),
    )


def rescore_with_skills(
    policy: Policy,
    settings: LMSettings,
    batch: Batch,
    *,
    temperature: float,
    others: Sequence[Route] | None = None,
    distributions: bool = False,
    top_k: int | None = None,
) -> Batch:
    """A batch with the log-probabilities of its tokens under prompts that hold the routed skills.

    Args:
        policy, settings: who scores, and how prompts are written.
        batch: samples and their routes.
        temperature: that the replies were sampled at.
        others: other skills for the same steps, to contrast with; a sample that has none hears its own neither.
        distributions: also keep the teacher's distribution at each token of the samples that hear a skill ...
        top_k: ... its likeliest tokens only; None: the whole vocabulary.
    """
    prompts = skilled_prompts(policy, settings, batch, batch.routes)
    contrasted: list[SkilledPrompt] = []
    if others is not None:
        contrasted = skilled_prompts(policy, settings, batch, others)
        both = {(p.sample, p.kind) for p in prompts} & {(p.sample, p.kind) for p in contrasted}
        prompts, contrasted = ([p for p in some if (p.sample, p.kind) in both] for some in (prompts, contrasted))
    asked = [*prompts, *contrasted]
    replies = [batch.samples[p.sample].reply_ids for p in asked]
    limits = [batch.samples[p.sample].masks for p in asked]
    scored = policy.score([p.ids for p in asked], replies, temperature=temperature, masks=limits)
    own, other = (_table(batch, some, values) for some, values in (
        (prompts, scored[: len(prompts)]), (contrasted, scored[len(prompts) :])
    ))  # fmt: skip
    masks = _masks(prompts, len(batch))
    whole: list[Distribution | None] = []
    if distributions:
        # One teacher a sample, the step skill's where there is one; later entries replace earlier ones.
        chosen = {p.sample: p for kind in ("episode", "step") for p in prompts if p.kind == kind}
        found = policy.distributions(
            [p.ids for p in chosen.values()],
            [batch.samples[i].reply_ids for i in chosen],
            temperature=temperature,
            top_k=top_k,
            masks=[batch.samples[i].masks for i in chosen],
        )
        whole = [None] * len(batch)
        for i, one in zip(chosen, found, strict=True):
            whole[i] = one
    return replace(
        batch,
        teacher=TeacherScores(
            own["episode"],
            own["step"],
            masks["episode"],
            masks["step"],
            _occupancy(asked),
            sum(len(p.ids) for p in asked),
            len(asked),
            None if others is None else other["episode"],
            None if others is None else other["step"],
            whole,
        ),
    )


def teacher_replies(
    sampler: Sampler, policy: Policy, settings: LMSettings, batch: Batch, *, temperature: float, seed: int
) -> list[list[int] | None]:
    """What the teacher says in the place of each sample's reply, with the sample's step skill in its prompt.

    An episode's steps are asked for one after the other, so that what they have in common is computed once.

    Args:
        sampler, policy, settings: who speaks, and how prompts and replies are written.
        batch: samples and their routes.
        temperature: of the sampling.
        seed: a reply depends on it, on its episode's number and on its step.

    Returns:
        Token ids; None for samples without a step skill, and for replies that were cut at the maximum of tokens.
    """
    replies: list[list[int] | None] = [None] * len(batch)
    params = SamplingParams(settings.max_reply_tokens, temperature, settings.stop)
    waves: dict[int, list[SkilledPrompt]] = {}
    for prompt in skilled_prompts(policy, settings, batch, batch.routes):
        if prompt.kind == "step":
            waves.setdefault(batch.samples[prompt.sample].step, []).append(prompt)
    for step, prompts in sorted(waves.items()):
        episodes = [batch.samples[prompt.sample].trajectory for prompt in prompts]
        samples = sampler.sample(
            [prompt.ids for prompt in prompts],
            params,
            seeds=[stream(seed, episode, step) for episode in episodes],
            keys=episodes,
            constraints=[
                settings.constraint(policy, batch.step_of(prompt.sample).admissible_actions) for prompt in prompts
            ],
        )
        for prompt, reply, ended in zip(prompts, samples.reply_ids, samples.ended, strict=True):
            replies[prompt.sample] = reply if ended else None
    return replies


def _masks(prompts: Sequence[SkilledPrompt], batch: int) -> dict[str, Tensor]:
    masks = {kind: torch.zeros(batch, dtype=torch.bool) for kind in ("episode", "step")}
    for prompt in prompts:
        masks[prompt.kind][prompt.sample] = True
    return masks


def _table(batch: Batch, prompts: Sequence[SkilledPrompt], scored: Sequence[Sequence[float]]) -> dict[str, Tensor]:
    """``[B, L]`` by kind of skill; 0 where a sample has none."""
    rows: dict[str, list[Sequence[float]]] = {kind: [()] * len(batch) for kind in ("episode", "step")}
    for prompt, values in zip(prompts, scored, strict=True):
        rows[prompt.kind][prompt.sample] = values
    return {kind: pad(values, batch.response_mask.shape[1]) for kind, values in rows.items()}


def _occupancy(prompts: Sequence[SkilledPrompt]) -> float | None:
    return occupancy_share([p.sampled for p in prompts], [p.without_skill for p in prompts])
