"""The training loop: OPID in five named stages, in the order of the paper (arXiv 2606.26790).

A run lives in one folder: ``recipe.json``, ``versions.json``, ``start/`` (the starting policy),
    ``checkpoints/``, ``metrics.jsonl`` (one line an iteration),
``trajectories.jsonl``, ``skills.jsonl``, ``model/`` (the result, Hugging Face format) and ``report.md``. Every
random stream is derived from the seed and the iteration, so a run that was stopped at any moment goes on with the
numbers of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from opid_agents.learning import stages
from opid_agents.learning.advantages import Advantage
from opid_agents.learning.checkpoint import (
    Progress,
    latest_checkpoint,
    load_optimizer,
    load_progress,
    save_checkpoint,
    seed_everything,
    stream,
)
from opid_agents.learning.credit import Credit, describe_credit
from opid_agents.learning.diagnostics import diagnose
from opid_agents.learning.learner import AdvantageInputs, AdvantageSettings, get_learner
from opid_agents.learning.losses import LossSettings
from opid_agents.learning.records import RunFolder, describe_iteration
from opid_agents.learning.report import write_report
from opid_agents.learning.samples import pad, response_mask, step_samples, token_rewards
from opid_agents.lm import LMAgent, LMSettings
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.skills.extract import RuleExtractor, Skills
from opid_gym import registration
from opid_gym.actions import ActionFormat
from opid_gym.env import TaskOrder
from opid_gym.evaluation import Evaluation, evaluate
from opid_gym.prompting import load_template
from opid_gym.vector import TextVectorEnv


class TrainingDiverged(RuntimeError):
    """Too many updates in a row had a loss or gradient that was not finite; the last good checkpoint is kept."""


class Watcher(Protocol):
    """Whoever shows how a run goes on."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A part of the work with `total` units; the function given back says how many more are done."""

    def iteration(self, metrics: dict[str, Any]) -> None:
        """An iteration is over."""


class Silent:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """Nothing to show."""
        return nullcontext(lambda done: None)

    def iteration(self, metrics: dict[str, Any]) -> None:
        """Nothing to show."""


def train(
    recipe: Recipe, out: str | Path, *, policy: Policy | None = None, resume: bool = False, watch: Watcher | None = None
) -> Policy:
    """Train a policy as `recipe` says.

    Args:
        recipe: everything that influences the result.
        out: the run's folder.
        policy: where to start; None: continue what is in the folder.
        resume: go on from the folder's latest checkpoint. Without one the run starts from its beginning.
        watch: is told how it goes.

    Returns:
        The trained policy, also saved in ``out/model``.

    Raises:
        ValueError: the folder holds another run, or there is no policy to start from.
        TrainingDiverged: see there; the run can be resumed with other settings from its last checkpoint.
    """
    watch = watch or Silent()
    learner = get_learner(recipe.learner)
    settings = lm_settings(recipe)
    folder = RunFolder.open(Path(out), recipe, resume=resume)
    set_threads(recipe)
    checkpoint = latest_checkpoint(folder.checkpoints) if resume else None
    if checkpoint is not None:
        policy = Policy.load(checkpoint)
    elif policy is not None:
        policy.settings = settings.to_json()
        policy.save(folder.start)
    elif folder.has_start():
        policy = Policy.load(folder.start)
    else:
        raise ValueError(f"no policy to start from: give one, or a folder with one at {str(folder.start)!r}")
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    progress = Progress()
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)
        progress = load_progress(checkpoint)
    folder.forget_after(progress)
    reference = Policy.load(folder.start) if recipe.kl_weight else None
    envs = make_envs(recipe, recipe.world.train_split, recipe.games or recipe.tasks * recipe.rollouts)
    all_tasks = envs.world.task_ids
    order = TaskOrder(len(all_tasks), stream(recipe.seed, "tasks"))
    extractor = RuleExtractor(max_step_skills=recipe.skills.max_step_skills, gamma=recipe.skills.gamma)
    skills_wanted = learner.needs_skills

    for iteration in range(progress.iteration + 1, recipe.iterations + 1):
        seed_everything(recipe.seed, "iteration", iteration)
        clock = _Clock()
        first = (iteration - 1) * recipe.tasks
        tasks = [all_tasks[order.at(first + i)] for i in range(recipe.tasks)]

        # 1. Roll out groups of trajectories with the current policy.
        with clock("rollout"), watch.stage("roll out", recipe.tasks * recipe.rollouts) as advance:
            trajectories = stages.roll_out(
                envs,
                policy,
                settings,
                tasks,
                recipe.rollouts,
                temperature=recipe.temperature,
                seed=stream(recipe.seed, "rollout", iteration),
                on_episode=advance,
            )
        samples = step_samples(trajectories, reward_scale=recipe.reward_scale, invalid_penalty=recipe.invalid_penalty)
        groups = {sample.group for sample in samples}
        if not recipe.train_uniform_groups:
            groups = {g for g in groups if len({t.episode_return for t in trajectories if t.group == g}) > 1}
        samples_in = [sample for sample in samples if sample.group in groups]

        # 2. Extract skills from the finished trajectories, in hindsight.
        skills: list[Skills | None] = [None] * len(trajectories)
        with clock("extract"):
            if skills_wanted:
                skills = stages.extract(extractor, trajectories, groups)

        # 3. Route them: critical steps hear their own skill, the others the episode's.
        with clock("route"):
            routes = stages.route_all(
                trajectories,
                skills,
                mode=recipe.skills.routing,
                episode_weight=recipe.skills.episode_weight,
                step_weight=recipe.skills.step_weight,
            )
            routes = [way for way, sample in zip(routes, samples, strict=True) if sample.group in groups]

        result = stages.UpdateResult({}, 0, 0, progress.skipped_in_a_row)
        figures: dict[str, Any] = {}
        credit: Credit = {}
        if samples_in:
            mask = response_mask(samples_in)
            old = pad([sample.log_probs for sample in samples_in])

            # 4. Re-score the sampled tokens under prompts with the skills in them.
            with clock("rescore"):
                teacher = stages.rescore(
                    policy, settings, trajectories, samples_in, routes, mask.shape[1], temperature=recipe.temperature
                )

            # 5. Combine outcome and skill shifts to one advantage, and update.
            with clock("update"), watch.stage("update", 0) as advance:
                advantage: Advantage = learner.advantage(
                    AdvantageInputs(
                        token_level_rewards=token_rewards(samples_in, mask),
                        response_mask=mask,
                        task_ids=[sample.group for sample in samples_in],
                        old_log_probs=old,
                        episode_log_probs=teacher.episode,
                        step_log_probs=teacher.step,
                        episode_mask=teacher.episode_mask,
                        step_mask=teacher.step_mask,
                        settings=AdvantageSettings(
                            mode=recipe.advantage_mode,
                            episode_weight=recipe.skills.episode_weight,
                            step_weight=recipe.skills.step_weight,
                            normalize=recipe.skills.normalize,
                            clip=recipe.skills.clip,
                        ),
                    )
                )
                result = stages.update(
                    policy,
                    optimizer,
                    learner,
                    samples_in,
                    advantage,
                    LossSettings(
                        clip_low=recipe.clip_low,
                        clip_high=recipe.clip_high,
                        dual_clip=recipe.dual_clip,
                        kl_weight=recipe.kl_weight,
                        kl_estimator=recipe.kl_estimator,
                    ),
                    temperature=recipe.temperature,
                    epochs=recipe.epochs,
                    minibatches=recipe.minibatches,
                    clip_norm=recipe.clip_norm,
                    seed=stream(recipe.seed, "update", iteration),
                    reference=reference,
                    skipped_in_a_row=progress.skipped_in_a_row,
                    on_row=advance,
                )
            success = torch.tensor([sample.success for sample in samples_in])
            figures = diagnose(advantage, mask, teacher.episode_mask, teacher.step_mask, success)
            figures |= {"occupancy": teacher.occupancy, "rescored_tokens": teacher.rescored_tokens}
            room = folder.room(progress)
            credit = describe_credit(policy.tokenizer, samples_in, routes, teacher, advantage, trajectories=room)

        evaluation = None
        if recipe.eval_every and iteration % recipe.eval_every == 0:
            with clock("evaluate"):
                evaluation = evaluate_policy(recipe, policy, watch=watch)
        progress = Progress(
            iteration=iteration,
            episodes=progress.episodes + len(trajectories),
            env_steps=progress.env_steps + len(samples),
            skipped_updates=progress.skipped_updates + result.skipped,
            skipped_in_a_row=result.skipped_in_a_row,
            written=folder.write_trajectories(progress, trajectories, skills, credit, iteration),
        )
        metrics = describe_iteration(
            progress, trajectories, skills, len(groups), result, figures, evaluation, clock.seconds
        )
        folder.write_metrics(metrics)
        watch.iteration(metrics)
        if result.skipped_in_a_row >= recipe.max_bad_updates:
            raise TrainingDiverged(
                f"{result.skipped_in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(max_bad_updates={recipe.max_bad_updates}); the last good checkpoint is in {folder.checkpoints}"
            )
        if iteration % recipe.checkpoint_every == 0 or iteration == recipe.iterations:
            save_checkpoint(folder.checkpoints, policy, optimizer, progress)

    envs.close()
    policy.settings = settings.to_json()
    policy.save(folder.model)
    write_report(folder.path, recipe)
    return policy


def lm_settings(recipe: Recipe) -> LMSettings:
    """Prompt, reply and temperature as the recipe wants them."""
    prompting = recipe.prompting
    return LMSettings(
        template=load_template(prompting.template),
        action_format=ActionFormat(
            tag=prompting.action_tag, reasoning=prompting.reasoning_tag, admissible=prompting.require_admissible
        ),
        max_reply_tokens=prompting.max_reply_tokens,
        reply=prompting.reply,
        stop=prompting.stop,
        temperature=recipe.eval_temperature,
    )


def make_envs(recipe: Recipe, split: str, games: int) -> TextVectorEnv:
    """The recipe's world, `games` at once, without autoreset."""
    limit = recipe.world.max_episode_steps
    return registration.make_envs(
        recipe.world.env, games, split=split, max_episode_steps=limit, **recipe.world.arguments
    )


def evaluate_policy(
    recipe: Recipe, policy: Policy, *, split: str | None = None, tasks: int | None = None, watch: Watcher | None = None
) -> Evaluation:
    """Play the first `tasks` tasks of the held-back split (or another one) once each, at the evaluation temperature."""
    split = split or recipe.world.eval_split
    envs = make_envs(recipe, split, 1)
    ids = list(envs.world.task_ids)[: tasks or recipe.eval_tasks]
    envs = make_envs(recipe, split, min(len(ids), recipe.games or 128))
    agent = LMAgent(
        policy, lm_settings(recipe), temperature=recipe.eval_temperature, seed=stream(recipe.seed, "evaluation")
    )
    with (watch or Silent()).stage(f"evaluate on {split}", len(ids)) as advance:
        result = evaluate(
            envs,
            agent,
            ids,
            settings={"env": recipe.world.env, "split": split, "temperature": recipe.eval_temperature},
            on_episode=lambda trajectory: advance(1),
        )
    envs.close()
    return result


def set_threads(recipe: Recipe) -> None:
    """Use as many CPU threads as the recipe says; results are the same only for the same number."""
    if recipe.threads:
        torch.set_num_threads(recipe.threads)


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str) -> _Lap:
        return _Lap(self.seconds, name)


@dataclass(slots=True)
class _Lap:
    seconds: dict[str, float]
    name: str
    started: float = 0.0

    def __enter__(self) -> None:
        self.started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds[self.name] = time.perf_counter() - self.started
