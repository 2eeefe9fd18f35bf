"""How many tokens an iteration of a recipe computes, from a sample of its games that is really played.

The sample is played by the recipe's own model where that is small and here, else by random actions up to the episode
limit, with replies of an assumed length. Prompts are the recipe's; they are packed and shared as a run does it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from opid_agents.algorithms import get_algorithm
from opid_agents.lm import LMAgent, fit_prompt
from opid_agents.packing import batches, common_prefix, pack, share
from opid_agents.planning.shape import ModelShape
from opid_agents.policy import Policy
from opid_agents.random import RandomAgent
from opid_agents.recipes.recipe import Recipe
from opid_agents.skills.extract import Skills
from opid_agents.skills.route import Route, route
from opid_agents.training.batch import Batch, StepSample, view_at
from opid_agents.training.rescoring import skilled_prompts
from opid_agents.training.rollouts import play_groups
from opid_agents.training.setup import lm_settings, make_envs, task_ids
from opid_gym.trajectory import Trajectory

_SAMPLE_TASKS = 2
_EPISODE_SKILL = "Look first in the places where such things are usually kept, and then go straight to the goal."
_STEP_SKILL = "Do what the last observation made possible at once."


@dataclass(frozen=True, slots=True)
class Passes:
    """Forward passes over packed rows.

    Attributes:
        tokens: that pass the layers, padding included.
        pairs: of query and key that attention computes.
        logits: tokens that pass the output embedding.
    """

    tokens: float = 0.0
    pairs: float = 0.0
    logits: float = 0.0

    def times(self, factor: float) -> Passes:
        """So many times as much."""
        return Passes(self.tokens * factor, self.pairs * factor, self.logits * factor)

    def flops(self, shape: ModelShape) -> float:
        """Operations of running them forward."""
        return shape.flops(self.tokens, self.pairs, self.logits)


@dataclass(frozen=True, slots=True)
class Workload:
    """What one iteration computes, on all devices together.

    Attributes:
        episodes, steps: played.
        longest_episode: steps of an episode that runs to its end; games are played side by side.
        prompt_tokens: of all prompts, as written.
        reply_tokens: sampled.
        longest_reply: tokens of the longest reply of a round.
        context: mean tokens before a sampled token.
        longest_prompt: tokens.
        prefill: what is run of prompts before sampling; the beginnings that a game knows are not run again.
        scored_prompt_tokens: of prompts with skills, as written.
        score: scoring them, packed.
        train: one epoch's gradient passes, forward only.
        host_seconds: of one step in environment, prompts and tokens, on this machine.
    """

    episodes: int
    steps: float
    longest_episode: float
    prompt_tokens: float
    reply_tokens: float
    longest_reply: float
    context: float
    longest_prompt: int
    prefill: Passes
    scored_prompt_tokens: float
    score: Passes
    train: Passes
    host_seconds: float


@dataclass(slots=True)
class StandIn:
    """Counts tokens for a model that is not on this machine.

    A token is up to seven letters with the space before them, a digit, or another character. On prompts of the bundled
    worlds these were 5 % (shop), 8 to 9 % (households) and 13 to 17 % (questions) more than SmolLM2's tokenizer makes.
    """

    context: int = 32768
    _ids: dict[str, int] = field(default_factory=dict)

    def encode(self, prompt: str, template_arguments: Any = None) -> list[int]:
        """Pieces of a text as numbers, equal pieces as equal numbers.

        >>> StandIn().encode("go to row 1, go to top 1")
        [0, 1, 2, 3, 4, 5, 6, 1, 7, 3, 4]
        """
        pieces = re.findall(r" ?[^\W\d_]{1,7}|\d|\s+|.", prompt)
        return [self._ids.setdefault(piece, len(self._ids)) for piece in pieces]


def sample_here(recipe: Recipe, shape: ModelShape, *, reply_tokens: int | None = None) -> Workload:
    """The workload of an iteration whose model is not here: random actions, counted by a `StandIn`.

    Args:
        recipe: its world, prompts and skills are used.
        shape: of the model.
        reply_tokens: mean tokens of a reply; None: half of the limit where an action stands in tags, which leaves room
            for thoughts before it, else the action's own.
    """
    settings, encoder = lm_settings(recipe), StandIn()
    thoughts = settings.action_format.tag or bool(settings.action_format.elements)
    envs = make_envs(recipe, recipe.world.train_split, _SAMPLE_TASKS * recipe.group_size)
    tasks = task_ids(recipe, envs, recipe.world.train_split)[:_SAMPLE_TASKS]
    started = time.perf_counter()
    player = cast(LMAgent, RandomAgent.make(envs, seed=recipe.seed))
    trajectories = play_groups(envs, player, tasks, recipe.group_size, lambda episodes: None)
    envs.close()
    samples: list[StepSample] = []
    for t, trajectory in enumerate(trajectories):
        for s, step in enumerate(trajectory.steps):
            fitted = fit_prompt(cast(Policy, encoder), settings, view_at(trajectory, s))
            reply = encoder.encode(settings.reply.format(action=step.action))
            mean = reply_tokens or (settings.max_reply_tokens // 2 if thoughts else len(reply))
            if mean != len(reply):  # no words of the world's, so that no prompt has them by chance
                reply = list(range(-(len(samples) + 1) * mean, -len(samples) * mean))
            samples.append(
                StepSample(
                    t, s, trajectory.group, fitted.ids, reply, [0.0] * len(reply), 0.0, False, dropped=fitted.dropped
                )
            )
    host_seconds = (time.perf_counter() - started) / len(samples)
    batch = Batch.of(trajectories, samples, _routes(recipe, trajectories))
    longest = settings.max_reply_tokens if thoughts else max(len(s.reply_ids) for s in samples)
    skilled = [
        (prompt.ids, samples[prompt.sample].reply_ids)
        for prompt in skilled_prompts(cast(Policy, encoder), settings, batch, batch.routes)
    ]
    return workload(recipe, shape, trajectories, samples, samples, skilled, longest, host_seconds)


def workload(
    recipe: Recipe,
    shape: ModelShape,
    trajectories: Sequence[Trajectory],
    played: Sequence[StepSample],
    trained: Sequence[StepSample],
    skilled: Sequence[tuple[Sequence[int], Sequence[int]]],
    longest_reply: float,
    host_seconds: float,
) -> Workload:
    """What a sample of episodes says about a whole iteration.

    Args:
        recipe: how many episodes there are, and how long passes may be.
        shape: of the model.
        trajectories: the sample.
        played: all of its steps, in order.
        trained: those that an update trains.
        skilled: prompts with skills and the replies that are scored after them.
        longest_reply: tokens, mean over the rounds of a batch.
        host_seconds: of a step, outside of the model.
    """
    episodes = recipe.tasks_per_iteration * recipe.group_size
    factor = episodes / len(trajectories)
    replies = sum(len(sample.reply_ids) for sample in played)
    around = sum(len(s.reply_ids) * (len(s.prompt_ids) + len(s.reply_ids) / 2) for s in played)
    model = recipe.model
    learned = [(sample.prompt_ids, sample.reply_ids) for sample in trained]
    return Workload(
        episodes=episodes,
        steps=factor * len(played),
        longest_episode=max(map(len, trajectories)),
        prompt_tokens=factor * sum(len(sample.prompt_ids) for sample in played),
        reply_tokens=factor * replies,
        longest_reply=longest_reply,
        context=around / replies,
        longest_prompt=max(len(sample.prompt_ids) for sample in played),
        prefill=_prefill(played).times(factor),
        scored_prompt_tokens=factor * sum(len(prompt) for prompt, _ in skilled),
        score=packed(skilled, shape, model.score_tokens, model.mask_entries).times(factor),
        train=packed(learned, shape, model.train_tokens, model.mask_entries).times(factor),
        host_seconds=host_seconds,
    )


def _routes(recipe: Recipe, trajectories: Sequence[Trajectory]) -> list[Route]:
    """Every episode has a skill, and as many of its steps as may have one."""
    algorithm, limits = get_algorithm(recipe.algorithm), recipe.skills
    routes: list[Route] = []
    for trajectory in trajectories:
        advised = dict.fromkeys(range(min(limits.max_step_skills, len(trajectory))), _STEP_SKILL)
        routes += route(
            Skills("", _EPISODE_SKILL, advised) if algorithm.teacher == "scores" else None,
            len(trajectory),
            mode=limits.routing,
            episode_weight=recipe.advantage.episode_weight,
            step_weight=recipe.advantage.step_weight,
        )
    return routes


def _prefill(samples: Sequence[StepSample]) -> Passes:
    """What is run of prompts in rollouts: what the game has not read before; a group's first prompt is run once."""
    tokens = pairs = 0.0
    known: list[int] = []
    first: set[tuple[int, ...]] = set()
    for sample in samples:
        prompt = list(sample.prompt_ids)
        if sample.step == 0:
            known = []
            if tuple(prompt) in first:
                known = prompt
            first.add(tuple(prompt))
        fresh = len(prompt) - common_prefix(known, prompt)
        tokens += fresh
        pairs += fresh * (len(prompt) - fresh / 2)
        known = [*prompt, *sample.reply_ids]
    return Passes(tokens, pairs, len(samples))


def packed(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], shape: ModelShape, limit: int, mask_entries: int
) -> Passes:
    """The passes over prompts and replies, packed and shared as `opid_agents.policy.Policy` does it.

    Args:
        pairs: prompts and the replies after them.
        shape: of the model.
        limit: maximum tokens of a pass.
        mask_entries: maximum entries of its attention masks.
    """
    rows = pack([prompt for prompt, _ in pairs], [reply for _, reply in pairs])
    rows = share(rows, shape.even_length, min(limit, math.isqrt(mask_entries)))
    tokens = compared = 0.0
    for batch in batches(rows, limit, max_mask=mask_entries):
        longest = len(batch[0].ids)
        tokens += len(batch) * longest
        compared += len(batch) * longest**2 * (1.0 if batch[0].branches else 0.5)
    return Passes(tokens, compared, sum(len(reply) for _, reply in pairs))
