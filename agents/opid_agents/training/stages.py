"""The five stages of OPID (arXiv 2606.26790) on a run; `opid_agents.training.loop.train` calls them in this order.

Roll out, extract, route, re-score, update. Each takes the run and what the stage before gave, and changes neither.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from opid_agents.algorithms.algorithm import Swap, teacher_scores
from opid_agents.algorithms.optimizer import set_rate
from opid_agents.lm import LMSettings
from opid_agents.policy import Policy
from opid_agents.sampling.constraints import TokenMask
from opid_agents.sampling.engine import HFSampler
from opid_agents.skills.advice import advised_action, balance
from opid_agents.skills.controls import other_task_skills, shuffle_skills
from opid_agents.skills.extract import Skills
from opid_agents.skills.library import append, successes
from opid_agents.skills.route import Route
from opid_agents.skills.route import route as route_steps
from opid_agents.streams import stream
from opid_agents.training.batch import Batch, StepSample, outcome_of, step_samples
from opid_agents.training.extraction import append_unreadable, extract_together, skills_are_on, wanted_in
from opid_agents.training.imitation import reply_to_imitate
from opid_agents.training.player import weights_of
from opid_agents.training.rescoring import (
    rescore_old,
    rescore_with_skills,
    rescores_old,
    routed_only,
    teacher_replies,
    together,
)
from opid_agents.training.rollouts import play_part
from opid_agents.training.token_log import token_texts
from opid_agents.training.updates import LossData, UpdateResult, update_policy
from opid_gym.trajectory import Trajectory

if TYPE_CHECKING:
    from opid_agents.training.run import Run


def roll_out(run: Run, iteration: int) -> list[Trajectory]:
    """Stage 1: play groups of episodes with the current policy; no skill is seen, except from a library.

    With ``staleness`` another process has played them, with earlier weights, and begins a later iteration's now.
    """
    part = run.part(iteration)
    with run.timed("rollout", "roll out", len(part.tasks) * run.recipe.group_size) as advance:
        if run.ahead is None:
            played = play_part(
                run.recipe,
                run.settings,
                run.policy,
                run.envs,
                part,
                library=run.library,
                sampler=run.sampler,
                on_episode=advance,
            )
        else:
            run.ahead.remember(iteration - 1, weights_of(run.policy), run.library)
            played = run.ahead.take(iteration, run.part)
        return sorted(itertools.chain(*run.processes.gather(played)), key=lambda trajectory: trajectory.group)


def extract(
    run: Run, trajectories: Sequence[Trajectory], iteration: int
) -> tuple[list[Skills | None], dict[str, float]]:
    """Stage 2: find the skills of finished trajectories, in hindsight.

    Returns:
        The skills of each trajectory, None where there are none; and the extractor's figures.
    """
    found: list[Skills | None] = [None] * len(trajectories)
    figures: dict[str, float] = {}
    with run.timed("extract"):
        if run.extractor is not None and skills_are_on(run.recipe, iteration):
            # A library learns from every group, an update only from those that are trained.
            groups = {t.group for t in trajectories} if run.library is not None else trained_groups(run, trajectories)
            places = [[i for i, t in enumerate(trajectories) if t.group == group] for group in sorted(groups)]
            members = [[trajectories[i] for i in group] for group in places]
            wanted = wanted_in(run.recipe, iteration, run.folder.teacher)
            divided = run.recipe.skills.extractor == "self"
            extraction = extract_together(run.extractor, members, wanted, run.processes, divided=divided)
            figures = extraction.metrics
            if run.processes.leads:
                run.folder.spend(figures)
                append_unreadable(run.folder.path / "unreadable_replies.jsonl", iteration, extraction.unreadable)
            for group, skills in zip(places, extraction.skills, strict=True):
                for i, skill in zip(group, skills, strict=True):
                    found[i] = skill
    if run.library is not None:
        new = successes(iteration, trajectories, found)
        run.library.add(new)
        if run.processes.leads:
            append(run.folder.library, new)
    return found, figures


def route(run: Run, trajectories: Sequence[Trajectory], skills: Sequence[Skills | None], iteration: int) -> Batch:
    """Stage 3: critical steps hear their own skill, the others their episode's; groups without news are left out."""
    recipe, algorithm = run.recipe, run.algorithm
    with run.timed("route"):
        samples = step_samples(
            trajectories,
            reward=recipe.reward,
            reward_scale=recipe.reward_scale,
            invalid_penalty=recipe.invalid_penalty,
            gamma=recipe.advantage.gamma,
        )
        routes = [
            way
            for trajectory, skill in zip(trajectories, skills, strict=True)
            for way in route_steps(
                skill if algorithm.teacher != "none" else None,
                len(trajectory),
                mode=recipe.skills.routing,
                episode_weight=recipe.advantage.episode_weight,
                step_weight=recipe.advantage.step_weight,
            )
        ]
        groups = trained_groups(run, trajectories)
        kept = [i for i, sample in enumerate(samples) if sample.group in groups]
        samples, routes = [samples[i] for i in kept], [routes[i] for i in kept]
        if recipe.skills.once_per_advice or recipe.skills.max_per_state is not None:
            routes = balance(
                routes,
                [sample.trajectory for sample in samples],
                [kind_of_state(sample.anchor) for sample in samples],
                once_per_advice=recipe.skills.once_per_advice,
                per_state=recipe.skills.max_per_state,
            )
        if algorithm.action_tokens:
            tags = ("action",) if run.settings.action_format.tag else run.settings.action_format.elements
            samples = [replace(s, action_from=action_start(run.policy, s.reply_ids, tags)) for s in samples]
        if run.settings.constrain:
            samples = [replace(sample, masks=_masks(run, trajectories, sample)) for sample in samples]
        tasks = [trajectories[sample.trajectory].task_id for sample in samples]
        routes = swap_skills(routes, tasks, algorithm.swap, seed=stream(recipe.seed, "swap", iteration))
        return Batch.of(trajectories, samples, routes)


def _masks(run: Run, trajectories: Sequence[Trajectory], sample: StepSample) -> Sequence[TokenMask] | None:
    step = trajectories[sample.trajectory].steps[sample.step]
    return run.settings.masks(run.policy, step.admissible_actions, sample.reply_ids)


def rescore(run: Run, batch: Batch, iteration: int) -> Batch:
    """Stage 4: score the sampled tokens again, by the frozen teacher, with the skills in their prompts.

    The teacher is the policy before the update, which sampled them unless there is a ``staleness``, or another one if
    the algorithm says so.
    """
    recipe = run.recipe
    if not run.trains(batch):
        return batch
    if rescores_old(recipe, run.policy):
        with run.timed("rescore old"):
            batch = rescore_old(
                run.policy,
                batch,
                temperature=recipe.temperature,
                processes=run.processes,
                importance_limit=recipe.loss.importance_limit if recipe.staleness else None,
            )
    teacher = run.policy if run.teacher is None else run.teacher.policy
    with run.timed("rescore"):
        if run.algorithm.teacher != "scores":
            return together(batch, run.processes, lambda part, own: routed_only(teacher, run.settings, part))
        others = None
        if run.algorithm.other_skill:
            tasks = [batch.trajectories[sample.trajectory].task_id for sample in batch.samples]
            seed = stream(recipe.seed, "other", iteration)
            others = other_task_skills(batch.routes, tasks, random.Random(seed))

        def rescored(part: Batch, own: Sequence[int]) -> Batch:
            scored = rescore_with_skills(
                teacher,
                run.settings,
                part,
                temperature=recipe.temperature,
                others=None if others is None else [others[i] for i in own],
                distributions=run.algorithm.distributions,
                top_k=run.constants.get("top_k") or None,
            )
            if run.algorithm.imitates != "reply" or scored.teacher is None:
                return scored
            replies = teacher_replies(
                HFSampler(teacher) if run.teacher is not None or run.sampler is None else run.sampler,
                teacher,
                run.settings,
                part,
                temperature=recipe.temperature,
                seed=stream(recipe.seed, "teacher's reply", iteration),
            )
            return replace(scored, teacher=replace(scored.teacher, replies=replies))

        return together(batch, run.processes, rescored)


def update(run: Run, batch: Batch, iteration: int) -> UpdateResult:
    """Stage 5: combine outcome and skill shifts to one advantage, and train the policy in place."""
    recipe, algorithm = run.recipe, run.algorithm
    if not run.trains(batch) or algorithm.advantage is None:
        return UpdateResult({}, 0, 0, run.progress.skipped_in_a_row)
    set_rate(run.optimizer, recipe.optimizer.rate(iteration, recipe.iterations))
    run.begin_update()
    with run.timed("update", "update") as advance:
        inputs = batch.advantage_inputs(recipe.advantage, run.constants, iteration)
        scores, mask = teacher_scores(inputs) if algorithm.distills else (None, None)
        result = update_policy(
            run.policy,
            run.optimizer,
            algorithm,
            LossData(
                batch.samples,
                algorithm.advantage(inputs),
                scores,
                mask,
                () if batch.teacher is None else batch.teacher.distributions,
                what_to_imitate(run, batch),
                batch.importance,
            ),
            recipe.loss,
            recipe.optimizer,
            temperature=recipe.temperature,
            seed=stream(recipe.seed, "update", iteration),
            constants=run.constants,
            iteration=iteration,
            max_tokens=run.settings.max_reply_tokens,
            reference=run.reference,
            skipped_in_a_row=run.progress.skipped_in_a_row,
            on_row=advance,
            processes=run.processes,
        )
    if run.teacher is not None:
        run.teacher.follow(run.policy)
    if run.sampler is not None:
        with run.timed("sync"):
            run.sampler.sync()
    return result


def trained_groups(run: Run, trajectories: Sequence[Trajectory]) -> set[int]:
    """The groups an iteration trains: those whose rollouts differ in their outcome, or all."""
    outcomes: dict[int, set[float]] = {}
    for trajectory in trajectories:
        outcomes.setdefault(trajectory.group, set()).add(outcome_of(trajectory, run.recipe.reward))
    if not run.algorithm.needs_variance or run.recipe.train_uniform_groups:
        return set(outcomes)
    return {group for group, found in outcomes.items() if len(found) > 1}


def swap_skills(routes: Sequence[Route], tasks: Sequence[str], swap: Swap | None, *, seed: int) -> list[Route]:
    """The routes with the wrong skills a control asks for; see `opid_agents.skills.controls`."""
    if swap == "shuffled":
        return shuffle_skills(routes, random.Random(seed))
    if swap == "other_task":
        return other_task_skills(routes, tasks, random.Random(seed))
    return list(routes)


def what_to_imitate(run: Run, batch: Batch) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Prompts without skills, and the replies that are imitated after them (`Algorithm.imitates`)."""
    if run.algorithm.imitates == "advice":
        return advice_to_imitate(run.policy, run.settings, batch)
    if run.algorithm.imitates == "reply" and batch.teacher is not None:
        pairs = zip(batch.samples, batch.teacher.replies, strict=True)
        return [(sample.prompt_ids, reply) for sample, reply in pairs if reply is not None]
    return []


def advice_to_imitate(policy: Policy, settings: LMSettings, batch: Batch) -> list[tuple[Sequence[int], Sequence[int]]]:
    """The prompts of routed steps, without their skills, and replies that say the action that the skill names."""
    lessons: list[tuple[Sequence[int], Sequence[int]]] = []
    for i, (sample, way) in enumerate(zip(batch.samples, batch.routes, strict=True)):
        action = None if way.step is None else advised_action(batch.step_of(i), way.step)
        if action is not None:
            lessons.append((sample.prompt_ids, reply_to_imitate(policy, settings, action)))
    return lessons


def kind_of_state(anchor: str) -> str:
    """The name of a state without its numbers: states that differ in these alone are of one kind."""
    return re.sub(r"\d+", "", anchor)


def action_start(policy: Policy, reply_ids: Sequence[int], tags: Sequence[str]) -> int:
    """The first token of a reply that spells the action: the first after the last opening tag; 0 without one."""
    if not tags:
        return 0
    texts = token_texts(policy.tokenizer, reply_ids)
    opened = max(
        ("".join(texts).rfind(f"<{tag}>") + len(tag) + 2 for tag in tags if f"<{tag}>" in "".join(texts)), default=0
    )
    ends = itertools.accumulate(map(len, texts))
    return next((i for i, end in enumerate(ends) if end > opened), 0)
