"""Is the teacher better than the student? To be asked before anything is trained.

On-policy skill distillation moves a policy towards what it would do with a skill in its prompt. Where that is no better
than what it does without, there is nothing to distil, whatever the weights. So the same tasks are played four times:
without skills, with step skills, with episode skills, and with both.

Step skills are the world's hindsight, asked at every step: the policy decides, and where the record so far shows that
something else is better, it decides again with that in its prompt. Episode skills are rules of the policy's own
successes in groups of rollouts on train tasks, looked up by task type and words.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opid_agents.lm import LMAgent, LMSettings, fit_prompt
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import Recipe
from opid_agents.sampling.engine import HFSampler
from opid_agents.sampling.sampler import Samples, SamplingParams
from opid_agents.skills.advice import advised_action
from opid_agents.skills.extract import Skills
from opid_agents.skills.library import SkillLibrary, successes
from opid_agents.streams import stream
from opid_agents.trace import TokenTrace
from opid_agents.training.batch import view_at
from opid_agents.training.demonstrations import Demonstrator, load_expert
from opid_agents.training.extraction import make_rules
from opid_agents.training.imitation import following_rate
from opid_agents.training.rollouts import play_groups
from opid_agents.training.setup import configure, lm_settings, make_envs, set_threads, task_ids
from opid_agents.training.watcher import Silent, Watcher
from opid_gym.agent import Decision
from opid_gym.evaluation import Evaluation, Interval, evaluate, paired_difference
from opid_gym.hindsight import Adviser
from opid_gym.rollout import play
from opid_gym.trajectory import Step, Trajectory
from opid_gym.vector import TextVectorEnv
from opid_gym.world import World

KINDS = ("none", "step", "episode", "both")
"""Which skills are in the prompts of a pass over the tasks."""


class AdvisedAgent(LMAgent):
    """Plays as its policy does; where the world's hindsight knows better, the policy decides again, told so.

    Args:
        policy, settings, options: see `LMAgent`.
        world: whose `World.hindsight` judges what the policy is about to do, from the record so far.
        decisive: only advice that brings the task itself on is given (`StepHindsight.decisive`).

    Attributes:
        advised, followed: steps with advice so far, and those of them where the advice was then done.
        steps: all steps so far.
    """

    def __init__(
        self, policy: Policy, settings: LMSettings, world: World, *, decisive: bool = False, **options: Any
    ) -> None:
        super().__init__(policy, settings, **options)
        self.advised = self.followed = self.steps = 0
        self._adviser = Adviser(world, decisive=decisive)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Forget the games where `mask` is True."""
        super().reset(mask)
        self._adviser.reset(mask)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        """Decide in each game that is being played, and again where that is not the best that is known."""
        decisions = self.decide(observations, infos)
        playing = np.flatnonzero(infos["_task"]).tolist()
        advice = {}
        for game in playing:
            better = self._adviser.better(game, observations[game], infos, decisions[game])
            if better is not None:
                advice[game] = better
        if advice:
            again = self.decide(observations, infos, advice)
            for game, action in advice.items():
                decisions[game] = again[game]
                self._adviser.played(game, again[game].action)
                self.followed += again[game].action == action
        self.steps += len(playing)
        self.advised += len(advice)
        self.remember(observations, infos, decisions)
        return decisions


class CountingSampler(HFSampler):
    """Counts what it samples.

    Attributes:
        tokens: of prompts and replies so far.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.tokens = 0

    def sample(self, prompts: Sequence[Sequence[int]], params: SamplingParams, **options: Any) -> Samples:
        """As `HFSampler.sample`."""
        samples = super().sample(prompts, params, **options)
        self.tokens += sum(map(len, prompts)) + sum(map(len, samples.reply_ids))
        return samples


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pass over the tasks took: tokens of prompts and replies, and seconds."""

    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Critical:
    """What the recipe's step skills say in groups of rollouts on train tasks.

    Attributes:
        steps: share of steps with a step skill, of all.
        agree: share of these where the skill names the action that was taken anyway; such a skill can only make the
            policy surer.
    """

    steps: float
    agree: float


@dataclass(frozen=True, slots=True)
class Shift:
    """By how much a step skill changes the log-probability of what was sampled without it.

    Attributes:
        steps: how many steps have a skill.
        action, rest: mean shift of a token of the action, and of a reply's other tokens; None if there are none.
    """

    steps: int
    action: float | None
    rest: float | None


@dataclass(frozen=True, slots=True)
class TeacherReport:
    """What `judge` found.

    Attributes:
        results: by the skills in the prompts (`KINDS`), on the same tasks in the same order.
        following: share of hints followed in states of the policy's own rollouts, see `following_rate` ...
        following_expert: ... and of the warm start's expert; None: the world has none.
        advised: share of steps at which hindsight knew better.
        heeded: share of those at which the policy then did what it was told.
        library: how many episode skills there were to choose from.
        shifts: of step skills at the steps of rollouts without skills at which hindsight knows better, in episodes that
            succeeded (``success``) and that failed (``failure``); and where the advice is decisive (``decisive``).
        critical: the recipe's own step skills.
        costs: of each pass, by the skills in the prompts. A step at which hindsight knows better is decided twice.
        seconds: what each part took.
    """

    results: Mapping[str, Evaluation]
    following: float
    following_expert: float | None
    advised: float
    heeded: float
    library: int
    shifts: Mapping[str, Shift]
    critical: Critical
    costs: Mapping[str, Cost]
    seconds: Mapping[str, float]

    def gain(self, kind: str) -> Interval:
        """Success with these skills less success without, paired by task."""
        return paired_difference(self.results["none"], self.results[kind])

    def judgement(self) -> str:
        """One sentence: what is worth distilling.

        A kind of skill is, if success with it is higher and the interval of the paired difference is above 0.
        """
        return "; ".join(
            self._verdict(kind, name) for kind, name in (("step", "step skills"), ("episode", "episode skills"))
        )

    def better_types(self) -> list[str]:
        """The task types in which success is higher with step skills or with episode skills than without."""
        rates = {kind: self.results[kind].by_task_type() for kind in KINDS}
        return [
            name
            for name, rate in rates["none"].items()
            if max(rates[kind][name].estimate for kind in ("step", "episode")) > rate.estimate
        ]

    def _verdict(self, kind: str, name: str) -> str:
        before, after = (self.results[k].success.estimate for k in ("none", kind))
        gain = self.gain(kind)
        if gain.low > 0:
            return f"{name} raise success from {before:.0%} to {after:.0%}: worth distilling"
        if gain.high < 0:
            return f"{name} lower success from {before:.0%} to {after:.0%}: do not distil them"
        count = len(self.results["none"].episodes)
        return f"{name} make no difference that {count} tasks can show ({before:.0%} and {after:.0%})"

    def to_dict(self) -> dict[str, Any]:
        """JSON values; shares are of 1."""
        success = {kind: self.results[kind].success.estimate for kind in KINDS}
        return {
            "tasks": len(self.results["none"].episodes),
            "following": self.following,
            "following_expert": self.following_expert,
            "success": success["none"],
            "success_with_step_skills": success["step"],
            "success_with_episode_skills": success["episode"],
            "success_with_both": success["both"],
            "gain": {kind: _interval(self.gain(kind)) for kind in KINDS[1:]},
            "by_task_type": {
                name: {kind: self.results[kind].by_task_type()[name].estimate for kind in KINDS}
                for name in self.results["none"].by_task_type()
            },
            "better_types": self.better_types(),
            "mean_return": {kind: _mean_return(self.results[kind]) for kind in KINDS},
            "advised": self.advised,
            "heeded": self.heeded,
            "episode_skills": self.library,
            "shifts": {name: asdict(shift) for name, shift in self.shifts.items()},
            "critical_steps": asdict(self.critical),
            "cost": {
                kind: {"tokens": cost.tokens, "seconds": round(cost.seconds, 1)} for kind, cost in self.costs.items()
            },
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "judgement": self.judgement(),
        }


def judge(
    recipe: Recipe,
    policy: Policy,
    *,
    tasks: int = 128,
    split: str | None = None,
    hints: int = 400,
    decisive: bool = False,
    watch: Watcher | None = None,
) -> TeacherReport:
    """Play tasks with and without skills in the prompts, at the temperature of rollouts.

    Args:
        recipe: its parts ``world``, ``prompting`` and ``skills`` are used, its ``temperature``, ``group_size`` and
            ``seed``.
        policy: student and teacher.
        tasks: maximum number of tasks, and of the rollouts on train tasks that episode skills come from.
        split: which tasks; None: the recipe's held-back ones.
        hints: how many are tried for the share that is followed.
        decisive: only decisive advice is given as step skills.
        watch: is told how it goes.
    """
    watch = watch or Silent()
    set_threads(recipe)
    settings = lm_settings(recipe)
    configure(policy, recipe.model)
    clock = _Clock()
    with watch.stage("look for episode skills", tasks) as advance:
        rollouts, skills = _rollouts(recipe, policy, settings, tasks, advance)
    library = SkillLibrary(size=recipe.skills.library_size, entries=successes(0, rollouts, skills))
    clock.lap("episode skills")

    split = split or recipe.world.eval_split
    envs = make_envs(recipe, split, 1)
    ids = task_ids(recipe, envs, split)[:tasks]
    envs.close()
    envs = make_envs(recipe, split, min(len(ids), recipe.num_envs or 128))
    results, costs, played, advised = {}, {}, list[Trajectory](), []
    for kind in KINDS:
        sampler = CountingSampler(policy)
        options: dict[str, Any] = {
            "sampler": sampler,
            "temperature": recipe.temperature,
            "seed": stream(recipe.seed, "teacher"),
            "skill_for": library.look_up if kind in ("episode", "both") else None,
        }
        agent: LMAgent
        if kind in ("step", "both"):
            agent = AdvisedAgent(policy, settings, envs.world, decisive=decisive, **options)
            advised.append(agent)
        else:
            agent = LMAgent(policy, settings, record_tokens=kind == "none", **options)
        with watch.stage(f"play with skills: {kind}", len(ids)) as advance:

            def keep(trajectory: Trajectory, kind: str = kind, advance: Any = advance) -> None:
                advance(1)
                if kind == "none":
                    played.append(trajectory)

            results[kind] = evaluate(envs, agent, ids, on_episode=keep)
        costs[kind] = Cost(sampler.tokens, clock.lap(f"play: {kind}"))
    shown = _demonstrations(recipe, envs, ids)
    envs.close()
    seed = stream(recipe.seed, "teacher following")
    following, following_expert = (
        following_rate(policy, settings, states, texts=shown, seed=seed, samples=hints) if states else None
        for states in (played, shown)
    )
    assert following is not None  # something was played
    clock.lap("following")
    shifts = _shifts(policy, settings, played, recipe.temperature)
    clock.lap("shifts")
    steps = advised[0]
    return TeacherReport(
        results,
        following,
        following_expert,
        steps.advised / max(1, steps.steps),
        steps.followed / max(1, steps.advised),
        len(library),
        shifts,
        critical_steps(rollouts, skills),
        costs,
        clock.seconds,
    )


def _rollouts(
    recipe: Recipe, policy: Policy, settings: LMSettings, count: int, advance: Any
) -> tuple[list[Trajectory], list[Skills | None]]:
    """Groups of rollouts on train tasks and the skills that rules find in them.

    The tasks are the last of the split, so that they are others than those that are judged even if that is the same
    split.
    """
    size = min(recipe.group_size, count)
    envs = make_envs(recipe, recipe.world.train_split, min(count, recipe.num_envs or 128))
    agent = LMAgent(policy, settings, temperature=recipe.temperature, seed=stream(recipe.seed, "teacher library"))
    ids = task_ids(recipe, envs, recipe.world.train_split)[-max(1, count // size) :]
    rollouts = play_groups(envs, agent, ids, size, advance)
    envs.close()
    groups = [rollouts[start : start + size] for start in range(0, len(rollouts), size)]
    found = make_rules(recipe).extract_all(groups).skills
    return rollouts, [skills for group in found for skills in group]


def _demonstrations(recipe: Recipe, envs: TextVectorEnv, ids: Sequence[str]) -> list[Trajectory]:
    """Episodes of the warm start's expert on some tasks; none where the world has no expert."""
    name = recipe.warm_start.expert
    try:
        expert = None if name == "world" else load_expert(name)
        return list(play(envs, Demonstrator(envs, expert, noise=recipe.warm_start.noise, seed=recipe.seed), ids))
    except ValueError:  # raised where there is no expert
        return []


def critical_steps(rollouts: Sequence[Trajectory], skills: Sequence[Skills | None]) -> Critical:
    """Which steps have step skills, and what these name."""
    agree = [
        advised_action(trajectory.steps[number], skill) == trajectory.steps[number].action
        for trajectory, found in zip(rollouts, skills, strict=True)
        if found is not None
        for number, skill in found.step_skills.items()
    ]
    steps = sum(len(trajectory) for trajectory in rollouts)
    return Critical(len(agree) / max(1, steps), sum(agree) / max(1, len(agree)))


def _shifts(
    policy: Policy, settings: LMSettings, trajectories: Sequence[Trajectory], temperature: float
) -> dict[str, Shift]:
    """Shifts of the world's better actions, put into the prompts of the steps they are about."""
    prompts, places = [], list[tuple[Trajectory, Step, TokenTrace]]()
    for trajectory in trajectories:
        for number, step in enumerate(trajectory.steps):
            trace = TokenTrace.from_data(step.data)
            if trace is not None and step.hindsight is not None and step.hindsight.better is not None:
                view, better = view_at(trajectory, number), step.hindsight.better
                prompts.append(fit_prompt(policy, settings, view, dropped=trace.dropped, step_skill=better).ids)
                places.append((trajectory, step, trace))
    replies = [trace.reply_ids for _, _, trace in places]
    masks = [settings.masks(policy, step.admissible_actions, trace.reply_ids) for _, step, trace in places]
    shifted = policy.score(prompts, replies, temperature=temperature, masks=masks) if prompts else []
    tokens: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ("success", "failure", "decisive")}
    steps = dict.fromkeys(tokens, 0)
    for (trajectory, step, trace), after in zip(places, shifted, strict=True):
        kinds = ["success" if trajectory.success else "failure"]
        if step.hindsight is not None and step.hindsight.decisive:
            kinds.append("decisive")
        in_action = action_tokens(policy, trace.reply_ids, step.action)
        for kind in kinds:
            steps[kind] += 1
            for new, old, own in zip(after, trace.log_probs, in_action, strict=True):
                tokens[kind][0 if own else 1].append(new - old)
    return {
        name: Shift(steps[name], *(float(np.mean(values)) if values else None for values in tokens[name]))
        for name in tokens
    }


def action_tokens(policy: Policy, reply_ids: Sequence[int], action: str) -> list[bool]:
    """Which tokens of a reply spell its action: those that have a part of the action's last occurrence in the text.

    All of them where the reply does not hold the action word for word.
    """
    texts = [policy.decode(reply_ids[: n + 1]) for n in range(len(reply_ids))]
    place = texts[-1].lower().rfind(action.lower()) if texts else -1
    if place < 0 or not action:
        return [True] * len(reply_ids)
    ends = [len(text) for text in texts]
    starts = [0, *ends[:-1]]
    return [start < place + len(action) and end > place for start, end in zip(starts, ends, strict=True)]


def _mean_return(result: Evaluation) -> float:
    return sum(episode.episode_return for episode in result.episodes) / len(result.episodes)


def _interval(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


class _Clock:
    """Seconds of one part after the other."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> float:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
        return self.seconds[name]
