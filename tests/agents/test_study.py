"""The study of algorithms: its statistics, its report from stored results, and its cells, run small."""

import importlib
import json
import math
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from opid_agents.recipes import get_recipe
from opid_agents.skills.advice import advised_action
from scipy.stats import mannwhitneyu

from opid_gym.trajectory import Step, StepHindsight, Trajectory
from tests.patience import SECONDS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "study.py"
RESULTS = ROOT / "benchmarks" / "results"
STUDIES = (
    "screen_weak",
    "screen_weak_all",
    "screen_weak_all1",
    "screen_weak_households",
    "study",
    "study_decisive",
    "study_homes",
    "study_households",
    "study_questions_imitation",
    "study_questions_imitation4",
    "study_searchqa",
    "study_shop",
    "study_shop8",
    "study_shop_skills",
    "study_weak",
    "study_weak_imitation",
    "study_weak_mixed",
    "study_weak_start",
)
sys.path.append(str(ROOT / "benchmarks"))
measures = importlib.import_module("studies.measures")
analysis = importlib.import_module("studies.analysis")
cells = importlib.import_module("studies.cells")
page = importlib.import_module("studies.page")
half = importlib.import_module("studies.half")
study = importlib.import_module("study")


def test_seeds_are_what_is_paired():
    """Differences 0.1, 0.2 and 0.3: mean 0.2, standard error 0.1 / sqrt(3), Student's quantile 4.3027."""
    runs = {
        "grpo": [{"final": base, "score": None, "rollouts": None} for base in (0.1, 0.5, 0.9)],
        "opid": [{"final": base, "score": None, "rollouts": 0.5} for base in (0.2, 0.7, 1.2)],
    }
    found = analysis.summarise(runs, "grpo")
    difference = found["opid"]["final"]["difference"]
    assert difference["mean"] == pytest.approx(0.2)
    assert difference["half"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert found["grpo"]["final"]["difference"]["mean"] == 0.0
    assert found["opid"]["rollouts"] is None  # nothing to compare it with


def test_one_seed_has_no_interval():
    assert measures.interval([0.4]) == {"mean": 0.4, "half": None, "seeds": 1}
    assert measures.p_value([0.4]) is None


def test_students_paired_test():
    """t = 0.2 / (0.1 / sqrt(3)) = 3.4641 with two degrees of freedom."""
    assert measures.p_value([0.1, 0.2, 0.3]) == pytest.approx(0.0741799, abs=1e-6)
    assert measures.p_value([0.1, 0.1]) == 0.0
    assert measures.p_value([0.0, 0.0]) == 1.0


def test_many_comparisons_are_corrected_for():
    assert measures.holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert measures.holm([0.6, 0.5]) == [1.0, 1.0]


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end():
    assert measures.interquartile_mean([9.0, 1.0, 2.0, 3.0, 4.0, -5.0, 0.0, 5.0]) == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert measures.interquartile_mean([0.0, 1.0, 5.0]) == 2.0  # three quarters of a run are none


def test_the_probability_of_improvement_is_mann_and_whitneys_u():
    """Rliable's formula: U over the number of pairs."""
    values, others = [0.61, 0.64, 0.58, 0.7, 0.66], [0.6, 0.64, 0.55, 0.62]
    u = mannwhitneyu(values, others, alternative="greater").statistic
    assert measures.improvement(values, others) == pytest.approx(u / 20)
    assert measures.improvement(others, values) == pytest.approx(1 - u / 20)


def test_bootstrap_intervals():
    values = [0.1 * i for i in range(10)]
    low, high = measures.interquartile_interval(values)
    assert low < 0.3 < measures.interquartile_mean(values) < 0.6 < high
    assert measures.interquartile_interval(values) == (low, high)  # the same tables from the same results
    assert measures.interquartile_interval(values[:4]) is None
    # Runs that are all better, or all the same, stay so in every resample.
    assert measures.improvement_interval([1.0] * 5, [0.0] * 5) == (1.0, 1.0)
    assert measures.improvement_interval([1.0] * 5, [1.0] * 5) == (0.5, 0.5)


def test_the_measures_are_those_of_rliable():
    """Figures of rliable 1.2.0 for the same runs, 20,000 resamples; its random stream is another one."""
    values = [0.61, 0.64, 0.58, 0.7, 0.66, 0.55, 0.69, 0.62, 0.6, 0.65]
    others = [0.6, 0.64, 0.55, 0.62, 0.66, 0.5, 0.61, 0.64, 0.63, 0.58]
    assert measures.interquartile_mean(values) == pytest.approx(0.63)
    assert measures.interquartile_mean(others) == pytest.approx(0.6133333)
    assert measures.improvement(values, others) == pytest.approx(0.64)
    assert measures.interquartile_interval(values) == pytest.approx((0.5967, 0.6634), abs=0.005)
    assert measures.improvement_interval(values, others) == pytest.approx((0.38, 0.87), abs=0.02)


def test_every_form_is_compared_with_its_controls():
    assert analysis.controls_of("rloo") == ["grpo"]
    assert analysis.controls_of("vanilla") == []
    assert analysis.controls_of("opid_disagree")[2:5] == [
        "opid_disagree_constant", "opid_disagree_random_skill", "opid_disagree_other_task_skill",
    ]  # fmt: skip
    assert analysis.controls_of("opid_gated")[2] == analysis.controls_of("sdar")[2] == "opid_constant"
    assert analysis.controls_of("opid_random_skill") == ["grpo"]


def cell(algorithm, seed, passes, **more):
    return cells.Cell("tiny", algorithm, seed, "made", passes=passes, rollouts=0.1, **more)


def test_all_runs_are_reported_and_evaluations_are_averaged(tmp_path):
    stored = [
        *(cell("grpo", seed, [0.3, 0.5]) for seed in range(3)),
        *(cell("opid", seed, [0.5, 0.7], curve=[0.1, 0.2], env_steps=10, seconds=2.0) for seed in range(2)),
        cells.Cell("tiny", "opid", 2, "made", failed="5 updates in a row had a loss that was not finite"),
    ]
    lines = [one.to_json() for one in stored]
    (tmp_path / "results.jsonl").write_text("\n".join(lines))
    text = page.report(tmp_path).read_text()
    assert "mean return" not in text  # nobody measured it
    assert "| `opid` | 3 | 60.0 ± 0.0 | 10.0 ± 0.0 | 60.0 | 10 | 2 |" in text
    assert "| `opid` | `grpo` | +20.0 ± 0.0 | +50.0 % | 2 | 0.000 | 0.000 | 1.00 |" in text
    assert "- `opid`, seed 2: 5 updates in a row" in text
    assert {file.name for file in tmp_path.glob("*.svg")} == {
        f"tiny-{what}.svg" for what in ("final", "curves", "differences")
    }
    with pytest.raises(SystemExit, match="no results in"):
        page.report(tmp_path / "nowhere")


def test_training_is_compared_with_the_start(tmp_path):
    stored = [
        *(cell("vanilla", seed, [0.3], score=0.4) for seed in range(2)),
        *(cell("grpo", seed, [0.5], score=0.5, env_steps=4000) for seed in range(2)),
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(one.to_json() for one in stored))
    text = page.report(tmp_path).read_text()
    assert "| `grpo` | `vanilla` | +20.0 ± 0.0 |" in text
    assert "| `vanilla` | `grpo` |" not in text
    returns = text.split("### What training adds to the start: mean return on held-back tasks")[1]
    assert "| `grpo` | `vanilla` | +10.0 ± 0.0 |" in returns
    assert "| 4,000 | 200 |" in text  # 4,000 steps for 20 points


def test_what_training_adds_is_told_by_task_type(tmp_path):
    stored = [
        *(cell("vanilla", seed, [0.3], types={"pick": 0.5, "heat": 0.1}) for seed in range(2)),
        *(cell("grpo", seed, [0.5], types={"pick": 0.7, "heat": 0.0}) for seed in range(2)),
        cell("opid", 0, [0.5]),  # an older run
    ]
    (tmp_path / "results.jsonl").write_text("\n".join(one.to_json() for one in stored))
    text = page.report(tmp_path).read_text()
    assert "| task type | `grpo` | `vanilla` |" in text
    assert "| heat | 0.0 ± 0.0 (-10.0 ± 0.0) | 10.0 ± 0.0 |" in text
    assert "| pick | 70.0 ± 0.0 (+20.0 ± 0.0) | 50.0 ± 0.0 |" in text


def test_cells_that_began_from_different_weights_are_named(tmp_path):
    stored = [cell(name, 0, [0.5], start_sha256="a") for name in ("grpo", "gigpo")]
    stored += [
        cell("grpo", 1, [0.5], start_sha256="a"),
        cell("gigpo", 1, [0.5], start_sha256="b"),
        cell("rloo", 0, [1.0]),
    ]
    cells.store(tmp_path, stored)
    assert "**Not paired**: algorithms began from different weights in seeds 1." in page.report(tmp_path).read_text()


def test_returns_that_are_successes_are_told_once():
    found = analysis.analyse([cell("grpo", seed, [0.5, 0.7], score=0.6) for seed in range(2)])
    assert set(found["tiny"]["comparisons"]) == {"final", "rollouts"}


def test_a_claim_needs_ten_seeds_and_all_controls(tmp_path):
    def claims(seeds, *controls):
        stored = [cell("opid", seed, [0.6 + 0.001 * seed]) for seed in range(seeds)]
        stored += [cell(name, seed, [0.5]) for name in controls for seed in range(seeds)]
        return analysis.analyse(stored)["tiny"]["claims"]["final"]["opid"]

    assert claims(9, "grpo", "gigpo")["open"] == ["grpo", "gigpo"]
    found = claims(10, "grpo", "gigpo", "imitate_advice")
    assert (found["better"], found["worse"], found["open"]) == (["grpo", "gigpo", "imitate_advice"], [], [])
    assert found["missing"] == ["opid_constant", "opid_random_skill", "opid_other_task_skill"]


def test_what_the_teacher_foretold(tmp_path):
    stored = [cell("grpo", seed, [0.5]) for seed in range(4)]
    stored += [cell("opid", seed, [value]) for seed, value in enumerate([0.6, 0.4, 0.5, 0.7])]
    (tmp_path / "results.jsonl").write_text("\n".join(one.to_json() for one in stored))
    (tmp_path / "teacher").mkdir()
    gain = {"gain": {"step": {"estimate": 0.25, "low": 0.2, "high": 0.3}}}
    (tmp_path / "teacher" / "tiny.json").write_text(json.dumps(gain))
    text = page.report(tmp_path).read_text()
    assert "by +25.0 points [+20.0, +30.0]" in text
    assert "| `opid` | 2 | 4 |" in text  # a difference of 0 was not foretold


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_tables_are_those_of_the_committed_results(name, tmp_path):
    stored = RESULTS / name
    shutil.copy(stored / "results.jsonl", tmp_path)
    for folder in ("teacher", "failures"):
        if (stored / folder).is_dir():
            shutil.copytree(stored / folder, tmp_path / folder)
    page.report(tmp_path)
    for file in ("results.jsonl", "summary.json", "report.md"):
        assert (tmp_path / file).read_text() == (stored / file).read_text(), file


def test_committed_screens_are_cells_that_say_what_they_ran():
    files = sorted((RESULTS / "screens").glob("*.jsonl"))
    assert len(files) > 10
    for file in files:
        found = [cells.Cell(**json.loads(line)) for line in file.read_text().splitlines()]
        assert found, file.name
        assert len({cell.key for cell in found}) == len(found), file.name
        assert all(cell.changes and cell.start_sha256 and len(cell.passes) == 4 for cell in found), file.name


def test_the_page_on_evidence_has_the_figures_of_the_committed_reports():
    text = (ROOT / "docs" / "evidence.md").read_text()
    reports = [(RESULTS / name / "report.md").read_text() for name in STUDIES]
    known = {line for report in reports for line in report.splitlines()}
    rows = [line for line in text.splitlines() if re.match(r"\| `\w+` \| (`|\d)", line)]
    assert len(rows) >= 10
    assert [row for row in rows if row not in known] == []
    intervals = re.findall(r"[+-]?\d+\.\d ± \d+\.\d", text)
    assert [one for one in intervals if not any(one in report for report in reports)] == []
    for drawn, name in (("evidence.svg", "study_searchqa"), ("evidence-weak.svg", "study_weak_start")):
        figure = RESULTS / name / "tiny-searchqa-differences.svg"
        assert (ROOT / "docs" / "assets" / drawn).read_bytes() == figure.read_bytes()


@pytest.mark.parametrize(
    ("better", "said"),
    [("take mug 1 from desk 2", "take mug 1"), ("answer[Mount Cook]", "answer[Mount"), ("answer[Lima]", "answer[Li")],
)
def test_half_an_advice_is_no_action_that_could_be_imitated(better, said):
    told = StepHindsight(True, better=better, decisive=True)
    step = Step("a desk", "look", 0.0, "a desk", admissible_actions=("look", better), hindsight=told)
    [[skills]] = (
        half.HalfAdvice(get_recipe("tiny-alfworld")).extract_all([[Trajectory("1", "any", "t", [step])]]).skills
    )
    assert skills.step_skills == {0: said}
    assert advised_action(step, skills.step_skills[0]) is None


def test_a_study_runs_in_two_processes_and_goes_on(tmp_path, monkeypatch, capsys):
    """Two cells of a model made on the spot, each evaluated twice; the second command finds them finished."""
    small = [
        "threads=1", "iterations=1", "tasks_per_iteration=2", "group_size=2", "world.max_episode_steps=3",
        "model.hidden_size=16", "model.layers=1", "model.heads=2", "model.mlp_size=16", "model.vocabulary=400",
        "warm_start.demonstrations=8", "warm_start.steps=2", "warm_start.short_steps=1", "warm_start.read_steps=0",
        "warm_start.check_tasks=2", "evaluation.tasks=2", "opid:advantage.step_weight=0.5",
    ]  # fmt: skip
    command = [
        sys.executable, str(SCRIPT), *small, "--algorithms", "grpo", "opid", "--seeds", "1", "--passes", "2",
        "--processes", "2", "--out", str(tmp_path), "--json",
    ]  # fmt: skip
    first = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    line = json.loads(first.stdout.splitlines()[-1])
    assert (line["recipe"], line["against"]) == ("tiny-alfworld", "grpo")
    assert set(line["runs"]) == set(line["learners"]) == {"grpo", "opid"}
    found = {one.algorithm: one for one in cells.collect(tmp_path)}
    assert all(len(one.passes) == 2 and one.tasks == 2 and one.env_steps > 0 for one in found.values())
    assert "advantage.step_weight=0.5" in found["opid"].changes
    assert "advantage.step_weight=0.5" not in found["grpo"].changes
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}
    monkeypatch.setattr(sys, "argv", ["study.py", *command[2:], "--processes", "1"])
    study.main()
    assert capsys.readouterr().out.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.rglob("result.json")}

    given = {
        "changes": small, "algorithms": ["grpo", "opid"], "recipe": "tiny-alfworld", "seeds": 1, "first_seed": 0,
        "start": "auto", "passes": 2, "out": tmp_path,
    }  # fmt: skip
    todo = study.plans(Namespace(**given))
    kept = json.loads(study.keep_failures(todo, tmp_path, 1).read_text())
    assert [one["algorithm"] for one in kept] == ["grpo", "opid"]  # three steps of a model of four neurons win nothing
    assert all(len(one["steps"]) == 3 and one["task"] for one in kept)
    assert "### Some failures on held-back tasks" in page.report(tmp_path).read_text()

    model = tmp_path / "tiny-alfworld" / "seed-0" / "start" / "model"
    policy, name = study.start_of(study.plans(Namespace(**given | {"start": str(model)}))[0])
    assert (study.digest(policy), name) == (found["grpo"].start_sha256, "model")


def test_stored_results_are_not_run_again_and_other_settings_are_refused(tmp_path):
    given = {
        "changes": ["threads=1", "opid:advantage.step_weight=0.5"], "algorithms": ["grpo", "opid"],
        "recipe": "tiny-alfworld", "seeds": 2, "first_seed": 0, "start": "auto", "passes": 2, "out": tmp_path,
    }  # fmt: skip
    stored = [
        cells.Cell("tiny-alfworld", name, 0, "bundled", changes=["threads=1", *own], passes=[0.5, 0.5])
        for name, own in (("grpo", []), ("opid", ["advantage.step_weight=0.5"]))
    ]
    cells.store(tmp_path, stored)
    left = study.unfinished(study.plans(Namespace(**given)), tmp_path)
    assert [(plan.recipe.algorithm, plan.recipe.seed) for plan in left] == [("grpo", 1), ("opid", 1)]
    for other, message in (
        ({"passes": 4}, "grpo, seed 0 in .* has passes 2, and 4 is asked for"),
        ({"start": "made"}, "has start 'bundled', and 'made' is asked for"),
        ({"changes": ["threads=1"]}, "opid, seed 0 .* has changes"),
    ):
        with pytest.raises(SystemExit, match=message):
            study.unfinished(study.plans(Namespace(**given | other)), tmp_path)
