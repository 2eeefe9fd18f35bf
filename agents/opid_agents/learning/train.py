"""The training loop: OPID in five named stages, in the order of the paper (arXiv 2606.26790).

A run lives in one folder: ``recipe.json``, ``versions.json``, ``start/`` (the starting policy), ``checkpoints/``,
``metrics.jsonl`` (one line an iteration), ``tensorboard/`` and ``wandb/`` (if wanted), ``trajectories.jsonl``,
``skills.jsonl``, ``model/`` (the result, Hugging Face format) and ``report.md``. Every random stream is derived from
the seed and the iteration, so a run that was stopped at any moment goes on with the numbers of an unbroken one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from opid_agents.learning import stages
from opid_agents.learning.analysis import for_test, make_extractor, skills_are_on, wanted_in
from opid_agents.learning.board import open_boards
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
from opid_agents.learning.learner import AdvantageInputs, AdvantageSettings, get_learner, teacher_scores
from opid_agents.learning.losses import LossSettings
from opid_agents.learning.optimizer import make_optimizer
from opid_agents.learning.records import RunFolder, describe_iteration
from opid_agents.learning.report import write_report
from opid_agents.learning.samples import pad, response_mask, step_samples, token_rewards
from opid_agents.learning.schedules import linear
from opid_agents.lm import LMAgent, LMSettings
from opid_agents.lora import LoraSettings, is_untrained
from opid_agents.policy import Policy, Sampler, find_model
from opid_agents.recipes.recipe import Recipe
from opid_agents.skills.extract import Skills
from opid_agents.skills.library import SkillLibrary, append, successes
from opid_agents.vllm_sampler import VLLMSampler
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
        policy: where to start; None: what is in the folder, or the model that the recipe names. Given, it must be the
            recipe's, if that names one.
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
        policy = Policy.load(checkpoint, device=recipe.model.device, dtype=recipe.model.dtype)
    else:
        policy = starting_policy(recipe, folder, policy, settings)
    policy.max_tokens, policy.train_tokens = recipe.model.score_tokens, recipe.model.train_tokens
    optimizer = make_optimizer(policy.trained(), learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay)
    progress = Progress()
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)
        progress = load_progress(checkpoint)
    folder.forget_after(progress)
    boards = open_boards(recipe, folder.path, after=progress.iteration)
    reference = make_reference(recipe, policy, folder) if recipe.kl_weight else None
    sampler = None  # the policy itself
    if recipe.sampler.kind == "vllm":
        sampler = VLLMSampler(policy, folder.path / "sampler", recipe.sampler.options)
    envs = make_envs(recipe, recipe.world.train_split, recipe.games or recipe.tasks * recipe.rollouts)
    all_tasks = envs.world.task_ids
    order = TaskOrder(len(all_tasks), stream(recipe.seed, "tasks"))
    extractor = make_extractor(recipe, policy, spent=folder.spent()) if learner.needs_skills else None
    library = SkillLibrary.load(folder.library, size=recipe.skills.library_size) if learner.library else None
    # Without updates and without a library nothing would come of playing.
    iterations = recipe.iterations if learner.advantage or learner.library else 0

    for iteration in range(progress.iteration + 1, iterations + 1):
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
                skill_for=library.look_up if library else None,
                sampler=sampler,
                on_episode=advance,
            )
        samples = step_samples(
            trajectories,
            reward_scale=recipe.reward_scale,
            invalid_penalty=recipe.invalid_penalty,
            gamma=recipe.skills.gamma,
        )
        all_groups = groups = {sample.group for sample in samples}
        if learner.needs_variance and not recipe.train_uniform_groups:
            groups = {g for g in groups if len({t.episode_return for t in trajectories if t.group == g}) > 1}
        samples_in = [sample for sample in samples if sample.group in groups]

        # 2. Extract skills from the finished trajectories, in hindsight.
        skills: list[Skills | None] = [None] * len(trajectories)
        analysis: dict[str, float] = {}
        with clock("extract"):
            if extractor is not None and skills_are_on(recipe, iteration):
                skills, analysis = stages.extract(
                    extractor, trajectories, all_groups if library else groups, wanted_in(recipe, iteration)
                )
        if library is not None:
            found = successes(iteration, trajectories, skills)
            library.add(found)
            append(folder.library, found)

        # 3. Route them: critical steps hear their own skill, the others the episode's.
        with clock("route"):
            routes = stages.route_all(
                trajectories,
                skills if learner.teacher != "none" else [None] * len(trajectories),
                mode=recipe.skills.routing,
                episode_weight=recipe.skills.episode_weight,
                step_weight=recipe.skills.step_weight,
            )
            routes = [way for way, sample in zip(routes, samples, strict=True) if sample.group in groups]
            tasks_in = [trajectories[sample.trajectory].task_id for sample in samples_in]
            routes = stages.swap_skills(routes, tasks_in, learner.swap, seed=stream(recipe.seed, "swap", iteration))

        result = stages.UpdateResult({}, 0, 0, progress.skipped_in_a_row)
        figures: dict[str, Any] = {}
        credit: Credit = {}
        if samples_in and learner.advantage is not None:
            if sampler is not None and recipe.sampler.rescore_old:
                with clock("rescore old"):
                    samples_in, figures["sampler_gap"] = stages.rescore_old(
                        policy, samples_in, temperature=recipe.temperature
                    )
            mask = response_mask(samples_in)
            old = pad([sample.log_probs for sample in samples_in])

            # 4. Re-score the sampled tokens under prompts with the skills in them.
            with clock("rescore"):
                teacher = stages.rescore(
                    policy,
                    settings,
                    trajectories,
                    samples_in,
                    routes,
                    mask.shape[1],
                    temperature=recipe.temperature,
                    score=learner.teacher == "scores",
                )

            # 5. Combine outcome and skill shifts to one advantage, and update.
            with clock("update"), watch.stage("update", 0) as advance:
                inputs = AdvantageInputs(
                    token_level_rewards=token_rewards(samples_in, mask),
                    response_mask=mask,
                    task_ids=[sample.group for sample in samples_in],
                    old_log_probs=old,
                    episode_log_probs=teacher.episode,
                    step_log_probs=teacher.step,
                    episode_mask=teacher.episode_mask,
                    step_mask=teacher.step_mask,
                    trajectory_ids=[sample.trajectory for sample in samples_in],
                    step_returns=torch.tensor([sample.step_return for sample in samples_in]),
                    anchors=[sample.anchor for sample in samples_in],
                    success=torch.tensor([sample.success for sample in samples_in]),
                    settings=advantage_settings(recipe, iteration),
                )
                advantage = learner.advantage(inputs)
                result = stages.update(
                    policy,
                    optimizer,
                    learner,
                    samples_in,
                    advantage,
                    loss_settings(recipe),
                    temperature=recipe.temperature,
                    epochs=recipe.epochs,
                    minibatches=recipe.minibatches,
                    clip_norm=recipe.clip_norm,
                    seed=stream(recipe.seed, "update", iteration),
                    reference=reference,
                    skipped_in_a_row=progress.skipped_in_a_row,
                    teacher=teacher_scores(inputs) if learner.distills else None,
                    on_row=advance,
                )
            if sampler is not None:
                with clock("sync"):
                    sampler.sync()
            figures |= diagnose(advantage, mask, teacher.episode_mask, teacher.step_mask, inputs.success)
            figures |= {"occupancy": teacher.occupancy, "rescored_tokens": teacher.rescored_tokens}
            room = folder.room(progress)
            credit = describe_credit(policy.tokenizer, samples_in, routes, teacher, advantage, trajectories=room)

        evaluation = None
        if recipe.eval_every and iteration % recipe.eval_every == 0:
            with clock("evaluate"):
                evaluation = evaluate_policy(
                    recipe, policy, watch=watch, library=for_test(recipe, library), sampler=sampler
                )
        progress = Progress(
            iteration=iteration,
            episodes=progress.episodes + len(trajectories),
            env_steps=progress.env_steps + len(samples),
            skipped_updates=progress.skipped_updates + result.skipped,
            skipped_in_a_row=result.skipped_in_a_row,
            written=folder.write_trajectories(progress, trajectories, skills, credit, iteration),
        )
        metrics = describe_iteration(
            progress, trajectories, skills, analysis, len(groups), result, figures, evaluation, clock.seconds
        )
        folder.write_metrics(metrics)
        for board in boards:
            board.write(metrics)
        watch.iteration(metrics)
        if result.skipped_in_a_row >= recipe.max_bad_updates:
            raise TrainingDiverged(
                f"{result.skipped_in_a_row} updates in a row had a loss or gradient that was not finite "
                f"(max_bad_updates={recipe.max_bad_updates}); the last good checkpoint is in {folder.checkpoints}"
            )
        if iteration % recipe.checkpoint_every == 0 or iteration == iterations:
            save_checkpoint(folder.checkpoints, policy, optimizer, progress)

    envs.close()
    if sampler is not None:
        sampler.close()
    for board in boards:
        board.close()
    policy.settings = settings.to_json()
    policy.save(folder.model, merge=True)
    if (for_play := for_test(recipe, library)) is not None:
        for_play.save(folder.model)  # whoever plays with the model finds them there
    write_report(folder.path, recipe)
    return policy


def starting_policy(recipe: Recipe, folder: RunFolder, given: Policy | None, settings: LMSettings) -> Policy:
    """The policy a run starts from, kept in the run's folder: the one given, the folder's own, or the recipe's model.

    Raises:
        ValueError: there is none of them.
    """
    model = recipe.model
    if given is None and folder.has_start():
        return Policy.load(folder.start, device=model.device, dtype=model.dtype)
    if given is None and not model.path:
        raise ValueError(f"no policy to start from: give one, or a folder with one at {str(folder.start)!r}")
    policy = (given or Policy.load(model.path or "", dtype=model.dtype)).to(model.device)
    policy.settings = settings.to_json()
    if recipe.lora.rank and not policy.has_lora:
        shape = LoraSettings(recipe.lora.rank, recipe.lora.alpha, recipe.lora.targets)
        base = find_model(model.path) if model.path else folder.base
        policy.add_lora(shape, base, seed=stream(recipe.seed, "adapters"))
    policy.save(folder.start)
    return policy


def make_reference(recipe: Recipe, policy: Policy, folder: RunFolder) -> stages.Scorer:
    """Who scores for the KL term: the policy the run started from."""
    if policy.has_lora and is_untrained(folder.start):
        return policy.base_scores  # the same weights without their adapters: no second model
    return Policy.load(folder.start, device=recipe.model.device, dtype=recipe.model.dtype).score


def lm_settings(recipe: Recipe) -> LMSettings:
    """Prompt, reply and temperature as the recipe wants them."""
    prompting = recipe.prompting
    template = load_template(prompting.template)
    if prompting.history_length is not None:
        template = replace(template, history_length=prompting.history_length)
    return LMSettings(
        template=template,
        action_format=ActionFormat(
            tag=prompting.action_tag,
            elements=prompting.action_elements,
            lower=prompting.lower,
            reasoning=prompting.reasoning_tag,
            admissible=prompting.require_admissible,
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


def advantage_settings(recipe: Recipe, iteration: int) -> AdvantageSettings:
    """The constants of the advantage in an iteration, from 1."""
    skills, method = recipe.skills, recipe.method
    return AdvantageSettings(
        mode=recipe.advantage_mode,
        baseline=method.baseline,
        episode_weight=skills.episode_weight,
        step_weight=skills.step_weight,
        center=skills.center,
        normalize=skills.normalize,
        clip=skills.clip,
        state_weight=method.state_weight,
        anchor_similarity=method.anchor_similarity,
        rlsd_mix=linear(method.rlsd_mix, 0.0, method.rlsd_iterations, iteration - 1),
        rlsd_clip=method.rlsd_clip,
        constant_success=method.constant_success,
        constant_failure=method.constant_failure,
    )


def loss_settings(recipe: Recipe) -> LossSettings:
    """The constants of the loss."""
    return LossSettings(
        clip_low=recipe.clip_low,
        clip_high=recipe.clip_high,
        dual_clip=recipe.dual_clip,
        kl_weight=recipe.kl_weight,
        kl_estimator=recipe.kl_estimator,
        distill_weight=recipe.method.distill_weight,
        gate_sharpness=recipe.method.gate_sharpness,
    )


def evaluate_policy(
    recipe: Recipe,
    policy: Policy,
    *,
    split: str | None = None,
    tasks: int | None = None,
    watch: Watcher | None = None,
    library: SkillLibrary | None = None,
    sampler: Sampler | None = None,
) -> Evaluation:
    """Play the first `tasks` tasks of the held-back split (or another one) once each, at the evaluation temperature.

    With a `library` each game's prompts have the skill that is found there. Replies are sampled by `sampler`; None: by
    the policy.
    """
    split = split or recipe.world.eval_split
    envs = make_envs(recipe, split, 1)
    ids = list(envs.world.task_ids)[: tasks or recipe.eval_tasks]
    envs = make_envs(recipe, split, min(len(ids), recipe.games or 128))
    agent = LMAgent(
        policy,
        lm_settings(recipe),
        temperature=recipe.eval_temperature,
        seed=stream(recipe.seed, "evaluation"),
        skill_for=library.look_up if library else None,
        sampler=sampler,
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
