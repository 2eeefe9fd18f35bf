"""Group contrast: where siblings left the same state by different actions, with different returns.

The rollouts of one task start alike and part ways somewhere. Where they part, the returns that followed say
which way was better, with nothing privileged: a state seen by several rollouts is found by its exact name
(the anchor, as in GiGPO, arXiv 2505.10978).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

from opid_agents.returns import discounted_returns, had_effect, state_names
from opid_gym.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Contrast:
    """A state that was left by at least two different actions, one of which paid best.

    Attributes:
        best: the action with the highest mean discounted return; that is positive.
        values: mean discounted return by action.
    """

    best: str
    values: Mapping[str, float]

    def gap(self, action: str) -> float:
        """How much better an action is than the mean of the others: the size of the decision."""
        others = [value for other, value in self.values.items() if other != action]
        return self.values[action] - fsum(others) / len(others)


def find_contrasts(group: Sequence[Trajectory], *, gamma: float = 0.95) -> dict[str, Contrast]:
    """The contrasts in a group of rollouts of one task, by state name; the order of the group does not matter.

    An action that had no effect is never the best one. States where no action stands out, or none
    has a positive mean return, are left out.
    """
    visits: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    effective: set[tuple[str, str]] = set()
    for trajectory in group:
        returns = discounted_returns(trajectory, gamma)
        for name, step, value in zip(state_names(trajectory), trajectory.steps, returns, strict=True):
            action = step.action.strip()
            visits[name][action].append(value)
            if had_effect(step):
                effective.add((name, action))
    contrasts: dict[str, Contrast] = {}
    for name in sorted(visits):
        # Sums that do not depend on the order of the group, and ties broken by the text.
        values = {action: fsum(rs) / len(rs) for action, rs in sorted(visits[name].items())}
        candidates = [action for action in values if (name, action) in effective]
        if len(values) < 2 or not candidates:
            continue
        best = max(candidates, key=lambda action: values[action])
        if values[best] > 0 and min(values.values()) < values[best]:
            contrasts[name] = Contrast(best, values)
    return contrasts


def contrast_skills(
    trajectory: Trajectory,
    contrasts: Mapping[str, Contrast],
    *,
    success: bool,
    limit: int,
    first_divergence_only: bool = True,
) -> dict[int, str]:
    """The better action at the critical steps of one trajectory, by step index.

    A failed trajectory gets the best action where it first chose a worse one; what came after are consequences
    (`first_divergence_only` off: wherever it did). A successful one gets its own action, where that was better than the
    others' and did not lead back to the same state. Of more than `limit` the largest decisions are kept.

    Args:
        trajectory: one of the group.
        contrasts: of the group, from `find_contrasts`.
        success: whether the trajectory succeeded.
        limit: maximum number of skills.
        first_divergence_only: see above.
    """
    names = state_names(trajectory)
    last_visit = {name: index for index, name in enumerate(names)}
    found: list[tuple[float, int, str]] = []
    for index, (name, step) in enumerate(zip(names, trajectory.steps, strict=True)):
        contrast = contrasts.get(name)
        action = step.action.strip()
        if contrast is None or action not in contrast.values:
            continue
        if success:
            if last_visit[name] == index and had_effect(step) and contrast.gap(action) > 0:
                found.append((-contrast.gap(action), index, action))
        elif contrast.values[action] < contrast.values[contrast.best] and _is_possible(step, contrast.best):
            found.append((-contrast.gap(contrast.best), index, contrast.best))
            if first_divergence_only:
                break
    return dict(sorted((index, action) for _, index, action in sorted(found)[:limit]))


def _is_possible(step: Step, action: str) -> bool:
    """Whether the world would have accepted an action at this step; True where that is not known."""
    return step.admissible_actions is None or action in {allowed.strip() for allowed in step.admissible_actions}
