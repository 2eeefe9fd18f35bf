"""Exact evaluation: every task of a split once, success by task type, with intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gymnasium.vector import VectorEnv

from opid_gym.agent import Agent
from opid_gym.rollout import play
from opid_gym.trajectory import Trajectory
from opid_gym.world import World

# 97.5 % quantile of the standard normal distribution: intervals here are two-sided 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its two-sided 95 % confidence interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.1%} [{self.low:.1%}, {self.high:.1%}]"


@dataclass(frozen=True, slots=True)
class Episode:
    """The result of one task."""

    task_id: str
    task_type: str
    success: bool
    episode_return: float
    length: int
    valid_actions: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results of an agent on a list of tasks, in the order of the list.

    Attributes:
        episodes: one record a task.
        settings: what was evaluated (environment, split, agent, seed); written with the results.
    """

    episodes: tuple[Episode, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def success(self) -> Interval:
        """Success rate over all tasks."""
        return wilson(sum(e.success for e in self.episodes), len(self.episodes))

    def by_task_type(self) -> dict[str, Interval]:
        """Success rate of each task type, sorted by name."""
        return {name: wilson(sum(e.success for e in group), len(group)) for name, group in self._groups().items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON values: settings, totals, and the episodes behind them."""
        count = len(self.episodes)
        steps = sum(e.length for e in self.episodes)
        return {
            **self.settings,
            "episodes": count,
            "successes": sum(e.success for e in self.episodes),
            "success": asdict(self.success),
            "by_task_type": {
                name: {
                    "episodes": len(group),
                    "successes": sum(e.success for e in group),
                    **asdict(wilson(sum(e.success for e in group), len(group))),
                }
                for name, group in self._groups().items()
            },
            "mean_return": sum(e.episode_return for e in self.episodes) / count,
            "mean_length": steps / count,
            "valid_action_ratio": sum(e.valid_actions for e in self.episodes) / max(steps, 1),
            "results": [asdict(e) for e in self.episodes],
        }

    def to_json(self) -> str:
        """`to_dict` as one line of JSON."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def _groups(self) -> dict[str, list[Episode]]:
        names = sorted({e.task_type for e in self.episodes})
        return {name: [e for e in self.episodes if e.task_type == name] for name in names}


def evaluate(
    envs: VectorEnv[Any, Any, Any],
    agent: Agent,
    task_ids: Sequence[str] | None = None,
    *,
    settings: dict[str, Any] | None = None,
    on_episode: Callable[[Trajectory], None] | None = None,
) -> Evaluation:
    """Play each task once and count.

    Args:
        envs: a vector environment made with ``autoreset_mode=AutoresetMode.DISABLED``; any number of games.
        agent: who acts.
        task_ids: the tasks; None: all of the split, in the world's order.
        settings: kept with the results, beside the world's ``source`` and ``data``.
        on_episode: called with each finished trajectory (for progress bars and for writing them down).

    Raises:
        ValueError: no tasks, or see `opid_gym.rollout.play`.
    """
    world: World = envs.unwrapped.world  # type: ignore[attr-defined]
    chosen = list(world.task_ids if task_ids is None else task_ids)
    if not chosen:
        raise ValueError("there are no tasks to evaluate on")
    episodes: dict[int, Episode] = {}
    for trajectory in play(envs, agent, chosen):
        episodes[trajectory.metadata["index"]] = Episode(
            task_id=trajectory.task_id,
            task_type=trajectory.task_type,
            success=trajectory.success,
            episode_return=trajectory.episode_return,
            length=len(trajectory),
            valid_actions=sum(step.valid for step in trajectory.steps),
        )
        if on_episode is not None:
            on_episode(trajectory)
    return Evaluation(
        tuple(episodes[index] for index in range(len(chosen))),
        {"source": world.source, "data": world.data, **(settings or {})},
    )


def wilson(successes: int, count: int) -> Interval:
    """Wilson's score interval of a rate (Wilson 1927); sound for small counts and for rates at 0 and 1.

    Raises:
        ValueError: not 0 <= successes <= count, or count is 0.

    >>> str(wilson(8, 10))
    '80.0% [49.0%, 94.3%]'
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"need 0 <= successes <= count and count >= 1, got successes={successes}, count={count}")
    return score_interval(successes / count, count)


def score_interval(rate: float, count: float) -> Interval:
    """Wilson's interval of a rate seen in `count` independent trials; a fraction where they are not quite that many.

    Raises:
        ValueError: not 0 <= rate <= 1, or count is not positive.

    >>> score_interval(0.0, 50).low
    0.0
    """
    if count <= 0 or not 0 <= rate <= 1:
        raise ValueError(f"need 0 <= rate <= 1 and count > 0, got rate={rate}, count={count}")
    scale = 1 + _Z**2 / count
    center = (rate + _Z**2 / (2 * count)) / scale
    half = _Z / scale * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    # At the ends the two terms are equal, but for rounding.
    return Interval(rate, max(0.0, center - half) if rate > 0 else 0.0, min(1.0, center + half) if rate < 1 else 1.0)


def paired_difference(before: Evaluation, after: Evaluation) -> Interval:
    """Change of the success rate from `before` to `after` on the same tasks.

    The interval is Bonett and Price's adjusted Wald interval for paired proportions (2012): with n tasks, of which b
    only the second solved and c only the first, p = (b + 1) / (n + 2), q = (c + 1) / (n + 2), the interval is p - q
    -/+ z sqrt((p + q - (p - q)^2) / (n + 2)).

    Raises:
        ValueError: the two were not evaluated on the same tasks in the same order.
    """
    if [e.task_id for e in before.episodes] != [e.task_id for e in after.episodes]:
        raise ValueError("paired_difference needs two evaluations of the same tasks in the same order")
    pairs = list(zip(before.episodes, after.episodes, strict=True))
    return paired_interval([a.success - b.success for b, a in pairs])


def paired_interval(differences: Sequence[float]) -> Interval:
    """The interval of `paired_difference` from each task's difference, which may be a fraction (a mean over seeds).

    Bonett and Price's interval is Wald's after one pair that was won and one that was lost are added: its mean is
    sum(d) / (n + 2) and its second moment (sum(d^2) + 2) / (n + 2), which for differences of -1, 0 and 1 are p - q and
    p + q.
    """
    count = len(differences)
    mean = sum(differences) / (count + 2)
    second_moment = (sum(d * d for d in differences) + 2) / (count + 2)
    half = _Z * math.sqrt((second_moment - mean**2) / (count + 2))
    return Interval(sum(differences) / count, max(-1.0, mean - half), min(1.0, mean + half))
