"""The report of a run: a page of Markdown, with the learning curve as a picture where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opid_agents.recipes.recipe import Recipe

_SHOWN = (
    ("success", "success in rollouts"),
    ("valid_actions", "valid actions"),
    ("length", "steps an episode"),
    ("groups/mixed", "groups with mixed outcome"),
    ("train/entropy", "entropy (nats a token)"),
    ("train/clip_fraction", "clipped tokens"),
    ("opid/routed/any", "tokens with a skill"),
    ("opid/share/episode", "share of episode skills in the advantage"),
    ("opid/share/step", "share of step skills in the advantage"),
    ("opid/correlation/step", "correlation of outcome and step shift"),
    ("opid/opposed/success", "successful tokens pushed against their outcome"),
    ("opid/occupancy", "re-scored prompts equal to the sampled ones"),
)


def write_report(folder: Path, recipe: Recipe) -> Path:
    """Write ``report.md`` (and ``learning_curve.svg``) from the run's own ``metrics.jsonl``."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in lines]
    parts = [f"# Run `{recipe.name}`: {recipe.learner}, seed {recipe.seed}\n"]
    if rows:
        last = rows[-1]
        seconds = sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
        parts.append(
            f"{last['iteration']} iterations, {last['episodes']} episodes, {last['env_steps']} environment steps, "
            f"{seconds:.0f} s; {last['updates/skipped_total']} updates skipped.\n"
        )
        if draw_curve(folder / "learning_curve.svg", rows):
            parts.append("![success by iteration](learning_curve.svg)\n")
        third = max(1, len(rows) // 3)
        parts.append("| | first third | last third |\n|---|---|---|")
        for key, name in _SHOWN:
            early, late = (_mean([row.get(key) for row in part]) for part in (rows[:third], rows[-third:]))
            if early is not None or late is not None:
                parts.append(f"| {name} | {_number(early)} | {_number(late)} |")
        parts.append("")
        if any(row.get("opid/alarm/negative_distillation") for row in rows):
            count = sum(bool(row.get("opid/alarm/negative_distillation")) for row in rows)
            parts.append(
                f"Alarm: in {count} of {len(rows)} iterations the skill term pushed most routed tokens of "
                "*successful* episodes down.\n"
            )
    parts.append("The whole recipe is in `recipe.json`, package versions in `versions.json`.\n")
    report = folder / "report.md"
    report.write_text("\n".join(parts), encoding="utf-8")
    return report


def draw_curve(file: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Draw success by iteration; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([row["iteration"] for row in rows], [row["success"] for row in rows], label="rollouts (train tasks)")
    evaluated = [row for row in rows if "eval/success" in row]
    if evaluated:
        axes.plot(
            [row["iteration"] for row in evaluated],
            [row["eval/success"] for row in evaluated],
            marker="o",
            label="held-back tasks",
        )
    axes.set(xlabel="iteration", ylabel="success", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file)
    return True


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
