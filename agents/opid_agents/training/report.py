"""The report of a run: a page of Markdown, with pictures where matplotlib is installed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opid_agents.recipes.recipe import Recipe
from opid_agents.training.figures import diagnostics, learning_curve
from opid_gym.world import describe_source

_SHOWN = (
    ("success", "success in rollouts"),
    ("valid_actions", "valid actions"),
    ("length", "steps an episode"),
    ("reply/tokens", "tokens a reply"),
    ("reply/cut", "replies cut at the limit"),
    ("groups/mixed", "groups with mixed outcome"),
    ("train/entropy", "entropy (nats a token)"),
    ("train/clip_fraction", "clipped tokens"),
    ("opid/routed/any", "tokens with a skill"),
    ("opid/share/episode", "share of episode skills in the advantage"),
    ("opid/share/step", "share of step skills in the advantage"),
    ("importance/effective", "effective share of tokens from older weights"),
    ("sampler/kl", "KL of the sampler to the policy (nats a token)"),
)


_QUESTIONS = (
    ("opid/correlation/episode", "Does an episode skill repeat the outcome? (correlation: 1 repeats, 0 adds)"),
    ("opid/correlation/step", "Does a step skill?"),
    ("opid/occupancy", "Were the re-scored prompts the sampled ones, but for the skill? (must be 1)"),
    ("opid/opposed/success", "Which part of the routed tokens of successes is pushed against the outcome?"),
    ("opid/opposed/failure", "And of failures?"),
)


def write_report(folder: Path, recipe: Recipe) -> Path:
    """Write ``report.md`` from the run's own ``metrics.jsonl``; returns its path.

    Where matplotlib is installed and the recipe has ``pictures``, ``learning_curve.svg`` and ``diagnostics.svg`` are
    written beside it.
    """
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in lines]
    parts = [f"# Run `{recipe.name}`: {recipe.algorithm}, seed {recipe.seed}\n"]
    parts += _evaluations(folder, recipe)
    if rows:
        last = rows[-1]
        seconds = sum(value for row in rows for key, value in row.items() if key.startswith("seconds/"))
        parts.append(
            f"{last['iteration']} iterations, {last['episodes']} episodes, {last['env_steps']} environment steps, "
            f"{seconds:.0f} s; {last['updates/skipped_total']} updates skipped.\n"
        )
        parts += _idle(rows, recipe)
        drawn = _draw(folder, rows) if recipe.pictures else set()
        if "learning_curve.svg" in drawn:
            parts.append("![success by iteration](learning_curve.svg)\n")
        parts += _table(rows, _SHOWN)
        questions = _table(rows, _QUESTIONS)
        if len(questions) > 2:
            parts += ["## What the skills did\n", *questions, *_alarms(rows)]
            if "diagnostics.svg" in drawn:
                parts.append("![shares, correlation, opposition, routing and analysis by iteration](diagnostics.svg)\n")
        parts += _staleness(rows)
        if any(row.get("analysis/requests") for row in rows):
            parts.append(_analysis(rows))
    parts.append("The whole recipe is in `recipe.json`, package versions in `versions.json`.\n")
    report = folder / "report.md"
    report.write_text("\n".join(parts), encoding="utf-8")
    return report


def _evaluations(folder: Path, recipe: Recipe) -> list[str]:
    """Success before and after training, as far as it was measured."""
    lines = []
    kind = "held-back tasks" if recipe.world.eval_split != recipe.world.train_split else "tasks of training"
    for name, file in (("before", "before.json"), ("after", "evaluation.json")):
        if (folder / file).is_file():
            found = json.loads((folder / file).read_text(encoding="utf-8"))
            rate = found["success"]
            about = "; ".join(filter(None, (found["split"], describe_source(found.get("source")))))
            lines.append(
                f"Success on {found['episodes']} {kind} ({about}) {name} training: "
                f"{rate['estimate']:.1%} [{rate['low']:.1%}, {rate['high']:.1%}], 95 % interval.\n"
            )
    return lines


def _idle(rows: Sequence[Mapping[str, Any]], recipe: Recipe) -> list[str]:
    """What did not happen, and why; a reader of good-looking curves would not see it."""
    lines = []
    untrained = sum(row.get("groups/trained") == 0 for row in rows)
    if untrained:
        lines.append(
            f"In {untrained} of {len(rows)} iterations nothing was trained: all rollouts of each group ended with the "
            "same return.\n"
        )
    never_asked = not any(row.get("analysis/requests") for row in rows)
    if recipe.skills.extractor in ("llm", "self") and never_asked:
        lines.append(f"The extractor {recipe.skills.extractor!r} was never asked for a skill.\n")
    return lines


def _staleness(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many samples came from weights of which age; nothing where all came from the newest."""
    counts: Counter[int] = Counter()
    for row in rows:
        for key, value in row.items():
            name, _, missed = key.partition("/")
            if name == "staleness" and missed.isdecimal():
                counts[int(missed)] += int(value)
    if not counts:
        return []
    whole = counts.total()
    parts = ", ".join(f"{missed}: {count} ({count / whole:.0%})" for missed, count in sorted(counts.items()))
    playing, waiting = (sum(row.get(key) or 0.0 for row in rows) for key in ("ahead/seconds", "seconds/rollout"))
    return [
        f"Samples by the number of updates that the weights had missed that sampled them: {parts}. Playing took "
        f"{playing:.0f} s beside learning, which waited {waiting:.0f} s for it.\n"
    ]


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
