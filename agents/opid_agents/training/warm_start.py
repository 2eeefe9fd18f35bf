"""From nothing, or from a model that exists, to a starting policy: demonstrations, tokenizer, model, imitation."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from opid_agents.lm import LMAgent, LMSettings
from opid_agents.policy import ModelSize, Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.starts import About, bound_to
from opid_agents.streams import stream
from opid_agents.tokenizer import train_tokenizer
from opid_agents.training.checkpoint import latest_checkpoint, load_progress
from opid_agents.training.demonstrations import Demonstrator, load_expert
from opid_agents.training.imitation import HintMix, ImitationSettings, Lessons, action_names, following_rate, imitate
from opid_agents.training.run_folder import versions
from opid_agents.training.setup import configure, lm_settings, load_policy, make_envs, set_threads, task_ids
from opid_agents.training.watcher import Check, Silent, Watcher
from opid_gym.actions import spaced
from opid_gym.files import SEAL, make_folder, seal, write_file
from opid_gym.order import TaskOrder
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory

CHECKPOINTS = "warm_start"
"""Folder beside a start that is being made, with what is needed to go on after an interruption."""

_DEMO_GAMES = 128
# What a start depends on.
_USED: Any = dict.fromkeys(("seed", "world", "prompting", "model", "warm_start", "temperature"), True) | {
    "evaluation": {"temperature"},
    "sampler": {"constrain"},
}


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

    One made from nothing is in float32; one on top of ``model.path`` learns in ``model.dtype``.

    Args:
        recipe: its parts ``world``, ``prompting``, ``model`` and ``warm_start`` are used, and ``seed``.
        watch: is told how it goes.
        on_check: is told about each look at the policy.
        checkpoints: a folder for what is needed to go on after an interruption, which the next call with the same
            values does. Remove it when the start is on the disk.
    """
    watch = watch or Silent()
    set_threads(recipe)
    settings = lm_settings(recipe)
    warm = recipe.warm_start
    envs = make_envs(recipe, recipe.world.train_split, _DEMO_GAMES)
    tasks = task_ids(recipe, envs, recipe.world.train_split)
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

    # One that is made from nothing learns in float32, after an interruption too.
    model = recipe.model if recipe.model.path else recipe.model.model_copy(update={"dtype": "float32"})
    begun = _begun(checkpoints, recipe, watch) if checkpoints is not None else None
    if begun is not None:
        policy = load_policy(begun, model)
    elif model.path:
        policy = load_policy(model.path, model)
    else:
        with watch.stage("train tokenizer", 0):
            tokenizer = train_tokenizer(world_text(settings, demonstrations), model.vocabulary)
        size = ModelSize(model.hidden_size, model.layers, model.heads, model.mlp_size, model.context)
        policy = configure(Policy.create(tokenizer, size, seed=stream(recipe.seed, "weights")), model)
    policy.settings = settings.to_json()
    mix = HintMix(warm.hints, warm.plan, warm.own, warm.from_expert, warm.from_elsewhere, warm.short_play)
    lessons = Lessons(policy, settings, demonstrations, mix, action_names(envs.world.action_help))
    checks: list[Check] = []

    def roll_out(ids: list[str], temperature: float, *key: str | int) -> list[Trajectory]:
        agent = LMAgent(policy, settings, temperature=temperature, seed=stream(recipe.seed, *key))
        return list(play(envs, agent, ids))

    def check(step: int) -> bool:
        played = roll_out(kept_back, recipe.evaluation.temperature, "check", step)
        seed = stream(recipe.seed, "following", step)
        following = [following_rate(policy, settings, states, texts=unseen, seed=seed) for states in (played, unseen)]
        checks.append(Check(step, sum(t.success for t in played) / len(played), *following))
        if on_check is not None:
            on_check(checks[-1])
        return checks[-1].success >= warm.stop_success and min(following) >= warm.stop_following

    def own(step: int) -> list[Trajectory]:
        if not warm.own:
            return []
        ids = random.Random(stream(recipe.seed, "own tasks", step)).choices(shown, k=warm.check_tasks)
        return roll_out(ids, recipe.temperature, "own", step)

    with watch.stage("imitate", warm.steps) as advance:
        if begun is not None:
            advance(load_progress(begun).iteration)
        steps = imitate(
            policy,
            lessons,
            ImitationSettings(
                steps=warm.steps,
                copy_steps=warm.copy_steps,
                short_steps=warm.short_steps,
                read_steps=warm.read_steps,
                short_batch=warm.short_batch,
                batch_episodes=warm.batch_episodes,
                learning_rate=warm.learning_rate,
                act_rate=warm.act_rate,
                check_from=warm.check_from,
                check_every=warm.check_every,
            ),
            seed=stream(recipe.seed, "imitation"),
            check=check,
            own=own,
            on_step=lambda step, loss: advance(1),
            checkpoints=checkpoints,
        )
    envs.close()
    success = sum(trajectory.success for trajectory in demonstrations) / len(demonstrations)
    return WarmStartResult(policy, steps, tuple(checks), len(demonstrations), success)


def save_start(made: WarmStartResult, recipe: Recipe, folder: Path, *, command: str, dtype: str = "float32") -> None:
    """Write a start in Hugging Face format, with how it was made and the hashes of all files.

    Then remove the checkpoints of its making.

    Args:
        made, recipe: the start, and what it was made by.
        folder: where to.
        command: what makes it again.
        dtype: precision of the weights, ``float32`` or ``bfloat16``.

    Raises:
        ValueError: another precision.
    """
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype must be float32 or bfloat16, got {dtype!r}")
    made.policy.model.to(getattr(torch, dtype))
    (folder / SEAL).unlink(missing_ok=True)  # until it is whole again
    made.policy.save(folder)
    check = asdict(made.checks[-1]) if made.checks else {}
    About(recipe.name, command, recipe.seed, bound_to(recipe), versions(), made.steps, check).save(folder)
    checkpoints = folder / CHECKPOINTS
    seal(folder, skip={path.relative_to(folder).as_posix() for path in checkpoints.rglob("*")})
    shutil.rmtree(checkpoints, ignore_errors=True)


def _begun(checkpoints: Path, recipe: Recipe, watch: Watcher) -> Path | None:
    """The latest checkpoint of a warm start by this recipe; those of another one are removed."""
    mine = recipe.model_dump(mode="json", include=_USED)
    file = checkpoints / "recipe.json"
    try:
        if json.loads(file.read_bytes()) == mine:
            return latest_checkpoint(
                checkpoints, lambda path, wrong: watch.warn(f"{path.name} of the warm start is damaged: {wrong}.")
            )
    except (OSError, ValueError):
        pass
    shutil.rmtree(checkpoints, ignore_errors=True)
    make_folder(checkpoints)
    write_file(file, json.dumps(mine))
    return None


def world_text(settings: LMSettings, trajectories: list[Trajectory]) -> list[str]:
    """What a tokenizer should see: what is said, and the fixed words of the template often enough to become tokens."""
    template = settings.template
    write = spaced if settings.action_format.spaces else str
    fixed = [template.text, template.history_item, template.episode_skill, template.step_skill] * len(trajectories)
    spoken = [
        text
        for trajectory in trajectories
        for step in trajectory.steps
        for text in (
            trajectory.task,
            step.observation,
            *(f" {write(action)}" for action in step.admissible_actions or (step.action,)),
        )
    ]
    return fixed + spoken
