"""Warm start: imitation of an expert, mixed with data that teaches a model to use hints.

A skill can only change what a model does if the model reads skills. Demonstrations alone do not teach that, for hints
that merely announce what the expert does next anyway are ignored. So most hinted examples here say "next: A" for a
*random* admissible A in some state of an episode, and the answer is A; some episodes carry a workflow line as a plan.
Imitation is stopped early, because a policy that imitates well is too sure of itself to explore.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from opid_agents.learning.checkpoint import (
    Progress,
    latest_checkpoint,
    load_optimizer,
    load_progress,
    save_checkpoint,
    stream,
)
from opid_agents.learning.optimizer import make_optimizer
from opid_agents.learning.samples import view_at
from opid_agents.lm import LMSettings, fit_prompt
from opid_agents.named import load_named
from opid_agents.packing import Row, batches, pack
from opid_agents.policy import Policy
from opid_agents.skills.extract import RuleExtractor
from opid_gym.actions import parse_action
from opid_gym.agent import Decision
from opid_gym.prompting import PromptView
from opid_gym.trajectory import Trajectory
from opid_gym.vector import TextVectorEnv


class Expert(Protocol):
    """Plays one episode from its text."""

    def act(self, observation: str, admissible: Sequence[str]) -> str:
        """The next action."""


def load_expert(path: str) -> Callable[[str, random.Random], Expert]:
    """The expert class named ``module:Class``; it is called with the task's text and a random generator.

    Raises:
        ValueError: there is no such thing.
    """
    expert: Callable[[str, random.Random], Expert] = load_named(path, "expert")
    return expert


class Demonstrator:
    """An agent that plays as an expert does, except for some random steps.

    At a random step something else is played: any admissible action, or (as often) one that is admissible in another
    game and here most likely means nothing. So demonstrations also show how to go on after a mistake, which a policy
    that has only seen perfect play does not know. The expert's advice is kept at every step in ``data["expert"]``.

    Args:
        envs: the environment it acts in.
        expert: see `load_expert`; None: the world's own expert, which sees the hidden state.
        noise: share of random steps. Where actions are free text there are none.
        seed: of the noise and of the experts' whims; each task has streams of its own.
    """

    def __init__(
        self,
        envs: TextVectorEnv,
        expert: Callable[[str, random.Random], Expert] | None = None,
        *,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._envs = envs
        self._expert = expert
        self._noise = noise
        self._seed = seed
        self._playing: dict[int, tuple[Expert | None, random.Random]] = {}

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        for game in np.flatnonzero(mask).tolist():
            self._playing.pop(game, None)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """The expert's action, or a random one, in each game that is being played."""
        decisions = [Decision("")] * len(observations)
        games = np.flatnonzero(infos["_task"]).tolist()
        told = self._envs.expert_actions(infos["_task"]) if self._expert is None else []
        for game in games:
            if game not in self._playing:
                rng = random.Random(f"{self._seed}/{infos['task_id'][game]}")
                self._playing[game] = (self._expert(infos["task"][game], rng) if self._expert else None, rng)
            expert, rng = self._playing[game]
            admissible = infos["admissible_actions"][game]
            advice = expert.act(observations[game], admissible) if expert else told[game] or ""
            action = advice
            if rng.random() < self._noise and admissible:
                elsewhere = infos["admissible_actions"][rng.choice(games)]
                action = rng.choice(spoken(admissible if rng.random() < 0.5 else elsewhere) or (advice,))
            decisions[game] = Decision(action, data={"expert": advice})
        return decisions


def spoken(actions: Sequence[str] | None) -> list[str]:
    """The admissible actions that can be played word for word: those with a place for words of one's own are not."""
    return [action for action in actions or () if not _OWN_WORDS.search(action)]


def as_element(action: str, tags: Collection[str]) -> str:
    """An action of the form ``name[text]`` as the element that stands for it in replies, if its name is one of `tags`.

    >>> as_element("search[who wrote Hamlet]", ("search", "answer"))
    '<search>who wrote Hamlet</search>'
    """
    name, _, text = action.partition("[")
    return f"<{name}>{text[:-1]}</{name}>" if name in tags and text.endswith("]") else action


_OWN_WORDS = re.compile("<[^<>]+>")  # as in search[<your query>]

# Share of short examples that are hinted.
_SHORT_HINTED = 0.6


@dataclass(frozen=True, slots=True)
class HintMix:
    """Shares of the three kinds of warm-start examples, and how many demonstrations are hinted as well.

    Attributes:
        plain: an episode as it was, nothing added.
        plan: an episode under its own workflow.
        next: an episode cut at a random step that says "next: A" for a random admissible A, which is the answer.
        next_from_expert: among the latter, the share where A is the expert's action.
    """

    plain: float = 0.45
    plan: float = 0.15
    next: float = 0.40
    next_from_expert: float = 0.2

    def __post_init__(self) -> None:
        shares = (self.plain, self.plan, self.next)
        if min(shares) < 0 or not sum(shares) > 0:
            raise ValueError(f"the shares of the hint mix must be >= 0 and not all 0, got {shares}")
        if not 0 <= self.next_from_expert <= 1:
            raise ValueError(f"next_from_expert must be in [0, 1], got {self.next_from_expert}")

    def draw(self, rng: random.Random) -> str:
        """One of ``plain``, ``plan``, ``next``."""
        return rng.choices(("plain", "plan", "next"), (self.plain, self.plan, self.next))[0]


class WarmStartData:
    """Demonstrations as rows of tokens, drawn at random with hints.

    Args:
        policy, settings: for encoding prompts.
        demonstrations: episodes; see `learned_steps`.
        mix: kinds of examples.
        extractor: writes the workflow of an episode.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LMSettings,
        demonstrations: Sequence[Trajectory],
        mix: HintMix,
        extractor: RuleExtractor | None = None,
    ) -> None:
        self._policy = policy
        self._settings = settings
        self._demonstrations = demonstrations
        self._mix = mix
        extractor = extractor or RuleExtractor()
        self._plans: list[str | None] = []
        for demonstration in demonstrations:
            skills = extractor.extract(demonstration, [demonstration]) if demonstration.success else None
            self._plans.append(skills.episode_skill if skills else None)
        self._encoded: dict[tuple[int, bool], list[tuple[list[int], list[int]]]] = {}

    def draw(self, rng: random.Random) -> tuple[str, list[Row]]:
        """One example: its kind, and the rows to learn it from.

        It is one row where the prompts of an episode are nested, as with a template that shows the whole history.
        """
        which = rng.randrange(len(self._demonstrations))
        kind = self._mix.draw(rng)
        if kind == "plan" and not self._plans[which]:
            kind = "plain"
        if kind != "next":
            return kind, _rows(self._samples(which, planned=kind == "plan"))
        trajectory = self._demonstrations[which]
        step = rng.randrange(len(trajectory.steps))
        # What comes before the hint is a demonstration like any other, and free.
        before = self._samples(which, planned=False)[: sum(s < step for s in learned_steps(trajectory))]
        if rng.random() < self._mix.next_from_expert:
            action = advice_at(trajectory, step)
        else:
            action = rng.choice(spoken(trajectory.steps[step].admissible_actions) or [advice_at(trajectory, step)])
        return kind, _rows([*before, self._sample(trajectory, step, action, step_skill=action)])

    def draw_short(self, rng: random.Random) -> list[Row]:
        """A short example, one observation without its history: what the expert does there, or following "next: A"."""
        trajectory = rng.choice(self._demonstrations)
        step = rng.randrange(len(trajectory.steps))
        seen = trajectory.steps[step]
        hinted = rng.random() < _SHORT_HINTED
        action = rng.choice(spoken(seen.admissible_actions) or [seen.action]) if hinted else advice_at(trajectory, step)
        view = PromptView(trajectory.task, seen.observation, (), seen.admissible_actions)
        prompt = fit_prompt(self._policy, self._settings, view, step_skill=action if hinted else None)
        return _rows([(prompt.ids, self._reply(action))])

    def _samples(self, which: int, planned: bool) -> list[tuple[list[int], list[int]]]:
        key = (which, planned)
        if key not in self._encoded:
            trajectory = self._demonstrations[which]
            plan = self._plans[which] if planned else None
            self._encoded[key] = [
                self._sample(trajectory, step, advice_at(trajectory, step), episode_skill=plan)
                for step in learned_steps(trajectory)
            ]
        return self._encoded[key]

    def _sample(
        self,
        trajectory: Trajectory,
        step: int,
        action: str,
        *,
        episode_skill: str | None = None,
        step_skill: str | None = None,
    ) -> tuple[list[int], list[int]]:
        view = view_at(trajectory, step)
        prompt = fit_prompt(self._policy, self._settings, view, episode_skill=episode_skill, step_skill=step_skill)
        return prompt.ids, self._reply(action)

    def _reply(self, action: str) -> list[int]:
        elements = self._settings.action_format.elements
        return self._policy.encode_reply(self._settings.reply.replace("{action}", as_element(action, elements)))


def advice_at(trajectory: Trajectory, step: int) -> str:
    """What the expert would do at a step: its advice if it was kept, else what was done."""
    advice: str = trajectory.steps[step].data.get("expert", trajectory.steps[step].action)
    return advice


def learned_steps(trajectory: Trajectory) -> list[int]:
    """The steps to learn from: those where the expert's advice was played.

    What should have been done instead of a random step could be learned too, but as it is not what the history
    goes on with, each such step would need a row of its own.
    """
    return [i for i, step in enumerate(trajectory.steps) if advice_at(trajectory, i) == step.action]


def _rows(samples: Sequence[tuple[list[int], list[int]]]) -> list[Row]:
    return pack([prompt for prompt, _ in samples], [reply for _, reply in samples])


@dataclass(frozen=True, slots=True)
class WarmStartSettings:
    """Constants of `warm_start`.

    Attributes:
        steps: at most so many updates.
        short_steps: how many of them, at the beginning, see short examples only (`WarmStartData.draw_short`).
            A small model learns to copy words last of all in long prompts, and soon in short ones.
        short_batch: short examples in an update.
        batch_episodes: examples in an update afterwards.
        learning_rate: of AdamW after warm-up; decays linearly to a tenth over `steps`.
        warmup_steps: the learning rate rises linearly over so many updates.
        check_from, check_every: call the check after so many updates; not before the former.
        weight_decay, clip_norm: of AdamW, and of the gradient.
    """

    steps: int = 1000
    short_steps: int = 100
    short_batch: int = 32
    batch_episodes: int = 8
    learning_rate: float = 4e-3
    warmup_steps: int = 20
    check_from: int = 0
    check_every: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0


def warm_start(
    policy: Policy,
    data: WarmStartData,
    settings: WarmStartSettings,
    *,
    seed: int = 0,
    check: Callable[[int], bool] = lambda step: False,
    on_step: Callable[[int, float], None] | None = None,
    checkpoints: Path | None = None,
) -> int:
    """Train `policy` in place on `data` by maximum likelihood of the expert's replies.

    Each update's examples are drawn from a random stream of its own, so that going on from a checkpoint makes the
    model of an unbroken run.

    Args:
        policy: what is trained.
        data: what it is trained on.
        settings: constants.
        seed: of the drawing of examples.
        check: called with the number of updates made, every `settings.check_every`; True stops.
        on_step: called after each update with its number and loss (for progress bars).
        checkpoints: one is written here after each check. If there is one already, `policy` is taken to be its, and
            the updates go on from there.

    Returns:
        How many updates were made.
    """
    optimizer = make_optimizer(
        policy.trained(), learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    made = 0
    if checkpoints is not None and (latest := latest_checkpoint(checkpoints)) is not None:
        load_optimizer(latest, optimizer)
        made = load_progress(latest).iteration
    for step in range(made + 1, settings.steps + 1):
        rng = random.Random(stream(seed, step))
        rate = settings.learning_rate * min(1.0, step / settings.warmup_steps) * (1 - 0.9 * step / settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        if step <= settings.short_steps:
            rows = [row for _ in range(settings.short_batch) for row in data.draw_short(rng)]
        else:
            rows = [row for _ in range(settings.batch_episodes) for row in data.draw(rng)[1]]
        tokens = sum(span.stop - span.start for row in rows for span in row.spans)
        loss = 0.0
        for batch in batches(rows, policy.train_tokens):
            part = -policy.log_probs(batch).log_probs.sum() / tokens
            part.backward()
            loss += float(part.detach())
        torch.nn.utils.clip_grad_norm_(policy.trained(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step, loss)
        if step % settings.check_every == 0:
            if step >= settings.check_from and check(step):
                return step
            if checkpoints is not None:
                save_checkpoint(checkpoints, policy, optimizer, Progress(iteration=step))
    return settings.steps


@torch.no_grad()
def following_rate(
    policy: Policy, settings: LMSettings, trajectories: Sequence[Trajectory], *, seed: int = 0, samples: int = 200
) -> float:
    """How often the likeliest reply to "next: A" is A, for random admissible A at random steps of `trajectories`.

    Below about 0.95 step skills are not read, and whatever is computed from them is noise.
    """
    rng = random.Random(seed)
    prompts, wanted = [], []
    for _ in range(samples):
        trajectory = rng.choice([t for t in trajectories if t.steps])
        step = rng.randrange(len(trajectory.steps))
        action = rng.choice(spoken(trajectory.steps[step].admissible_actions) or [trajectory.steps[step].action])
        prompts.append(fit_prompt(policy, settings, view_at(trajectory, step), step_skill=action).ids)
        wanted.append(action)
    stop = policy.stop_ids(settings.stop)
    replies = policy.sample(prompts, max_new_tokens=settings.max_reply_tokens, temperature=0, stop=stop).reply_ids
    given = [parse_action(policy.decode(reply), settings.action_format).action for reply in replies]
    return sum(a == b for a, b in zip(given, wanted, strict=True)) / samples
