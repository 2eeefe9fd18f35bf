"""The report of a study: from its stored results to tables, figures and plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opid_gym.files import write_file
from studies.analysis import MEASURES, SEEDS_FOR_A_CLAIM, analyse
from studies.cells import collect, store
from studies.figures import draw_curves, draw_differences, draw_final

TEACHERS, FAILURES = "teacher", "failures"
"""Folders of a study: the teacher's report on a start, one JSON file a recipe; failed episodes, likewise."""


def report(folder: Path) -> Path:
    """Write ``results.jsonl``, ``summary.json``, ``report.md`` and the figures of a study into its folder."""
    cells = collect(folder)
    recipes = sorted({cell.recipe for cell in cells})
    summary = analyse(cells, _by_recipe(folder / TEACHERS, recipes))
    failures = _by_recipe(folder / FAILURES, recipes)
    store(folder, cells)
    write_file(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    pages = []
    for recipe, found in summary.items():
        drawn = [f"{recipe}-final.svg"]
        draw_final(found, folder / drawn[0])
        if draw_differences(found, folder / f"{recipe}-differences.svg"):
            drawn.append(f"{recipe}-differences.svg")
        if draw_curves([cell for cell in cells if cell.recipe == recipe], folder / f"{recipe}-curves.svg"):
            drawn.append(f"{recipe}-curves.svg")
        pages.append(page(recipe, found, drawn, failures.get(recipe, [])))
    text = "# Report of a study\n\nMade by `benchmarks/study.py --report`; every number is from `results.jsonl`.\n\n"
    write_file(folder / "report.md", text + "\n".join(pages))
    return folder / "report.md"


def page(
    recipe: str,
    found: Mapping[str, Any],
    figures: Sequence[str] = (),
    failures: Sequence[Mapping[str, Any]] = (),
) -> str:
    """One recipe's part of the report."""
    lines = [f"## {recipe}", "", *_algorithms(found), *_conclusion(found), *_teacher(found)]
    for measure, rows in found["training"].items():
        if rows:
            lines += ["", f"### What training adds to the start: {MEASURES[measure]}", "", *_differences(rows)]
    lines += _types(found)
    for measure, rows in found["comparisons"].items():
        if rows:
            lines += ["", f"### Differences: {MEASURES[measure]}", "", *_differences(rows)]
    if found["unpaired"]:
        seeds = ", ".join(map(str, found["unpaired"]))
        lines += ["", f"**Not paired**: algorithms began from different weights in seeds {seeds}."]
    if found["failed"]:
        lines += ["", "### Failed runs", ""]
        lines += [f"- `{one['algorithm']}`, seed {one['seed']}: {one['why']}" for one in found["failed"]]
    lines += _failures(failures)
    lines += ["", *(f"![{figure.partition('.')[0]}]({figure})" for figure in figures), ""]
    return "\n".join(lines)


def _algorithms(found: Mapping[str, Any]) -> list[str]:
    algorithms = found["algorithms"]
    measures = [m for m in MEASURES if m in found["comparisons"] and any(row[m] for row in algorithms.values())]
    titles = ["algorithm", "runs", *(MEASURES[measure] for measure in measures), "interquartile mean"]
    costs = {"env_steps": "environment steps", "seconds": "seconds", "cpu_seconds": "CPU seconds"}
    costs = {cost: title for cost, title in costs.items() if any(row[cost] for row in algorithms.values())}
    pointed = any(row["cost_of_a_point"]["env_steps"] for row in algorithms.values())
    titles += [*costs.values(), *(["steps a point"] if pointed else [])]
    lines = [
        "Success in per cent, mean ± half of Student's 95 % interval over seeds. The mean of a run's rollouts is the",
        "area under its learning curve. The interquartile mean is of held-back success, with the bootstrap's 95 %",
        "interval (five runs or more). Costs are of a run in training, and of each point that it adds to the start.",
        "",
        f"| {' | '.join(titles)} |",
        "|---" * len(titles) + "|",
    ]
    for name, row in sorted(algorithms.items(), key=lambda item: -(item[1]["final"] or {"mean": -1})["mean"]):
        values = [shown(row[measure]) for measure in measures]
        middle = row["interquartile"]
        values.append(f"{100 * middle['mean']:.1f}{_bounds(middle['bounds'], 100)}" if middle else "")
        values += [f"{row[cost]['mean']:,.0f}" if row[cost] else "" for cost in costs]
        if pointed:
            point = row["cost_of_a_point"]["env_steps"]
            values.append("" if point is None else f"{point:,.0f}")
        lines.append(f"| `{name}` | {row['runs']} | {' | '.join(values)} |")
    return lines


def _conclusion(found: Mapping[str, Any]) -> list[str]:
    if not any(found["claims"].values()):
        return []
    lines = ["", "### What is settled", ""]
    lines += [f"Better or worse: {SEEDS_FOR_A_CLAIM} seeds or more, and a corrected p below 0.05. The rest is open."]
    words = {
        "better": "better than",
        "worse": "worse than",
        "open": "no difference shown to",
        "missing": "not compared with",
    }
    for measure, claims in found["claims"].items():
        if not claims:
            continue
        lines += ["", f"In {MEASURES[measure]}:", ""]
        for name, claim in claims.items():
            parts = [f"{words[kind]} {', '.join(f'`{one}`' for one in claim[kind])}" for kind in words if claim[kind]]
            lines.append(f"- `{name}`: {'; '.join(parts)}.")
    return lines


def _teacher(found: Mapping[str, Any]) -> list[str]:
    if "teacher" not in found:
        return []
    gain = found["teacher"]["gain"]
    lines = ["", "### What the teacher's report foretold", ""]
    lines += [
        f"Step skills change the start's success by {100 * gain['estimate']:+.1f} points "
        f"[{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]. Seeds in which training with them",
        "changed the success of `grpo` in the same direction:",
        "",
        "| algorithm | right | seeds |",
        "|---|---|---|",
    ]
    return lines + [
        f"| `{name}` | {one['right']} | {one['of']} |" for name, one in found["teacher"]["foretold"].items()
    ]


def _types(found: Mapping[str, Any]) -> list[str]:
    if "types" not in found:
        return []
    lines = [
        "",
        "### By task type",
        "",
        "Held-back tasks; in brackets what training adds to the start, paired by seed.",
    ]
    names = list(dict.fromkeys(name for rows in found["types"].values() for name in rows))
    lines += ["", f"| task type | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (1 + len(names)) + "|"]
    for task_type, rows in found["types"].items():
        cells = []
        for name in names:
            row = rows.get(name, {"success": None, "added": None})
            added = f" ({shown(row['added'], sign=True)})" if row["added"] else ""
            cells.append(shown(row["success"]) + added)
        lines.append(f"| {task_type} | {' | '.join(cells)} |")
    return lines


def _differences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [
        "Points, paired by seed; p of Student's test, and corrected for all rows of the table (Holm); probability that",
        "a run of the first is better than one of the second, with the bootstrap's 95 % interval.",
        "",
        "| algorithm | less | points | relative | seeds | p | p, corrected | better |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        p, corrected = ("" if row[key] is None else f"{row[key]:.3f}" for key in ("p", "p_holm"))
        relative = "" if row["relative"] is None else f"{100 * row['relative']:+.1f} %"
        lines.append(
            f"| `{row['algorithm']}` | `{row['against']}` | {shown(row['difference'], sign=True)} | {relative} | "
            f"{row['difference']['seeds']} | {p} | {corrected} | "
            f"{row['improvement']:.2f}{_bounds(row['improvement_bounds'], 1)} |"
        )
    return lines


def _failures(failures: Sequence[Mapping[str, Any]]) -> list[str]:
    if not failures:
        return []
    lines = ["", "### Some failures on held-back tasks", ""]
    for one in failures:
        lines += [f"`{one['algorithm']}`, seed {one['seed']}, `{one['task_id']}`: {one['task']}", ""]
        for step in one["steps"]:
            lines.append(f"- {_literal(step['observation'])} → {_literal(step['action'])}")
            lines[-1] += "" if step["valid"] else " (invalid)"
            lines[-1] += f"; better: {_literal(step['better'])}" if step["better"] else ""
        lines.append("")
    return lines[:-1]


def _literal(text: str) -> str:
    """Text that Markdown is not to read: what a model says may hold anything."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def shown(value: Mapping[str, float | None] | None, *, sign: bool = False) -> str:
    """An interval in points of per cent."""
    if value is None or value["mean"] is None:
        return ""
    half = "" if value["half"] is None else f" ± {100 * value['half']:.1f}"
    return f"{100 * value['mean']:{'+' if sign else ''}.1f}{half}"


def _bounds(bounds: Sequence[float] | None, scale: int) -> str:
    if bounds is None:
        return ""
    digits = 1 if scale == 100 else 2
    return f" [{scale * bounds[0]:.{digits}f}, {scale * bounds[1]:.{digits}f}]"


def _by_recipe(folder: Path, recipes: Sequence[str]) -> dict[str, Any]:
    files = {recipe: folder / f"{recipe}.json" for recipe in recipes}
    return {recipe: json.loads(file.read_text(encoding="utf-8")) for recipe, file in files.items() if file.is_file()}
