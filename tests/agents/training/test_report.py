"""The report of a run, from metrics lines made by hand."""

import json

import pytest
from opid_agents.recipes.recipe import Recipe
from opid_agents.training.figures import diagnostics, learning_curve
from opid_agents.training.report import write_report


def line(iteration: int, **more) -> dict:
    return {
        "iteration": iteration,
        "episodes": 8 * iteration,
        "env_steps": 80 * iteration,
        "success": 0.1 * iteration,
        "success/heat": 0.2,
        "success/cool": 0.0,
        "updates/skipped_total": 0,
        "seconds/rollout": 2.0,
        "seconds/extract": 1.0,
        **more,
    }


SKILLED = {
    "opid/routed/any": 0.5,
    "opid/routed/episode": 0.4,
    "opid/routed/step": 0.1,
    "opid/share/outcome": 0.7,
    "opid/share/episode": 0.2,
    "opid/share/step": 0.1,
    "opid/share/extra": 0.0,
    "opid/correlation/episode": 0.25,
    "opid/correlation/step": None,
    "opid/opposed/success": 0.75,
    "opid/opposed/failure": 0.5,
    "opid/shift/success": -0.1,
    "opid/shift/failure": -0.2,
    "opid/occupancy": 1.0,
    "opid/alarm/negative_distillation": 1.0,
    "analysis/requests": 8.0,
    "analysis/failures": 3.0,
    "analysis/failed/timeout": 2.0,
    "analysis/failed/unreadable": 1.0,
    "analysis/prompt_tokens": 900.0,
    "analysis/completion_tokens": 100.0,
    "analysis/cost": 0.01,
}


def report(folder, rows) -> str:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return write_report(folder, Recipe(name="r", seed=3)).read_text()


def test_it_answers_the_open_questions(tmp_path):
    text = report(tmp_path, [line(i, **SKILLED) for i in range(1, 7)])
    assert "6 iterations, 48 episodes, 480 environment steps, 18 s" in text
    assert "| Does an episode skill repeat the outcome? (correlation: 1 repeats, 0 adds) | 0.25 | 0.25 |" in text
    assert "Does a step skill?" not in text  # never defined in this run
    assert "Alarm: in 6 of 6 iterations" in text
    assert "48 trajectories asked about, 18 without skills in the end (timeout 12, unreadable 6); 6000 tokens" in text
    for picture in ("learning_curve.svg", "diagnostics.svg"):
        assert f"({picture})" in text
        assert (tmp_path / picture).read_text().rstrip().endswith("</svg>")


def test_without_skills_it_does_not_speak_of_them(tmp_path):
    text = report(tmp_path, [line(1, **{"opid/routed/any": 0.0, "opid/share/outcome": 1.0, "opid/occupancy": None})])
    assert "What the skills did" not in text
    assert not (tmp_path / "diagnostics.svg").exists()


def test_a_run_without_iterations(tmp_path):
    assert write_report(tmp_path, Recipe(name="r")).read_text().startswith("# Run `r`: opid, seed 0")


def test_it_says_how_long_replies_are_and_how_many_are_cut(tmp_path):
    replies = {"reply/tokens": 30.5, "reply/longest": 64, "reply/cut": 0.25, "valid_actions": 0.5}
    text = report(tmp_path, [line(1, **replies), line(2, **replies | {"reply/tokens": 20.5, "reply/cut": 0.0})])
    assert "| tokens a reply | 30.5 | 20.5 |" in text
    assert "| replies cut at the limit | 0.25 | 0 |" in text
    titles = [axes.get_title() for axes in learning_curve([line(1, **replies)]).axes]
    assert titles[-2:] == ["tokens a reply", "replies"]


def test_pictures_show_only_what_was_measured():
    rows = [line(i, **SKILLED) for i in (1, 2)]
    titles = [axes.get_title() for axes in learning_curve(rows).axes if axes.get_visible()]
    assert len(titles) == 2
    shown = [axes for axes in diagnostics(rows).axes if axes.get_visible()]
    assert len(shown) == 6
    legend = [text.get_text() for text in shown[1].get_legend().get_texts()]
    assert legend == ["episode skills"]
    assert diagnostics([line(1)]) is None
    silent = line(1, **{"opid/routed/any": 1.0, "opid/share/outcome": 0.0, "opid/occupancy": 1.0})
    assert len(diagnostics([silent]).axes) == 1


@pytest.mark.parametrize("types", [1, 2])
def test_types_are_drawn_where_there_are_several(types):
    row = line(1)
    if types == 1:
        del row["success/heat"]
    assert len(learning_curve([row]).axes) == types
