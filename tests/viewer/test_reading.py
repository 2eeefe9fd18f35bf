"""What is found in a folder, whatever state it is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opid_gym.trajectory import StepHindsight, write_jsonl
from opid_gym.viewer.reading import read_folder
from tests.viewer.folders import make_run, step, trajectory


def test_a_run_is_read_with_everything_it_wrote(tmp_path: Path) -> None:
    collection = read_folder(make_run(tmp_path / "mine"))
    assert collection.problems == []
    (run,) = collection.runs
    assert run.name == collection.title == "mine"
    assert run.recipe["algorithm"] == "opid"
    assert [row["iteration"] for row in run.metrics] == [1, 2]
    assert list(run.trajectories) == list(range(8))
    assert run.skills[0]["episode_skill"] == "look on the shelves"
    assert list(run.evaluations) == ["evaluation"]


def test_a_folder_of_runs_names_each_by_its_path_and_leaves_out_saved_models(tmp_path: Path) -> None:
    make_run(tmp_path / "opid" / "seed-0")
    make_run(tmp_path / "grpo")
    for hidden in ("grpo/checkpoints/iteration-1", "grpo/model", ".cache"):
        make_run(tmp_path / hidden)
    assert [run.name for run in read_folder(tmp_path).runs] == ["grpo", "opid/seed-0"]


def test_trajectories_of_an_evaluation_are_a_run_of_their_own(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "expert.jsonl", [trajectory(0)])
    write_jsonl(tmp_path / "random.jsonl", [trajectory(1), trajectory(2)])
    assert {run.name: len(run.trajectories) for run in read_folder(tmp_path).runs} == {"expert": 1, "random": 2}
    assert len(read_folder(tmp_path / "random.jsonl").runs[0].trajectories) == 2


def test_results_and_trajectories_of_a_benchmark_are_one_entry_for_each_agent_and_environment(tmp_path: Path) -> None:
    bench = tmp_path / "bench"
    (bench / "trajectories").mkdir(parents=True)
    with open(bench / "episodes.jsonl", "w") as file:
        for agent in ("expert", "random"):
            for task in "xyz":
                result = {"agent": agent, "env": "world", "task_id": task, "task_type": "look", "success": True}
                file.write(json.dumps(result) + "\n")
    for seed in (0, 1):
        played = [trajectory(i, metadata={"agent": "expert", "env": "world", "seed": seed}) for i in range(3)]
        write_jsonl(bench / "trajectories" / f"expert-world-{seed}.jsonl", played)
    for folder, prefix in ((tmp_path, "bench: "), (bench, "")):
        found = {run.name: (len(run.episodes), list(run.trajectories)) for run in read_folder(folder).runs}
        assert found == {f"{prefix}expert on world": (3, [0, 1, 2, 3, 4, 5]), f"{prefix}random on world": (3, [])}


def test_a_broken_line_is_named_and_the_others_are_there(tmp_path: Path) -> None:
    file = make_run(tmp_path) / "trajectories.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    without_task = json.dumps({k: v for k, v in json.loads(lines[2]).items() if k != "task"}).encode() + b"\n"
    number_for_text = trajectory(3, steps=0)
    number_for_text.steps = [step(0, observation=5)]
    odd_advice = trajectory(3, steps=0)
    odd_advice.steps = [step(0, hindsight=StepHindsight(True, better=5))]  # type: ignore[arg-type]
    broken = [record.to_json().encode() + b"\n" for record in (number_for_text, odd_advice)]
    lines[1:6] = [b"{oops}\n", without_task, b"[1]\n", *broken]
    file.write_bytes(b"".join(lines))
    collection = read_folder(tmp_path)
    # Numbers stay those of the lines, which the skills and links refer to.
    assert list(collection.runs[0].trajectories) == [0, 6, 7]
    expected = (
        (2, "not JSON"), (3, "'task'"), (4, "expected a JSON object"), (5, "step 0: observation"),
        (6, "step 0: hindsight: better must not be 5"),
    )  # fmt: skip
    for line, reason in expected:
        assert any(f"trajectories.jsonl:{line}: " in problem and reason in problem for problem in collection.problems)
    assert len(collection.problems) == 5


def test_a_run_that_is_still_being_written_is_opened(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    for name in ("trajectories.jsonl", "metrics.jsonl"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-20])
    (folder / "recipe.json").write_text('{"name":')
    collection = read_folder(folder)
    assert len(collection.runs[0].trajectories) == 7
    assert len(collection.runs[0].metrics) == 1
    assert sum("perhaps still being written" in problem for problem in collection.problems) == 2
    assert any("recipe.json: not JSON" in problem for problem in collection.problems)


@pytest.mark.parametrize("content", [None, "{}", "[]\n{}\n"])
def test_nothing_to_show_is_an_error_that_says_what_was_expected(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "other.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"nothing to show in .* expected a folder written by `opid-gym train`"):
        read_folder(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder or file at .*nowhere"):
        read_folder(tmp_path / "nowhere")
