"""The picture of a teacher's report. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opid_agents.training.figures import COLOURS
from opid_agents.training.teacher import KINDS, TeacherReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"none": "no skills", "step": "step skills", "episode": "episode skills", "both": "both"}


def teacher_figure(report: TeacherReport) -> Figure:
    """Success by the skills in the prompts, all tasks (95 % intervals) and by type; and the shifts of step skills."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    success, shifts = figure.subplots(1, 2, width_ratios=(2, 1))
    types = list(report.results["none"].by_task_type())
    labels = ["all", *types] if len(types) > 1 else ["all"]
    for number, kind in enumerate(KINDS):
        result = report.results[kind]
        rates = [result.success, *(result.by_task_type()[name] for name in labels[1:])]
        places = [place + (number - 1.5) * 0.2 for place in range(len(labels))]
        success.bar(places, [rate.estimate for rate in rates], 0.2, label=_NAMES[kind], color=COLOURS[number])
        whole = rates[0]
        reach = [[whole.estimate - whole.low], [whole.high - whole.estimate]]
        success.errorbar(places[:1], [whole.estimate], yerr=reach, color="0.2", capsize=2, linewidth=1)
    success.set_xticks(range(len(labels)), labels, rotation=20 if len(labels) > 3 else 0, fontsize=8)
    success.set(ylim=(0, 1), ylabel="success")
    success.set_title(f"success on {len(report.results['none'].episodes)} tasks", fontsize=10)
    success.legend(fontsize=8)
    for number, part in enumerate(("action", "rest")):
        values = [getattr(shift, part) for shift in report.shifts.values()]
        shown = [(place + (number - 0.5) * 0.35, value) for place, value in enumerate(values) if value is not None]
        if shown:
            shifts.bar(*zip(*shown, strict=True), 0.35, label=f"tokens: {part}", color=COLOURS[number + 4])
    shifts.set_xticks(range(len(report.shifts)), list(report.shifts), fontsize=8)
    shifts.axhline(0, color="0.4", linewidth=0.8)
    shifts.set_title("shift of log-probability by step skills", fontsize=10)
    shifts.legend(fontsize=8)
    return figure
