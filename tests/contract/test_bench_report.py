"""Leaderboards: what the tables say, and the files."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

import opid_gym
from opid_gym.bench.figures import bars, learning_curves, save
from opid_gym.bench.report import (
    ALL,
    comparisons,
    leaderboard,
    to_markdown,
    write_pairs_csv,
    write_rows_csv,
)
from opid_gym.bench.results import EpisodeResult, read_results
from opid_gym.evaluation import wilson


def results(agent: str, solved: str, *, env: str = "world", seeds: int = 1) -> list[EpisodeResult]:
    return [
        EpisodeResult(
            agent, env, seed, f"t{i}", "ab"[i % 2], success=c == "1", episode_return=float(c), length=4,
            valid_actions=3, prompt_tokens=100, reply_tokens=20, seconds=0.5, cost=0.01,
        )
        for seed in range(seeds)
        for i, c in enumerate(solved)
    ]  # fmt: skip


def test_a_row_counts_over_tasks_and_seeds() -> None:
    [row] = leaderboard(results("x", "1101", seeds=3))
    assert (row.tasks, row.seeds, row.episodes, row.failed, row.trials) == (4, 3, 12, 0, 1)
    assert row.success == wilson(3, 4)  # seeds that repeat each other add nothing
    assert (row.mean_return.estimate, row.length, row.valid_actions) == (0.75, 4.0, 0.75)
    assert (row.prompt_tokens, row.reply_tokens, row.seconds, row.cost) == (100, 20, 0.5, pytest.approx(0.01))


def test_failed_episodes_count_as_not_solved() -> None:
    failed = EpisodeResult("x", "world", 0, "t9", "a", failure="agent: took longer than 2 s for one call")
    [row] = leaderboard([*results("x", "111"), failed])
    assert (row.failed, row.success.estimate) == (1, 0.75)


def test_the_best_is_first_and_types_follow() -> None:
    rows = leaderboard([*results("weak", "0100"), *results("strong", "1101")], by_task_type=True)
    assert [(r.agent, r.task_type) for r in rows] == [
        ("strong", ALL), ("weak", ALL), ("strong", "a"), ("weak", "a"), ("strong", "b"), ("weak", "b"),
    ]  # fmt: skip
    assert [r.success.estimate for r in rows[2:]] == [0.5, 0.0, 1.0, 0.5]


def test_pairs_are_compared_on_common_tasks_and_adjusted_within_an_environment() -> None:
    found = comparisons(
        [
            *results("a", "0" * 12),
            *results("b", "1" * 10),
            *results("c", "1" * 12),
            *results("a", "1", env="other"),
        ]
    )
    assert [(p.first, p.second, p.comparison.tasks) for p in found] == [("a", "b", 10), ("a", "c", 12), ("b", "c", 10)]
    assert [p.comparison.p_value for p in found] == pytest.approx([2 * 0.5**10, 2 * 0.5**12, 1.0])
    assert [p.adjusted for p in found] == pytest.approx([4 * 0.5**10, 6 * 0.5**12, 1.0])
    # Returns are 0 or 1 here, so both say the same; the permutations of 12 and 10 signs are all tried.
    assert [p.returns.estimate for p in found] == [p.comparison.difference.estimate for p in found]
    assert [p.returns_adjusted for p in found] == pytest.approx([p.adjusted for p in found])


def test_where_the_return_is_the_success_both_have_the_same_interval_and_test() -> None:
    made = [*results("a", "0011"), *results("b", "1111")]
    for row in leaderboard(made):
        assert row.mean_return == row.success
    [pair] = comparisons(made)
    assert (pair.returns, pair.returns_adjusted) == (pair.comparison.difference, pair.adjusted)
    halved = [replace(r, episode_return=r.episode_return / 2) for r in made]
    [pair] = comparisons(halved)
    assert pair.returns.estimate == pair.comparison.difference.estimate / 2


def test_the_page_and_the_tables_say_the_same(tmp_path: Path) -> None:
    made = [*results("random", "0001"), *results("good | best", "1110"), *results("random", "1", env="other")]
    rows, pairs = leaderboard(made), comparisons(made)
    page = to_markdown(rows, pairs, ["Made by hand."], {"world": "generated tasks, not official data"})
    assert "## world\n\nPlayed on generated tasks, not official data.\n" in page
    assert (
        "| good \\| best | 75.0% | 30.1% to 95.4% | 0.750 | 4 x 1 | 0 | 4.0 | 75.0% | 100 | 20 | 0.5 | 0.01 |" in page
    )
    assert page.index("## other") < page.index("## world")
    write_rows_csv(tmp_path / "rows.csv", rows)
    write_pairs_csv(tmp_path / "pairs.csv", pairs)
    with open(tmp_path / "rows.csv", newline="") as file:
        read = list(csv.DictReader(file))
    assert [(r["env"], r["agent"], float(r["success"])) for r in read] == [
        ("other", "random", 1.0), ("world", "good | best", 0.75), ("world", "random", 0.25),
    ]  # fmt: skip
    with open(tmp_path / "pairs.csv", newline="") as file:
        [pair] = csv.DictReader(file)
    assert (pair["first"], float(pair["difference"])) == ("good | best", -0.5)


def test_figures_are_written_and_repeat_to_the_byte(tmp_path: Path) -> None:
    rows = leaderboard([*results("random", "0001"), *results("good", "1110"), *results("random", "1", env="other")])
    curves = {"ppo": [[(0, 0.1), (100, 0.4)], [(0, 0.2), (100, 0.6), (200, 0.7)]], "dqn": [[(0, 0.0), (100, 0.2)]]}
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        save(bars(rows, tasks={"world": "generated tasks"}), tmp_path / name / "bars")
        save(bars(rows, "mean_return"), tmp_path / name / "returns")
        save(learning_curves(curves, x_label="steps"), tmp_path / name / "curves")
    for file in ("bars.png", "bars.svg", "returns.png", "curves.png", "curves.svg"):
        written = (tmp_path / "first" / file).read_bytes()
        assert len(written) > 5_000
        assert written == (tmp_path / "second" / file).read_bytes()
    drawn = (tmp_path / "first" / "bars.svg").read_text()
    assert "good" in drawn
    assert "generated tasks" in drawn
    assert f"opid-gym {opid_gym.__version__}" in drawn


def test_of_an_episode_played_again_the_later_result_counts(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    [first] = results("x", "0")
    lines = [first.to_json(), replace(first, success=True).to_json()]
    path.write_text("\n".join(lines) + '\n{"agent": "x", "en')
    assert [r.success for r in read_results(path)] == [True]
    path.write_text(lines[0] + '\n{"agent": "x"}\n')
    with pytest.raises(ValueError, match=r"episodes\.jsonl:2: not a result: .*missing"):
        read_results(path)
