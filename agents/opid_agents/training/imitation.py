"""Warm start: imitation of an expert, with lessons that teach a model to use hints.

A skill can only change what a model does if the model reads skills. Demonstrations alone do not teach that, for hints
that merely announce what the expert does next anyway are ignored. Most hints here therefore say "next: A" for a
*random* admissible A, and the answer is A; some demonstrations carry their workflow as a plan.

Reading comes first, acting second. Copying the words of a hint is what a small model learns last, and in long prompts
last of all, while a policy that imitates well is too sure of itself to explore. The order of the lessons separates the
two: random words to be said again, with nothing around them, then single observations with a hint, then whole episodes
in which only hints are answered, the policy's own rollouts among them, and only then the demonstrations, until the
policy is good enough to learn from its own play. Imitation is quick once a policy can copy, and each of its updates
changes the states in which hints are to be followed, so it may have smaller steps.

An episode is one row of tokens, and the hints of its steps are branches of it (`opid_agents.packing.share`), so that
six hints cost less than a second episode.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from opid_agents.algorithms.optimizer import make_optimizer, set_rate
from opid_agents.lm import LMSettings, fit_prompt
from opid_agents.policy import Policy
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import SamplingParams
from opid_agents.skills.extract import RuleExtractor
from opid_agents.streams import stream
from opid_agents.training.batch import view_at
from opid_agents.training.checkpoint import (
    Progress,
    latest_checkpoint,
    load_optimizer,
    load_progress,
    save_checkpoint,
)
from opid_agents.training.demonstrations import advice_at, as_element, learned_steps, spoken
from opid_gym.actions import parse_action, spaced
from opid_gym.prompting import PromptView
from opid_gym.trajectory import Trajectory

Phase = Literal["copy", "short", "read", "act"]
_MOST_WORDS = 12  # to be said again in a lesson of phase ``copy``
_RANDOM_WORDS = 0.5  # share of free texts from elsewhere in hints that are random words


@dataclass(frozen=True, slots=True)
class HintMix:
    """Which hints are given, and in which episodes.

    Attributes:
        hints: hints in an episode, at random steps and as evenly over them as can be; each is a branch of its own that
            the rest of the episode does not see.
        plan: share of demonstrations that are also shown under their own workflow, as an episode skill.
        own: share of episodes that are rollouts of the policy itself, once there are any. Only hints are answered in
            them: what the policy did there is nothing to imitate.
        from_expert: share of hints that name what the expert would do there, if that is known.
        from_elsewhere: share of hints that name an action of some other state. All others name a random admissible
            action of this one; where actions are free text, that is one from elsewhere too, or one of random words.
        short_play: in phase ``short``, the expert's own action is learned as well, where the observation is not that of
            the step before. What can be told from a single page (which of its options the task names) is learned
            there at a fraction of the tokens of an episode.
    """

    hints: int = 6
    plan: float = 0.2
    own: float = 0.4
    from_expert: float = 0.2
    from_elsewhere: float = 0.1
    short_play: bool = False

    def __post_init__(self) -> None:
        if self.hints < 0:
            raise ValueError(f"hints must be >= 0, got {self.hints}")
        for name in ("plan", "own", "from_expert", "from_elsewhere"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of the hint mix must be in [0, 1], got {getattr(self, name)}")
        if self.from_expert + self.from_elsewhere > 1:
            raise ValueError(
                "from_expert and from_elsewhere of the hint mix are shares of one whole, got "
                f"{self.from_expert} + {self.from_elsewhere}"
            )


@dataclass(frozen=True, slots=True)
class Lesson:
    """A prompt and the reply to learn; `hinted` says that the reply is the one a step's hint names."""

    prompt_ids: list[int]
    reply_ids: list[int]
    hinted: bool


class Lessons:
    """Lessons drawn at random from demonstrations and from the policy's own rollouts.

    Args:
        policy, settings: for encoding prompts.
        demonstrations: episodes of the expert; see `learned_steps`.
        mix: which hints are given.
        names: of actions of the form ``name[text]`` with free text, see `action_names`: hints of random words are given
            for all of them, for an expert may never do what advice says.
        extractor: writes the workflow of an episode.

    Attributes:
        own: rollouts of the policy; exchange them as it learns.
    """

    def __init__(
        self,
        policy: Policy,
        settings: LMSettings,
        demonstrations: Sequence[Trajectory],
        mix: HintMix,
        names: Sequence[str] = (),
        extractor: RuleExtractor | None = None,
    ) -> None:
        self.own: Sequence[Trajectory] = ()
        self._policy = policy
        self._settings = settings
        self._demonstrations = demonstrations
        self._mix = mix
        self._names = names
        extractor = extractor or RuleExtractor()
        self._words = sorted({word for t in demonstrations for step in t.steps for word in step.observation.split()})
        self._plans: list[str | None] = []
        for demonstration in demonstrations:
            skills = extractor.extract(demonstration, [demonstration]) if demonstration.success else None
            self._plans.append(skills.episode_skill if skills else None)

    def draw(self, rng: random.Random, phase: Phase) -> list[Lesson]:
        """The lessons of one episode; in phase ``short`` of one observation without its history, in ``copy`` words."""
        if phase == "copy":
            return [self._copy(rng)]
        if phase == "short":
            return self._short(rng)
        if self.own and rng.random() < self._mix.own:
            return self._hinted(rng.choice(self.own), rng)
        which = rng.randrange(len(self._demonstrations))
        demonstration = self._demonstrations[which]
        lessons = self._hinted(demonstration, rng)
        if phase == "act":
            plan = self._plans[which] if rng.random() < self._mix.plan else None
            lessons += [
                self._lesson(demonstration, step, advice_at(demonstration, step), episode_skill=plan)
                for step in learned_steps(demonstration)
            ]
        return lessons

    def _hinted(self, trajectory: Trajectory, rng: random.Random) -> list[Lesson]:
        count = len(trajectory.steps)
        whole, rest = divmod(self._mix.hints, count) if count else (0, 0)
        lessons = []
        for step in [*range(count)] * whole + rng.sample(range(count), rest):
            if hint := self._hint(trajectory, step, rng):
                lessons.append(self._lesson(trajectory, step, hint, step_skill=hint))
        return lessons

    def _copy(self, rng: random.Random) -> Lesson:
        """Say again some words of the world, in no order: all that can be learned from it is to copy."""
        words = self._random_words(rng)
        prompt = fit_prompt(self._policy, self._settings, PromptView("", ""), step_skill=words)
        return Lesson(prompt.ids, reply_to_imitate(self._policy, self._settings, words), hinted=True)

    def _random_words(self, rng: random.Random) -> str:
        return " ".join(rng.choices(self._words, k=rng.randint(1, _MOST_WORDS)))

    def _short(self, rng: random.Random) -> list[Lesson]:
        trajectory = rng.choice(self._demonstrations)
        step = rng.randrange(len(trajectory.steps))
        hint = self._hint(trajectory, step, rng)
        seen = trajectory.steps[step]
        view = PromptView(trajectory.task, seen.observation, (), seen.admissible_actions)
        lessons = [self._answer(view, hint, step_skill=hint)]
        new = step == 0 or seen.observation != trajectory.steps[step - 1].observation
        if self._mix.short_play and new and step in learned_steps(trajectory):
            lessons.append(self._answer(view, seen.action))
        return lessons

    def _hint(self, trajectory: Trajectory, step: int, rng: random.Random) -> str:
        share = rng.random()
        if share < self._mix.from_expert:
            return advice_at(trajectory, step)
        here = spoken(trajectory.steps[step].admissible_actions)
        if here and share >= self._mix.from_expert + self._mix.from_elsewhere:
            return rng.choice(here)
        other = rng.choice(self._demonstrations)
        place = rng.randrange(len(other.steps))
        if elsewhere := spoken(other.steps[place].admissible_actions):
            return rng.choice(elsewhere)
        action = advice_at(other, place)
        # What the expert says is little, and would be known by heart instead of being copied.
        if "[" in action and rng.random() < _RANDOM_WORDS:
            return f"{rng.choice(self._names or action.split('[')[:1])}[{self._random_words(rng)}]"
        return action

    def _lesson(
        self,
        trajectory: Trajectory,
        step: int,
        action: str,
        *,
        episode_skill: str | None = None,
        step_skill: str | None = None,
    ) -> Lesson:
        return self._answer(view_at(trajectory, step), action, episode_skill=episode_skill, step_skill=step_skill)

    def _answer(
        self, view: PromptView, action: str, *, episode_skill: str | None = None, step_skill: str | None = None
    ) -> Lesson:
        prompt = fit_prompt(self._policy, self._settings, view, episode_skill=episode_skill, step_skill=step_skill)
        return Lesson(prompt.ids, reply_to_imitate(self._policy, self._settings, action), hinted=step_skill is not None)


def action_names(action_help: str) -> list[str]:
    """The names of a world's actions of the form ``name[text]``, from its `opid_gym.world.World.action_help`.

    >>> action_names("Give one search, as search[QUERY], or one answer, as answer[TEXT].")
    ['answer', 'search']
    """
    return sorted(set(re.findall(r"(\w+)\[", action_help)))


def reply_to_imitate(policy: Policy, settings: LMSettings, action: str) -> list[int]:
    """The tokens of a reply that says an action, its end included."""
    said = spaced(action) if settings.action_format.spaces else as_element(action, settings.action_format.elements)
    text = settings.reply.replace("{action}", said)
    ids = policy.encode_reply(text)
    # Without a stop text in it a reply goes on to the limit, unless its end is learned.
    end = policy.end_token
    if end is None or any(stop in text for stop in settings.stop):
        return ids
    return [*ids, end]


@dataclass(frozen=True, slots=True)
class ImitationSettings:
    """Constants of `imitate`.

    Attributes:
        steps: maximum number of updates.
        copy_steps: the first of them say random words again (phase ``copy``).
        short_steps: the next ones see single observations with a hint and no history (phase ``short``).
        read_steps: the next ones see whole episodes in which hints alone are answered (``read``); the rest see the
            demonstrations as well (``act``).
        short_batch: single observations, or lists of words, in an update.
        batch_episodes: episodes in an update afterwards.
        learning_rate: of AdamW after warm-up; decays linearly to a tenth over `steps`.
        act_rate: factor on it in phase ``act``.
        warmup_steps: the learning rate rises linearly over the first updates.
        check_from, check_every: look at the policy after every `check_every` updates, but not before `check_from`.
        weight_decay, clip_norm: of AdamW, and of the gradient.
    """

    steps: int = 1000
    copy_steps: int = 0
    short_steps: int = 100
    read_steps: int = 300
    short_batch: int = 32
    batch_episodes: int = 8
    learning_rate: float = 3e-3
    act_rate: float = 1.0
    warmup_steps: int = 50
    check_from: int = 0
    check_every: int = 50
    weight_decay: float = 0.01
    clip_norm: float = 1.0

    def phase(self, step: int) -> Phase:
        """Of the update with this number, from 1."""
        phases: tuple[tuple[Phase, int], ...] = (
            ("copy", self.copy_steps),
            ("short", self.short_steps),
            ("read", self.read_steps),
        )
        for phase, length in phases:
            if step <= length:
                return phase
            step -= length
        return "act"


def imitate(
    policy: Policy,
    lessons: Lessons,
    settings: ImitationSettings,
    *,
    seed: int = 0,
    check: Callable[[int], bool] = lambda step: False,
    own: Callable[[int], Sequence[Trajectory]] = lambda step: (),
    on_step: Callable[[int, float], None] | None = None,
    checkpoints: Path | None = None,
) -> int:
    """Train `policy` in place by maximum likelihood of the lessons' replies.

    Answers to hints and demonstrated actions count as much as each other, however many tokens there are of either.
    Each update's lessons are drawn from a random stream of their own, and the policy's own rollouts depend on nothing
    but its weights and the number of the update, so going on from a checkpoint makes the model of an unbroken run.

    Args:
        policy: what is trained.
        lessons: what it is trained on; its `own` rollouts are exchanged at each look.
        settings: constants.
        seed: of the drawing of lessons.
        check: looks at the policy; called with the number of updates made. True stops.
        own: rollouts of the policy as it is now, called after each look with the number of updates made.
        on_step: called after each update with its number and loss (for progress bars).
        checkpoints: one is written here after each look. If there is one already, `policy` is taken to be its, and
            the updates go on from there.

    Returns:
        How many updates were made.
    """
    optimizer = make_optimizer(
        policy.trained(), learning_rate=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    made = 0
    if checkpoints is not None and (latest := latest_checkpoint(checkpoints)) is not None:
        load_optimizer(latest, optimizer, policy)
        made = load_progress(latest).iteration
        if made >= settings.check_from:
            lessons.own = own(made)
    for step in range(made + 1, settings.steps + 1):
        rng = random.Random(stream(seed, step))
        rate = settings.learning_rate * min(1.0, step / settings.warmup_steps) * (1 - 0.9 * step / settings.steps)
        phase = settings.phase(step)
        set_rate(optimizer, rate * (settings.act_rate if phase == "act" else 1.0))
        count = settings.short_batch if phase in ("copy", "short") else settings.batch_episodes
        loss = _loss(policy, [lesson for _ in range(count) for lesson in lessons.draw(rng, phase)])
        torch.nn.utils.clip_grad_norm_(policy.trained(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step is not None:
            on_step(step, loss)
        if step % settings.check_every == 0:
            if step >= settings.check_from:
                if check(step):
                    return step
                lessons.own = own(step)
            if checkpoints is not None:
                save_checkpoint(checkpoints, policy, optimizer, Progress(iteration=step))
    return settings.steps


def _loss(policy: Policy, lessons: Sequence[Lesson]) -> float:
    """Mean negative log-likelihood of a token, of either kind of lesson, and its gradients; the two are added."""
    tokens = {kind: sum(len(lesson.reply_ids) for lesson in lessons if lesson.hinted == kind) for kind in (True, False)}
    weights = torch.tensor([1 / tokens[lesson.hinted] for lesson in lessons], device=policy.device)
    rows = policy.rows([lesson.prompt_ids for lesson in lessons], [lesson.reply_ids for lesson in lessons])
    loss = 0.0
    for batch in policy.batches(rows):
        scored = policy.log_probs(batch)
        part = -(scored.log_probs * weights[scored.sample]).sum()
        part.backward()
        loss += float(part.detach())
    return loss


@torch.no_grad()
def following_rate(
    policy: Policy,
    settings: LMSettings,
    trajectories: Sequence[Trajectory],
    *,
    texts: Sequence[Trajectory] = (),
    seed: int = 0,
    samples: int = 200,
) -> float:
    """How often the likeliest reply to "next: A" is A, for random admissible A at random steps of `trajectories`.

    Below about 0.95 step skills are not read, and whatever is computed from them is noise.

    Args:
        policy, settings: the model, its prompts and replies.
        trajectories: episodes whose states are shown.
        texts: where actions are free text, A is what was done at a random step of these; none: of `trajectories`. What
            a policy says itself may be nothing that anybody would advise.
        seed: of the steps and actions.
        samples: how many hints are tried.
    """
    rng = random.Random(seed)
    prompts, wanted = [], []
    played, told = ([t for t in episodes if t.steps] for episodes in (trajectories, texts or trajectories))
    for _ in range(samples):
        trajectory = rng.choice(played)
        step = rng.randrange(len(trajectory.steps))
        here = spoken(trajectory.steps[step].admissible_actions)
        action = rng.choice(here) if here else rng.choice(rng.choice(told).steps).action
        prompts.append(fit_prompt(policy, settings, view_at(trajectory, step), step_skill=action).ids)
        wanted.append(action)
    params = SamplingParams(settings.max_reply_tokens, temperature=0, stop=settings.stop)
    replies = HFSampler(policy).sample(prompts, params).reply_ids
    given = [parse_action(policy.decode(reply), settings.action_format).action for reply in replies]
    return sum(a == b for a, b in zip(given, wanted, strict=True)) / samples
