"""The report of a run: a page of Markdown, with pictures where matplotlib is installed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opid_agents.learning.figures import diagnostics, learning_curve
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
)


_QUESTIONS = (
    ("opid/correlation/episode", "Does an episode skill repeat the outcome? (correlation: 1 repeats, 0 adds)"),
    ("opid/correlation/step", "Does a step skill?"),
    ("opid/occupancy", "Were the re-scored prompts the sampled ones, but for the skill? (must be 1)"),
    ("opid/opposed/success", "Which part of the routed tokens of successes is pushed against the outcome?"),
    ("opid/opposed/failure", "And of failures?"),
)


def write_report(folder: Path, recipe: Recipe) -> Path:
    """Write ``report.md`` from the run's own ``metrics.jsonl``, with ``learning_curve.svg`` and ``diagnostics.svg``
    where matplotlib is installed."""
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
        drawn = _draw(folder, rows)
        if "learning_curve.svg" in drawn:
            parts.append("![success by iteration](learning_curve.svg)\n")
        parts += _table(rows, _SHOWN)
        questions = _table(rows, _QUESTIONS)
        if len(questions) > 2:
            parts += ["## What the skills did\n", *questions, *_alarms(rows)]
            if "diagnostics.svg" in drawn:
                parts.append("![shares, correlation, opposition, routing and analysis by iteration](diagnostics.svg)\n")
        if any(row.get("analysis/requests") for row in rows):
            parts.append(_analysis(rows))
    parts.append("The whole recipe is in `recipe.json`, package versions in `versions.json`.\n")
    report = folder / "report.md"
    report.write_text("\n".join(parts), encoding="utf-8")
    return report


def _draw(folder: Path, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Draw what can be drawn; the names of the files."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return set()
    figures = {"learning_curve.svg": learning_curve(rows), "diagnostics.svg": diagnostics(rows)}
    for name, figure in figures.items():
        if figure is not None:
            # Without a date the same run draws the same bytes.
            figure.savefig(folder / name, metadata={"Date": None})
    return {name for name, figure in figures.items() if figure is not None}


def _table(rows: Sequence[Mapping[str, Any]], shown: Sequence[tuple[str, str]]) -> list[str]:
    third = max(1, len(rows) // 3)
    lines = ["| | first third | last third |\n|---|---|---|"]
    for key, name in shown:
        early, late = (_mean([row.get(key) for row in part]) for part in (rows[:third], rows[-third:]))
        if early is not None or late is not None:
            lines.append(f"| {name} | {_number(early)} | {_number(late)} |")
    return [*lines, ""]


def _alarms(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    count = sum(bool(row.get("opid/alarm/negative_distillation")) for row in rows)
    if not count:
        return []
    return [
        f"Alarm: in {count} of {len(rows)} iterations the skill term pushed most routed tokens of *successful* "
        "episodes against their outcome.\n"
    ]


def _analysis(rows: Sequence[Mapping[str, Any]]) -> str:
    def total(key: str) -> float:
        return sum(row.get(f"analysis/{key}") or 0.0 for row in rows)

    reasons = sorted({key for row in rows for key in row if key.startswith("analysis/failed/")})
    why = ", ".join(f"{key.rpartition('/')[2]} {total(key.removeprefix('analysis/')):.0f}" for key in reasons)
    tokens = total("prompt_tokens") + total("completion_tokens")
    seconds = sum(row.get("seconds/extract") or 0.0 for row in rows)
    return (
        f"Analysis: {total('requests'):.0f} trajectories asked about, {total('failures'):.0f} without skills in the end"
        f"{f' ({why})' if why else ''}; {tokens:.0f} tokens, cost {total('cost'):.4g}, {seconds:.0f} s.\n"
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
