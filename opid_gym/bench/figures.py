"""Pictures of results: bars of success with intervals, and learning curves. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import opid_gym
from opid_gym.bench.report import ALL, Row
from opid_gym.bench.statistics import mean_interval
from opid_gym.files import replacing
from opid_gym.named import missing_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")

# A curve of one run: (x, y) points.
Curve = Sequence[tuple[float, float]]


def bars(rows: Sequence[Row], measure: str = "success", tasks: Mapping[str, str] | None = None) -> Figure:
    """A measure of each agent, one panel for each environment, with 95 % intervals.

    Args:
        rows: as `opid_gym.bench.report.leaderboard` makes them.
        measure: ``success``, shown in percent, or ``mean_return``.
        tasks: what the tasks of an environment are, in words, by its label.
    """
    scale, label, limits = (100, "success, %", (0, 104)) if measure == "success" else (1, "mean return", (None, None))
    envs = list(dict.fromkeys(row.env for row in rows))
    shown = {env: [row for row in rows if row.env == env and row.task_type == ALL] for env in envs}
    agents = sorted({row.agent for row in rows})
    colours = {agent: COLOURS[number % len(COLOURS)] for number, agent in enumerate(agents)}
    height = 0.6 + 0.32 * max(map(len, shown.values()))
    figure = _figure(figsize=(1.5 + 3.1 * len(envs), height + 0.9))
    for axes, env in zip(figure.subplots(1, len(envs), squeeze=False)[0], envs, strict=True):
        group = sorted(shown[env], key=lambda row: getattr(row, measure).estimate)  # the best on top
        intervals = [getattr(row, measure) for row in group]
        estimates = np.array([interval.estimate for interval in intervals])
        errors = [
            np.maximum(0, estimates - [interval.low for interval in intervals]),
            np.maximum(0, [interval.high for interval in intervals] - estimates),
        ]
        axes.barh(
            [row.agent for row in group],
            scale * estimates,
            xerr=scale * np.array(errors),
            color=[colours[row.agent] for row in group],
            error_kw={"elinewidth": 1, "capsize": 2.5, "ecolor": "0.25"},
            height=0.7,
        )
        axes.set(xlim=limits, xlabel=f"{label} (95 % interval)")
        lines = [env, f"{group[0].tasks} tasks, {group[0].seeds} seed{'s' * (group[0].seeds > 1)}"]
        axes.set_title("\n".join(filter(None, [*lines, (tasks or {}).get(env)])), fontsize=9)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    return figure


def learning_curves(
    curves: Mapping[str, Sequence[Curve]], *, x_label: str, y_label: str = "success, %", title: str = ""
) -> Figure:
    """Means over runs by label, with the bootstrap's 95 % interval of the mean where there are several runs.

    Args:
        curves: for each label the curves of its runs; all are drawn where all runs have a point.
        x_label, y_label, title: texts.
    """
    figure = _figure(figsize=(6, 3.4))
    axes = figure.subplots()
    highest = 0.0
    for number, (label, runs) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [dict(run) for run in runs]
        xs = sorted(set.intersection(*(set(run) for run in points)))
        intervals = [mean_interval([[run[x]] for run in points]) for x in xs]
        name = label if len(runs) == 1 else f"{label} ({len(runs)} seeds)"
        axes.plot(xs, [100 * i.estimate for i in intervals], color=colour, marker="o", markersize=3, label=name)
        if len(runs) > 1:
            lows, highs = ([100 * getattr(i, end) for i in intervals] for end in ("low", "high"))
            axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)
        highest = max([highest, *(100 * interval.high for interval in intervals)])
    axes.set(xlabel=x_label, ylabel=y_label, ylim=(0, min(103, 1.2 * highest + 5)), title=title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write the figure as PNG and as SVG; the same figure gives the same files."""
    paths = [stem.with_suffix(suffix) for suffix in (".png", ".svg")]
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "opid-gym", "svg.fonttype": "none"}):
        with replacing(paths[0]) as scratch:
            figure.savefig(scratch, dpi=150, metadata={"Software": None})
        with replacing(paths[1]) as scratch:
            figure.savefig(scratch, metadata={"Date": None})
    return paths


def _figure(figsize: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("drawing figures", "matplotlib", "bench") from None
    figure = Figure(figsize=figsize, layout="constrained")
    figure.supxlabel(f"opid-gym {opid_gym.__version__}", x=0.995, ha="right", fontsize=6, color="0.5")
    return figure
