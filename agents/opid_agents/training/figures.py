"""Pictures of a run, drawn from its metrics lines. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves over iterations that are read together.

    Attributes:
        title: what is shown.
        series: metrics key -> its name in the legend.
        limits: of the axis; None: as the numbers need.
        line: a value to compare with.
        stacked: the series are shares of one whole.
    """

    title: str
    series: Mapping[str, str]
    limits: tuple[float, float] | None = None
    line: float | None = None
    stacked: bool = False

    def found(self, rows: Rows) -> dict[str, str]:
        """The series that have something to show: of shares those that are not 0 throughout, of others all values."""
        return {
            key: name
            for key, name in self.series.items()
            if any(row.get(key) if self.stacked else row.get(key) is not None for row in rows)
        }


SUCCESS = Panel("success", {"success": "rollouts (train tasks)", "eval/success": "held-back tasks"}, (0, 1))

REPLIES = (
    Panel("tokens a reply", {"reply/tokens": "mean", "reply/longest": "longest"}),
    Panel("replies", {"reply/cut": "cut at the limit", "valid_actions": "with a valid action"}, (0, 1)),
)

DIAGNOSTICS = (
    Panel(
        "share of each part in the advantage",
        {
            "opid/share/outcome": "outcome",
            "opid/share/episode": "episode skills",
            "opid/share/step": "step skills",
            "opid/share/extra": "other",
        },
        (0, 1),
        stacked=True,
    ),
    Panel(
        "does Delta repeat the outcome? (correlation)",
        {"opid/correlation/episode": "episode skills", "opid/correlation/step": "step skills"},
        (-1, 1),
        line=0.0,
    ),
    Panel(
        "tokens pushed against their outcome (alarm above the line)",
        {"opid/opposed/success": "successes", "opid/opposed/failure": "failures"},
        (0, 1),
        line=0.5,
    ),
    Panel(
        "mean skill term on routed tokens",
        {"opid/shift/success": "successes", "opid/shift/failure": "failures"},
        line=0.0,
    ),
    Panel(
        "routing and occupancy",
        {
            "opid/routed/episode": "tokens with an episode skill",
            "opid/routed/step": "tokens with a step skill",
            "opid/occupancy": "prompts equal but for the skill",
        },
        (0, 1.02),
    ),
    Panel(
        "trajectories analysed",
        {"analysis/requests": "asked about", "analysis/failures": "without skills in the end"},
        line=0.0,
    ),
)


def learning_curve(rows: Rows) -> Figure:
    """Success by iteration, beside it by task type where there is more than one, and what the replies are like."""
    types = [key for key in _keys(rows) if key.startswith("success/")]
    panels = [SUCCESS]
    if len(types) > 1:
        panels.append(Panel("success in rollouts by task type", {key: key.partition("/")[2] for key in types}, (0, 1)))
    if any("reply/tokens" in row for row in rows):
        panels += REPLIES
    return _draw(panels, rows, columns=2)


def diagnostics(rows: Rows) -> Figure | None:
    """What the skill term did; None for an algorithm without one."""
    panels = [panel for panel in DIAGNOSTICS if panel.found(rows)]
    routed = any(row.get("opid/routed/any") for row in rows)
    return _draw(panels, rows, columns=2) if panels and routed else None


def _draw(panels: Sequence[Panel], rows: Rows, *, columns: int) -> Figure:
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel, rows)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    return figure


def _draw_panel(axes: Axes, panel: Panel, rows: Rows) -> None:
    from matplotlib.ticker import MaxNLocator

    found = panel.found(rows)
    if panel.stacked:
        shares = [[row.get(key) or 0.0 for row in rows] for key in found]
        axes.stackplot(
            [row["iteration"] for row in rows], *shares, labels=list(found.values()), colors=COLOURS, alpha=0.8
        )
    else:
        for number, (key, name) in enumerate(found.items()):
            points = [(row["iteration"], row[key]) for row in rows if row.get(key) is not None]
            mark = "o" if len(points) < max(2, len(rows) // 2) or len(points) == 1 else None
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=mark, markersize=4)
    if panel.line is not None:
        axes.axhline(panel.line, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_title(panel.title, fontsize=10)
    axes.set(xlabel="iteration", ylim=panel.limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _keys(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))
