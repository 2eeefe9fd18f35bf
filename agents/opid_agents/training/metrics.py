"""The figures of an iteration, one line of ``metrics.jsonl``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from opid_agents.skills.extract import Skills
from opid_agents.training.batch import Batch
from opid_agents.training.checkpoint import Progress
from opid_agents.training.diagnostics import diagnose
from opid_agents.training.updates import UpdateResult
from opid_gym.evaluation import Evaluation
from opid_gym.trajectory import Step, Trajectory


def describe_iteration(
    progress: Progress,
    trajectories: Sequence[Trajectory],
    skills: Sequence[Skills | None],
    analysis: Mapping[str, float],
    batch: Batch,
    result: UpdateResult,
    evaluation: Evaluation | None,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The metrics line of one iteration. Everything but times is the same for the same seed."""
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    types = sorted({trajectory.task_type for trajectory in trajectories})
    by_group: dict[int, list[bool]] = {}
    for trajectory in trajectories:
        by_group.setdefault(trajectory.group, []).append(trajectory.success)
    found = [skill for skill in skills if skill is not None]
    metrics: dict[str, Any] = {
        "iteration": progress.iteration,
        "episodes": progress.episodes,
        "env_steps": progress.env_steps,
        "success": _mean([t.success for t in trajectories]),
        "return": _mean([t.episode_return for t in trajectories]),
        "length": _mean([len(t) for t in trajectories]),
        "valid_actions": _mean([step.valid for step in steps]),
        "groups/mixed": _mean([len(set(outcomes)) > 1 for outcomes in by_group.values()]),
        "groups/trained": batch.groups,
        **{f"analysis/{name}": value for name, value in analysis.items()},
        "skills/trajectories": len(found),
        "skills/steps": sum(len(skill.step_skills) for skill in found),
        "updates": result.updates,
        "updates/skipped": result.skipped,
        "updates/skipped_total": progress.skipped_updates,
    }
    if crashed := sum(bool(t.metadata.keys() & {"crashed", "too_slow"}) for t in trajectories):
        metrics["crashed"] = crashed
    for name in types:
        metrics[f"success/{name}"] = _mean([t.success for t in trajectories if t.task_type == name])
    metrics |= {f"reply/{name}": value for name, value in reply_figures(steps).items()}
    if batch.importance is not None:
        metrics |= staleness_figures(batch, progress.iteration)
    if batch.sampler_gap is not None:
        metrics |= {f"sampler/{name}": value for name, value in asdict(batch.sampler_gap).items()}
    metrics |= {f"train/{name}": value for name, value in result.metrics.items()}
    metrics |= {f"opid/{name}": value for name, value in skill_figures(batch, result).items()}
    if evaluation is not None:
        metrics["eval/success"] = evaluation.success.estimate
        metrics |= {f"eval/{name}": rate.estimate for name, rate in evaluation.by_task_type().items()}
    return metrics | {f"seconds/{name}": round(value, 3) for name, value in seconds.items()}


def skill_figures(batch: Batch, result: UpdateResult) -> dict[str, float | None]:
    """What the skills did in an iteration (`opid_agents.training.diagnostics`); empty if nothing was trained."""
    if result.advantage is None or batch.teacher is None:
        return {}
    teacher = batch.teacher
    success = [sample.success for sample in batch.samples]
    return {
        **diagnose(result.advantage, batch.response_mask, teacher.episode_mask, teacher.step_mask, success),
        "occupancy": teacher.occupancy,
        "rescored_tokens": teacher.rescored_tokens,
    }


def staleness_figures(batch: Batch, iteration: int) -> dict[str, float]:
    """How old the weights were that sampled what an iteration trained, and how that was corrected.

    Returns:
        ``staleness/mean``, in updates; ``staleness/N``, the number of samples that missed N updates; of the tokens'
        importance weights ``importance/mean`` (1 but for chance and truncation), ``importance/least``,
        ``importance/largest`` and ``importance/effective``, the share of the tokens that as many without weights would
        be worth: (sum of w)^2 / sum of w^2, divided by their number.
    """
    assert batch.importance is not None
    counts = Counter(iteration - 1 - sample.version for sample in batch.samples)
    weights = batch.importance[batch.response_mask].double()
    return {
        "staleness/mean": sum(missed * count for missed, count in counts.items()) / len(batch),
        **{f"staleness/{missed}": float(count) for missed, count in sorted(counts.items())},
        "importance/mean": float(weights.mean()),
        "importance/least": float(weights.min()),
        "importance/largest": float(weights.max()),
        "importance/effective": float(weights.sum() ** 2 / (weights**2).sum() / len(weights)),
    }


def reply_figures(steps: Sequence[Step]) -> dict[str, float]:
    """How long the replies of some steps are; empty for steps without replies of a language model.

    Returns:
        ``tokens`` and ``longest``, mean and maximum of their lengths in tokens, and ``cut``, the share that was cut at
        the maximum instead of ending by itself.
    """
    lengths = [step.data["reply_tokens"] for step in steps if "reply_tokens" in step.data]
    if not lengths:
        return {}
    cut = sum(bool(step.data.get("cut")) for step in steps)
    return {"tokens": sum(lengths) / len(lengths), "longest": max(lengths), "cut": cut / len(lengths)}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
