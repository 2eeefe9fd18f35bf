"""From nothing, or from a model that exists, to a starting policy: demonstrations, tokenizer, model, imitation."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from opid_agents.learning.checkpoint import latest_checkpoint, load_progress, stream
from opid_agents.learning.pretrain import (
    Demonstrator,
    HintMix,
    WarmStartData,
    WarmStartSettings,
    following_rate,
    load_expert,
    warm_start,
)
from opid_agents.learning.train import Silent, Watcher, lm_settings, make_envs, set_threads
from opid_agents.lm import LMAgent, LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.tokenizer import train_tokenizer
from opid_gym.env import TaskOrder
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory

_DEMO_GAMES = 128
_USED = {"seed", "world", "prompting", "model", "warm_start", "eval_temperature"}  # what a start depends on


@dataclass(frozen=True, slots=True)
class Check:
    """A look at the policy: success on train tasks it was not shown, at the evaluation temperature; hint following."""

    step: int
    success: float
    following: float


@dataclass(frozen=True, slots=True)
class WarmStartResult:
    """A starting policy and how it came about."""

    policy: Policy
    steps: int
    checks: tuple[Check, ...]
    demonstrations: int
    demonstration_success: float


def make_start(
    recipe: Recipe,
    watch: Watcher | None = None,
    on_check: Callable[[Check], None] | None = None,
    *,
    checkpoints: Path | None = None,
) -> WarmStartResult:
    """Make the starting policy of a recipe.

    Args:
        recipe: its parts ``world``, ``prompting``, ``model`` and ``warm_start`` are used, and ``seed``.
        watch: is told how it goes.
        on_check: is told about each look at the policy.
        checkpoints: a folder for what is needed to go on after an interruption, which the next call with the same
            values does; it is removed in the end.
    """
    watch = watch or Silent()
    set_threads(recipe)
    settings = lm_settings(recipe)
    warm = recipe.warm_start
    envs = make_envs(recipe, recipe.world.train_split, _DEMO_GAMES)
    tasks = envs.world.task_ids
    order = TaskOrder(len(tasks), stream(recipe.seed, "demonstrations"))
    shown = [tasks[order.at(i)] for i in range(warm.demonstrations)]
    kept_back = [tasks[order.at(warm.demonstrations + i)] for i in range(warm.check_tasks)]

    with watch.stage("play demonstrations", len(shown) + len(kept_back)) as advance:
        expert = None if warm.expert == "world" else load_expert(warm.expert)
        demonstrator = Demonstrator(envs, expert, noise=warm.noise, seed=recipe.seed)
        played = []
        for trajectory in play(envs, demonstrator, [*shown, *kept_back]):
            played.append(trajectory)
            advance(1)
    played.sort(key=lambda trajectory: trajectory.metadata["index"])
    # The model never learns from the unseen ones; hint following is measured in their states.
    demonstrations, unseen = played[: len(shown)], played[len(shown) :]

    model = recipe.model
    begun = _begun(checkpoints, recipe) if checkpoints is not None else None
    if begun is not None:
        policy = Policy.load(begun, dtype=model.dtype)
    elif model.path:
        policy = Policy.load(model.path, dtype=model.dtype)
    else:
        with watch.stage("train tokenizer", 0):
            tokenizer = train_tokenizer(world_text(settings, demonstrations), model.vocabulary)
        size = ModelSize(model.hidden_size, model.layers, model.heads, model.mlp_size, model.context)
        policy = Policy.create(tokenizer, size, seed=stream(recipe.seed, "weights"))
    policy = policy.to(model.device)
    policy.max_tokens, policy.train_tokens = model.score_tokens, model.train_tokens
    policy.settings = settings.to_json()
    data = WarmStartData(policy, settings, demonstrations, HintMix(warm.plain, warm.plan, warm.next))
    checks: list[Check] = []

    def check(step: int) -> bool:
        following = following_rate(policy, settings, unseen, seed=stream(recipe.seed, "following", step))
        if following < warm.stop_following and step < warm.steps:
            return False  # playing costs more than looking, and the answer would not matter yet
        agent = LMAgent(policy, settings, temperature=recipe.eval_temperature, seed=stream(recipe.seed, "check", step))
        played = list(play(envs, agent, kept_back))
        checks.append(Check(step, sum(t.success for t in played) / len(played), following))
        if on_check is not None:
            on_check(checks[-1])
        return checks[-1].success >= warm.stop_success

    with watch.stage("imitate", warm.steps) as advance:
        if begun is not None:
            advance(load_progress(begun).iteration)
        steps = warm_start(
            policy,
            data,
            WarmStartSettings(
                steps=warm.steps,
                short_steps=warm.short_steps,
                short_batch=warm.short_batch,
                batch_episodes=warm.batch_episodes,
                learning_rate=warm.learning_rate,
                check_from=warm.check_from,
                check_every=warm.check_every,
            ),
            seed=stream(recipe.seed, "imitation"),
            check=check,
            on_step=lambda step, loss: advance(1),
            checkpoints=checkpoints,
        )
    if checkpoints is not None:
        shutil.rmtree(checkpoints, ignore_errors=True)
    envs.close()
    success = sum(trajectory.success for trajectory in demonstrations) / len(demonstrations)
    return WarmStartResult(policy, steps, tuple(checks), len(demonstrations), success)


def _begun(checkpoints: Path, recipe: Recipe) -> Path | None:
    """The latest checkpoint of a warm start by this recipe; those of another one are removed."""
    mine = recipe.model_dump(mode="json", include=_USED)
    file = checkpoints / "recipe.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) == mine:
        return latest_checkpoint(checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    file.write_text(json.dumps(mine), encoding="utf-8")
    return None


def world_text(settings: LMSettings, trajectories: list[Trajectory]) -> list[str]:
    """What a tokenizer should see: what is said, and the fixed words of the template often enough to become tokens."""
    template = settings.template
    fixed = [template.text, template.history_item, template.episode_skill, template.step_skill] * len(trajectories)
    spoken = [
        text
        for trajectory in trajectories
        for step in trajectory.steps
        for text in (trajectory.task, step.observation, *(f" {action}" for action in step.admissible_actions or ()))
    ]
    return fixed + spoken
