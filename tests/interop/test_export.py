"""Exported trajectories: read back by us, and by the libraries people use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opid_agents.expert import ExpertAgent
from opid_agents.random import RandomAgent

from opid_gym.interop.export import clean, read_parquet, write_minari, write_parquet
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.trajectory import Step, StepHindsight, Trajectory, write_jsonl

pytest.importorskip("pyarrow", reason="the export extra is not installed")


@pytest.fixture(scope="module")
def played() -> list[Trajectory]:
    envs = make_envs("opid/ALFWorld-v0", 4, size="small", max_episode_steps=8)
    tasks = list(envs.world.task_ids)[:6]
    return [*play(envs, ExpertAgent(envs), tasks), *play(envs, RandomAgent(4, seed=0), tasks)]


ODD = Trajectory(
    "t", "kind", "find naïve 🙂", env_id=None, group=7, success=True, metadata={"seed": 3, "list": [1, None]},
    steps=[
        Step("line\nbreak \x00 中文", "search[a]", 0.25, "next", admissible_actions=None, reply="<a>", prompt="p"),
        Step("", "", -1.0, "", "anchor", (), None, None, False, "empty", {"ids": [1, 2], "deep": {"x": 0.1}}),
        Step("o", "a", 0.0, "n", hindsight=StepHindsight(True, ("won", "naïve"), better="go 🙂", reason="why")),
    ], workflow=("take x", ""),
)  # fmt: skip


def test_parquet_reads_back_exactly(tmp_path: Path, played: list[Trajectory]) -> None:
    path = tmp_path / "episodes.parquet"
    assert write_parquet(path, [*played, ODD]) == 13
    assert list(read_parquet(path)) == [*played, ODD]


def test_others_read_the_parquet_file(tmp_path: Path, played: list[Trajectory]) -> None:
    path = tmp_path / "episodes.parquet"
    write_parquet(path, played)
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(path)
    assert len(frame) == sum(map(len, played))
    returns = frame.groupby("episode")["reward"].sum().tolist()
    assert returns == [t.episode_return for t in played]
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    rows = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows[0]["observation"] == played[0].steps[0].observation
    assert tuple(rows[0]["admissible_actions"]) == played[0].steps[0].admissible_actions


def test_half_characters_become_the_replacement_character(tmp_path: Path) -> None:
    broken = replace(ODD, steps=[Step("a\ud800b", "x", 0.0, "y")])
    write_parquet(tmp_path / "x.parquet", [broken])
    [read] = read_parquet(tmp_path / "x.parquet")
    assert read.steps[0].observation == "a\ufffdb"
    assert clean("whole 🙂") == "whole 🙂"


def test_more_rows_than_are_written_at_once(tmp_path: Path) -> None:
    long = Trajectory("t", "k", "w", steps=[Step(str(i), "a", 0.0, str(i + 1)) for i in range(15_000)])
    write_parquet(tmp_path / "x.parquet", [long, ODD, long])
    assert list(read_parquet(tmp_path / "x.parquet")) == [long, ODD, long]


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"holds no trajectories: columns .*'action'"):
        list(read_parquet(tmp_path / "x.parquet"))


def test_minari_loads_the_dataset(tmp_path: Path, played: list[Trajectory], monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari", reason="the export extra is not installed")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))

    def made() -> Iterator[Trajectory]:
        yield from played

    write_minari("alfworld/mixed-v0", made(), description="for a test")
    dataset = minari.load_dataset("alfworld/mixed-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (len(played), sum(map(len, played)))
    for trajectory, episode in zip(played, dataset.iterate_episodes(), strict=True):
        observations: Any = list(episode.observations)
        assert observations[:-1] == [step.observation for step in trajectory.steps]
        assert observations[-1] == trajectory.steps[-1].next_observation
        assert list(episode.actions) == [step.action for step in trajectory.steps]
        assert episode.rewards.tolist() == [step.reward for step in trajectory.steps]
        assert (bool(episode.terminations[-1]), bool(episode.truncations[-1])) == (
            not trajectory.truncated,
            trajectory.truncated,
        )
        assert dataset.observation_space.contains(observations[0])
    metadata = list(dataset.storage.get_episode_metadata(range(2)))
    assert [m["task_id"] for m in metadata] == [t.task_id for t in played[:2]]
    with pytest.raises(ValueError, match="no episodes"):
        write_minari("alfworld/none-v0", [])


def test_the_command(tmp_path: Path, played: list[Trajectory]) -> None:
    (tmp_path / "trajectories").mkdir()
    write_jsonl(tmp_path / "trajectories" / "a.jsonl", played[:6])
    write_jsonl(tmp_path / "trajectories" / "b.jsonl", played[6:])

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "opid_gym.cli", "export", str(tmp_path / "trajectories"), *words],
            capture_output=True,
            text=True,
            env={**os.environ, "MINARI_DATASETS_PATH": str(tmp_path)},
        )

    done = run("--parquet", str(tmp_path / "all.parquet"))
    assert done.returncode == 0, done.stderr
    assert list(read_parquet(tmp_path / "all.parquet")) == played
    solved = sum(t.success for t in played)
    done = run("--minari", "alfworld/expert-v0", "--successes")
    assert done.returncode == 0, done.stderr
    assert f"{solved} episodes" in done.stderr
    wrong = run()
    assert wrong.returncode == 2
    assert "give either --parquet FILE or --minari ID" in wrong.stderr
