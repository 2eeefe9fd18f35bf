"""Stage 2 of OPID: from a finished trajectory to skills.

An *episode skill* is about the whole trajectory: after a success a workflow to use again, after a failure a
rule that avoids it. *Step skills* are about its few critical steps. An `Extractor` finds both;
`RuleExtractor` does so by rules, from what the record holds: the world's hindsight, the siblings, and the workflows of
successes. Source: OPID, arXiv 2606.26790; rules in place of an analyzer are this project's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, get_args

from opid_agents.returns import had_effect, state_names
from opid_agents.skills.contrast import Contrast, contrast_skills, find_contrasts
from opid_agents.skills.rules import common_rules
from opid_gym.trajectory import Trajectory

_T = TypeVar("_T")

HindsightSource = Literal["decisive", "all", "none"]
HINDSIGHT_SOURCES: tuple[str, ...] = get_args(HindsightSource)


@dataclass(frozen=True, slots=True)
class Skills:
    """What was learned from one trajectory.

    Attributes:
        episode_summary: what happened, for people and logs; never part of a prompt.
        episode_skill: one line about the whole trajectory.
        step_skills: 0-based step index -> one short line about that step.
    """

    episode_summary: str
    episode_skill: str
    step_skills: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Extraction:
    """What `Extractor.extract_all` found.

    Attributes:
        skills: of every trajectory of every group; None: there are none, which costs it its teacher signal and
            nothing else.
        metrics: figures to log: ``requests`` (trajectories somebody was asked about), ``failures`` (those of them
            without skills in the end), and what else an extractor counts.
        unreadable: replies of a model that were no skills, as they came, for people to look at.
    """

    skills: list[list[Skills | None]]
    metrics: dict[str, float] = field(default_factory=dict)
    unreadable: list[UnreadableReply] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class UnreadableReply:
    """What a model said about a trajectory where skills were asked for, and why it could not be used."""

    task_id: str
    reply: str
    error: str


class Extractor(Protocol):
    """Finds the skills of trajectories."""

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """The skills of every trajectory of every group.

        Args:
            groups: the rollouts of one task each.
            wanted: the others have no skills, but are there to compare with.
        """


@dataclass(frozen=True, slots=True)
class SkillStyle:
    """How the rules put what they found into words; slots in braces.

    Attributes:
        step: the better action at a critical step; ``{action}``.
        success: the workflow of the trajectory itself; ``{plan}``.
        sibling: after a failure, the workflow of a sibling that succeeded; ``{plan}``.
        refused: an action that was tried again and again without effect; ``{action}``.
        loop: an action that was repeated in the same state; ``{action}``.
        missed: the first better action that the world's hindsight tells of; ``{action}``.
        wanted: stands in rules for the words that a task names; see `opid_agents.skills.rules`.
        separator: between the phrases of a plan.
        sentence: capital letter and full stop.
    """

    step: str = "{action}"
    success: str = "{plan}"
    sibling: str = "{plan}"
    refused: str = "avoid {action}"
    loop: str = "avoid {action}"
    missed: str = "{action}"
    wanted: str = "it"
    separator: str = ", "
    sentence: bool = False

    def write(self, part: str, *, action: str = "", plan: Sequence[str] = ()) -> str:
        """Fill the template called `part`."""
        # One pass over the template's own slots: a brace in an action is text and stays text.
        before_plan, *after_plan = getattr(self, part).split("{plan}")
        pieces = [piece.replace("{action}", action) for piece in (before_plan, *after_plan)]
        text = self.separator.join(plan).join(pieces).strip()
        if not self.sentence or not text:
            return text
        return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


# Bare actions: a small model that follows "next: ACTION" and "plan: ACTION, ACTION" can use these as they
# are.
COMPACT = SkillStyle()
SENTENCES = SkillStyle(
    step="do this now: {action}",  # the action itself keeps its small letters
    success="what worked: {plan}",
    sibling="this attempt failed; another one worked like this: {plan}",
    refused="do not repeat '{action}': it has no effect",
    loop="do not repeat '{action}' in the same situation: it led back to where you were",
    missed="this attempt failed; it missed the moment for '{action}'",
    wanted="what the task names",
    sentence=True,
)
STYLES: dict[str, SkillStyle] = {"compact": COMPACT, "sentences": SENTENCES}


@dataclass(frozen=True, slots=True)
class RuleExtractor:
    """Skills by rules, from three sources that can be switched on and off.

    - *hindsight*: what the world says would have been better at a step (`opid_gym.trajectory.StepHindsight`), as step
      skill of that step. Each advice counts once an episode, in the order of the steps.
    - *contrast*: what siblings did better in the same state (`opid_agents.skills.contrast`), as step skills, where
      hindsight leaves room.
    - *workflow*: the rule of the task type (`opid_agents.skills.rules`), as episode skill: what the world's few words
      on what mattered (`Trajectory.workflow`) have in common in the successes of all groups. Where no two tasks of the
      type were solved, it is a success's own workflow, and after a failure the shortest one of the successful siblings.
      Where these failed too, the first of these that applies: the first better action by hindsight, a decisive one if
      there is any; the action that was repeated without effect; the action that was repeated in one state.

    The defaults are what helped in this project's study: decisive hindsight alone made OPID better than GRPO, while
    advice at wasted steps and from luckier siblings did harm. Nothing here knows any world's wording; a world without
    hindsight and workflow can use the contrast. It is deterministic, and the order of the group does not matter.

    Attributes:
        hindsight: ``decisive``: only advice that could be acted on at once; ``all``; ``none``.
        contrast: use the siblings.
        workflow: write episode skills; False: they are "".
        max_step_skills: maximum step skills per trajectory.
        gamma: discount of the returns that are contrasted.
        success_threshold: None: an episode is a success if its world said so; a number: if its return reaches
            it.
        first_divergence_only: a failure gets a contrast skill only where it first left the best action.
        style: the wording.

    Raises:
        ValueError: a setting is out of its range; the message names it.
    """

    hindsight: HindsightSource = "decisive"
    contrast: bool = False
    workflow: bool = True
    max_step_skills: int = 5
    gamma: float = 0.95
    success_threshold: float | None = None
    first_divergence_only: bool = True
    style: SkillStyle = COMPACT

    def __post_init__(self) -> None:
        if self.hindsight not in HINDSIGHT_SOURCES:
            raise ValueError(f"hindsight must be one of {HINDSIGHT_SOURCES}, got {self.hindsight!r}")
        if self.max_step_skills < 0:
            raise ValueError(f"max_step_skills must be >= 0, got {self.max_step_skills}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}")

    def extract(self, trajectory: Trajectory, group: Sequence[Trajectory]) -> Skills | None:
        """The skills of one trajectory; None if it has no steps.

        Raises:
            ValueError: the group has rollouts of another task.
        """
        if not any(sibling is trajectory for sibling in group):
            group = [*group, trajectory]
        return self._extract(trajectory, group, self._contrasts(group), {})

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """As `extract`, for whole groups, with rules of the task types of all of them; each group is compared once."""
        found: list[list[Skills | None]] = []
        won = [t for group in groups for t in group if self._succeeded(t)] if self.workflow else []
        rules = common_rules(won, wanted=self.style.wanted)
        for group in groups:
            contrasts = self._contrasts(group)
            found.append([self._extract(t, group, contrasts, rules) if wanted(t) else None for t in group])
        return Extraction(found)

    def _contrasts(self, group: Sequence[Trajectory]) -> dict[str, Contrast]:
        tasks = sorted({trajectory.task_id for trajectory in group})
        if len(tasks) > 1:
            raise ValueError(f"a group is the rollouts of one task, got those of {len(tasks)}: {tasks[:3]}")
        return find_contrasts(group, gamma=self.gamma) if self.contrast else {}

    def _extract(
        self,
        trajectory: Trajectory,
        group: Sequence[Trajectory],
        contrasts: Mapping[str, Contrast],
        rules: Mapping[str, Sequence[str]],
    ) -> Skills | None:
        if not trajectory.steps:
            return None
        success = self._succeeded(trajectory)
        skill = self._episode_skill(trajectory, group, success, rules) if self.workflow else ""
        return Skills(_summary(trajectory, success), skill, self._step_skills(trajectory, contrasts, success))

    def _succeeded(self, trajectory: Trajectory) -> bool:
        return succeeded(trajectory, self.success_threshold)

    def _episode_skill(
        self, trajectory: Trajectory, group: Sequence[Trajectory], success: bool, rules: Mapping[str, Sequence[str]]
    ) -> str:
        rule = rules.get(trajectory.task_type)
        if success:
            return self.style.write("success", plan=rule or trajectory.workflow or ())
        plans = [sibling.workflow for sibling in group if sibling.workflow and self._succeeded(sibling)]
        if rule or plans:
            return self.style.write("sibling", plan=rule or min(plans, key=lambda plan: (len(plan), plan)))
        if missed := self._missed(trajectory):
            return self.style.write("missed", action=missed)
        if action := _most_repeated(step.action.strip() for step in trajectory.steps if not had_effect(step)):
            return self.style.write("refused", action=action)
        states = zip(state_names(trajectory), trajectory.steps, strict=True)
        if repeated := _most_repeated((state, step.action.strip()) for state, step in states):
            return self.style.write("loop", action=repeated[1])
        return ""

    def _step_skills(self, trajectory: Trajectory, contrasts: Mapping[str, Contrast], success: bool) -> dict[int, str]:
        actions = self._advice(trajectory, self.max_step_skills)
        contrasted = contrast_skills(
            trajectory,
            contrasts,
            success=success,
            limit=self.max_step_skills - len(actions),
            first_divergence_only=self.first_divergence_only,
        )
        for index, action in contrasted.items():
            actions.setdefault(index, action)
        return {index: self.style.write("step", action=action) for index, action in sorted(actions.items())}

    def _missed(self, trajectory: Trajectory) -> str | None:
        """The first better action by hindsight, a decisive one before any other."""
        if self.hindsight == "none":
            return None
        told = [step.hindsight for step in trajectory.steps if step.hindsight and step.hindsight.better]
        first = next((look for look in told if look.decisive), told[0] if told else None)
        return first.better if first else None

    def _advice(self, trajectory: Trajectory, limit: int) -> dict[int, str]:
        """The better action by hindsight, by step index: each action once, the earliest first."""
        found: dict[int, str] = {}
        if self.hindsight == "none":
            return found
        said: set[str] = set()
        for index, step in enumerate(trajectory.steps):
            told = step.hindsight
            if len(found) == limit:
                break
            if told is None or told.better is None or told.better in said:
                continue
            if told.decisive or self.hindsight == "all":
                found[index] = told.better
                said.add(told.better)
        return found


def succeeded(trajectory: Trajectory, threshold: float | None) -> bool:
    """Whether an episode counts as a success: its world said so (None), or its return reaches the threshold."""
    return trajectory.success if threshold is None else trajectory.episode_return >= threshold


def _most_repeated(items: Iterable[_T]) -> _T | None:
    """The item that occurs most often, the first of equals; None if nothing occurs twice."""
    common = Counter(items).most_common(1)
    return common[0][0] if common and common[0][1] > 1 else None


def _summary(trajectory: Trajectory, success: bool) -> str:
    steps = len(trajectory)
    wasted = sum(not had_effect(step) for step in trajectory.steps)
    states = len(set(state_names(trajectory)))
    outcome = "Solved" if success else "Failed"
    return (
        f"{outcome}: {trajectory.task!r}, {steps} step{'s' * (steps != 1)}, {wasted} without effect, "
        f"{states} state{'s' * (states != 1)} seen."
    )
