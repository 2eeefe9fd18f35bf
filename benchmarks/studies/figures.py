"""The figures of a study. They have no background of their own and read on a light page and on a dark one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib

from studies.analysis import MEASURES, SEEDS_FOR_A_CLAIM
from studies.cells import Cell

matplotlib.use("Agg")
from matplotlib import pyplot

# Of middling lightness, told apart with any colour vision (after Okabe and Ito), and by their dashes besides.
COLOURS = ("#2f7fc1", "#d55e00", "#16a07a", "#c0569b", "#b8860b", "#6f6fd8", "#8a8a8a")
DASHES = ("-", "--", "-.", ":")
GREY = "#808080"
_STYLE = {
    "svg.hashsalt": "study",
    "svg.fonttype": "none",
    "font.size": 9,
    "savefig.transparent": True,
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), GREY),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw_final(found: Mapping[str, Any], file: Path) -> None:
    """Success on the held-back tasks with its intervals."""
    rows = [(name, row["final"]) for name, row in found["algorithms"].items() if row["final"]]
    rows.sort(key=lambda row: row[1]["mean"])
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(6.5, 0.3 * len(rows) + 0.9))
        for place, (_, value) in enumerate(rows):
            _interval(axes, place, value, COLOURS[0])
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_xlabel("success on held-back tasks, %, with 95 % intervals over seeds")
        _save(figure, file)


def draw_differences(found: Mapping[str, Any], file: Path) -> bool:
    """Paired differences of every algorithm to its controls; False if there are none."""
    measures = [measure for measure in ("final", "rollouts") if found["comparisons"].get(measure)]
    rows = [(row["algorithm"], row["against"]) for row in found["comparisons"]["final"]]
    forms = sorted({name for name, _ in rows})
    if not rows:
        return False
    with pyplot.rc_context(_STYLE):
        figure, panels = pyplot.subplots(
            1, len(measures), figsize=(6.5, 0.26 * len(rows) + 0.9), sharey=True, squeeze=False
        )
        for axes, measure in zip(panels[0], measures, strict=True):
            values = {(row["algorithm"], row["against"]): row["difference"] for row in found["comparisons"][measure]}
            axes.axvline(0, color=GREY, linewidth=0.8)
            for place, row in enumerate(reversed(rows)):
                if row in values:
                    _interval(axes, place, values[row], COLOURS[forms.index(row[0]) % len(COLOURS)])
            axes.set_xlabel(f"{MEASURES[measure]}, points")
        seeds = {
            (row["algorithm"], row["against"]): row["difference"]["seeds"] for row in found["comparisons"]["final"]
        }
        labels = [f"{name} - {other} ({seeds[name, other]})" for name, other in reversed(rows)]
        panels[0][0].set_yticks(range(len(rows)), labels)
        figure.supxlabel(f"95 % intervals over (seeds); open circles: fewer than {SEEDS_FOR_A_CLAIM}", fontsize="small")
        figure.tight_layout()
        _save(figure, file)
    return True


def draw_curves(cells: Sequence[Cell], file: Path) -> bool:
    """Success while training, mean over seeds; False if no curves were recorded."""
    curves: dict[str, list[list[float]]] = {}
    for cell in cells:
        if cell.curve:
            curves.setdefault(cell.algorithm, []).append(cell.curve)
    if not curves:
        return False
    with pyplot.rc_context(_STYLE):
        figure, axes = pyplot.subplots(figsize=(6.5, 4))
        for number, (name, runs) in enumerate(curves.items()):
            length = min(map(len, runs))
            means = [100 * fmean(run[i] for run in runs) for i in range(length)]
            look = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
            axes.plot(range(1, length + 1), means, label=f"{name} ({len(runs)})", linewidth=1.3, **look)
        axes.set_xlabel("iteration")
        axes.set_ylabel("success of rollouts, %, mean over seeds (number of seeds)")
        axes.legend(fontsize="small")
        _save(figure, file)
    return True


def _interval(axes: Any, place: int, value: Mapping[str, float | None], colour: str) -> None:
    mean, half = value["mean"] or 0.0, value["half"] or 0.0
    few = (value["seeds"] or 0) < SEEDS_FOR_A_CLAIM
    look = {"markerfacecolor": "none", "alpha": 0.7} if few else {}
    axes.errorbar(100 * mean, place, xerr=100 * half, fmt="o", color=colour, capsize=3, markersize=4, **look)


def _save(figure: Any, file: Path) -> None:
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
