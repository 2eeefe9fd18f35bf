"""Stage 2 of OPID: from a finished trajectory to skills.

An *episode skill* is about the whole trajectory: after a success a workflow to use again, after a failure a
rule that avoids it. *Step skills* are about its few critical steps. An `Extractor` finds both;
`RuleExtractor` does so by rules, from the trajectory and its group alone. Source: OPID, arXiv 2606.26790; the
group contrast is this project's own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from opid_agents.skills.contrast import Contrast, contrast_skills, find_contrasts, first_waste
from opid_agents.skills.reading import (
    had_effect,
    read_command,
    state_names,
    task_words,
    untried_moves,
    without_number,
    workflow,
)
from opid_gym.trajectory import Trajectory

_UNTRIED_SHOWN = 3
_T = TypeVar("_T")


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
    """

    skills: list[list[Skills | None]]
    metrics: dict[str, float] = field(default_factory=dict)


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
        unfound: the things the task names were never taken; ``{plan}`` has moves that were not tried.
        unfound_anywhere: the same where no untried move is known.
        unfinished: the things were taken and the task was not finished; ``{action}`` is the last thing that
            was done with them.
        separator: between the phrases of a plan.
        sentence: capital letter and full stop.
    """

    step: str = "{action}"
    success: str = "{plan}"
    sibling: str = "{plan}"
    refused: str = "avoid {action}"
    loop: str = "avoid {action}"
    unfound: str = "{plan}"
    unfound_anywhere: str = "look in new places"
    unfinished: str = "finish after {action}"
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
    success="what worked: {plan}",
    sibling="this attempt failed; another one worked like this: {plan}",
    refused="do not repeat '{action}': it has no effect",
    loop="do not repeat '{action}' in the same situation: it led back to where you were",
    unfound="the things you need were never picked up; search where you have not been: {plan}",
    unfound_anywhere="the things you need were never picked up; search where you have not been",
    unfinished="after '{action}' finish the task without further detours",
    sentence=True,
)
STYLES: dict[str, SkillStyle] = {"compact": COMPACT, "sentences": SENTENCES}


@dataclass(frozen=True, slots=True)
class RuleExtractor:
    """Skills by rules, from the trajectory and its group, for any world that reads like a household.

    Episode skill: after a success the workflow of the trajectory (`opid_agents.skills.reading.workflow`).
    After a failure, the first of these that applies: what the shortest successful sibling did; the action
    that was repeated without effect; the action that was repeated in one state; where the things the task
    names were not looked for; the last thing done with them.

    Step skills: the group contrast (`opid_agents.skills.contrast`), and the first wasted step if the
    trajectory itself shows what was better.

    It is deterministic, and the order of the group does not matter.

    Attributes:
        max_step_skills: at most so many step skills a trajectory.
        gamma: discount of the returns that are contrasted.
        success_threshold: None: an episode is a success if its world said so; a number: if its return reaches
            it.
        first_divergence_only: a failure gets a step skill only where it first left the best action.
        own_waste: also look for the first wasted step.
        keep_numbers: workflows name instances ("shelf 2") and not kinds ("shelf").
        style: the wording.
    """

    max_step_skills: int = 5
    gamma: float = 0.95
    success_threshold: float | None = None
    first_divergence_only: bool = True
    own_waste: bool = True
    keep_numbers: bool = False
    style: SkillStyle = COMPACT

    def __post_init__(self) -> None:
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
        return self._extract(trajectory, group, self._contrasts(group))

    def extract_all(
        self, groups: Sequence[Sequence[Trajectory]], wanted: Callable[[Trajectory], bool] = lambda trajectory: True
    ) -> Extraction:
        """As `extract`, for whole groups; each group is compared once."""
        found: list[list[Skills | None]] = []
        for group in groups:
            contrasts = self._contrasts(group)
            found.append([self._extract(t, group, contrasts) if wanted(t) else None for t in group])
        return Extraction(found)

    def _contrasts(self, group: Sequence[Trajectory]) -> dict[str, Contrast]:
        tasks = sorted({trajectory.task_id for trajectory in group})
        if len(tasks) > 1:
            raise ValueError(f"a group is the rollouts of one task, got those of {len(tasks)}: {tasks[:3]}")
        return find_contrasts(group, gamma=self.gamma)

    def _extract(
        self, trajectory: Trajectory, group: Sequence[Trajectory], contrasts: Mapping[str, Contrast]
    ) -> Skills | None:
        if not trajectory.steps:
            return None
        success = self._succeeded(trajectory)
        skill = self._success_skill(trajectory) if success else self._failure_skill(trajectory, group)
        return Skills(_summary(trajectory, success), skill, self._step_skills(trajectory, contrasts, success))

    def _succeeded(self, trajectory: Trajectory) -> bool:
        return succeeded(trajectory, self.success_threshold)

    def _success_skill(self, trajectory: Trajectory) -> str:
        return self.style.write("success", plan=workflow(trajectory, keep_numbers=self.keep_numbers))

    def _failure_skill(self, trajectory: Trajectory, group: Sequence[Trajectory]) -> str:
        plans = [workflow(sibling, keep_numbers=self.keep_numbers) for sibling in group if self._succeeded(sibling)]
        if plans:
            return self.style.write("sibling", plan=min(plans, key=lambda plan: (len(plan), plan)))
        if action := _most_repeated(step.action.strip() for step in trajectory.steps if not had_effect(step)):
            return self.style.write("refused", action=action)
        states = zip(state_names(trajectory), trajectory.steps, strict=True)
        if repeated := _most_repeated((state, step.action.strip()) for state, step in states):
            return self.style.write("loop", action=repeated[1])
        if last := _last_handling(trajectory):
            return self.style.write("unfinished", action=last)
        moves = untried_moves(trajectory, _UNTRIED_SHOWN)
        return self.style.write("unfound" if moves else "unfound_anywhere", plan=moves)

    def _step_skills(self, trajectory: Trajectory, contrasts: Mapping[str, Contrast], success: bool) -> dict[int, str]:
        waste = first_waste(trajectory, success=success) if self.own_waste and self.max_step_skills > 1 else None
        actions = contrast_skills(
            trajectory,
            contrasts,
            success=success,
            limit=self.max_step_skills - (waste is not None),
            first_divergence_only=self.first_divergence_only,
        )
        if waste is not None:
            actions.setdefault(*waste)
        return {index: self.style.write("step", action=action) for index, action in sorted(actions.items())}


def succeeded(trajectory: Trajectory, threshold: float | None) -> bool:
    """Whether an episode counts as a success: its world said so (None), or its return reaches the threshold."""
    return trajectory.success if threshold is None else trajectory.episode_return >= threshold


def _most_repeated(items: Iterable[_T]) -> _T | None:
    """The item that occurs most often, the first of equals; None if nothing occurs twice."""
    common = Counter(items).most_common(1)
    return common[0][0] if common and common[0][1] > 1 else None


def _last_handling(trajectory: Trajectory) -> str | None:
    """The last effective action on something the task names."""
    words = task_words(trajectory.task)
    for step in reversed(trajectory.steps):
        command = read_command(step.action)
        handled = command is not None and command.kind == "act" and task_words(without_number(command.target or ""))
        if handled and handled & words and had_effect(step):
            return step.action.strip()
    return None


def _summary(trajectory: Trajectory, success: bool) -> str:
    steps = len(trajectory)
    wasted = sum(not had_effect(step) for step in trajectory.steps)
    states = len(set(state_names(trajectory)))
    outcome = "Solved" if success else "Failed"
    return (
        f"{outcome}: {trajectory.task!r}, {steps} step{'s' * (steps != 1)}, {wasted} without effect, "
        f"{states} state{'s' * (states != 1)} seen."
    )
