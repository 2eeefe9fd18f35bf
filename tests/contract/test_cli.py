"""The `opid-gym` command as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from opid_gym.bench.harness import choose_tasks
from opid_gym.registration import make_envs
from opid_gym.trajectory import read_jsonl

SMALL = ("--set", "size=small")


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opid_gym.cli", *words], input=stdin, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("envs", "eval", "play", "train", "quickstart"):
        assert command in done.stdout


def test_envs_lists_the_worlds() -> None:
    assert {"id": "opid/ALFWorld-v0", "max_episode_steps": 50}.items() <= json.loads(run("envs", "--json").stdout)[
        0
    ].items()
    assert "opid/ALFWorld-v0" in run("envs").stdout


def test_eval_prints_one_line_of_json_and_writes_the_episodes(tmp_path: Path) -> None:
    path = tmp_path / "a new folder" / "episodes.jsonl"
    done = run(
        "eval", "--agent", "expert", "--env", "opid/ALFWorld-v0", "--split", "valid_unseen", "--json", *SMALL,
        "--episodes", "12", "--num-envs", "5", "--trajectories", str(path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["episodes"], report["successes"], report["split"]) == (12, 12, "valid_unseen")
    played = [result["task_id"] for result in report["results"]]
    assert [t.task_id for t in read_jsonl(path)] == played
    envs = make_envs("opid/ALFWorld-v0", 1, split="valid_unseen", size="small")
    assert played == choose_tasks(envs.world.task_ids, 12) != list(envs.world.task_ids[:12])


def test_eval_plays_the_same_sample_whatever_the_seed_and_no_more_tasks_than_there_are() -> None:
    def words(seed: int, episodes: int) -> list[str]:
        return [
            "eval", "--agent", "random", "--json", "--env", "tests.corridor:tests/Corridor-v0",
            "--seed", str(seed), "--episodes", str(episodes),
        ]  # fmt: skip

    reports = [json.loads(run(*words(seed, 2)).stdout) for seed in (0, 1)]
    first, second = [[result["task_id"] for result in report["results"]] for report in reports]
    assert len(first) == 2
    assert first == second
    assert "6 episodes were asked for and there are 5 tasks" in run(*words(0, 6)).stderr


def test_eval_shows_a_table_by_default() -> None:
    done = run(
        "eval", "--agent", "random", "--split", "valid_seen", "--episodes", "6", "--max-episode-steps", "3", *SMALL
    )
    assert done.returncode == 0, done.stderr
    assert "95 % interval" in done.stdout
    assert "all" in done.stdout


def test_a_person_can_play_and_leave() -> None:
    done = run("play", *SMALL, stdin="?\nlook\n")
    assert done.returncode == 0, done.stderr
    assert "Your task is to" in done.stdout
    assert "inventory" in done.stdout
    assert done.stdout.rstrip().endswith("bye")


def test_watching_an_agent_shows_its_actions_and_the_result() -> None:
    done = run("play", "--agent", "expert", "--games", "2", "--delay", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 games solved" in done.stdout
    assert "> go to" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval", "--agent", "nobody"], "agent 'nobody' is neither one of ['"),
        (["eval", "--agent", "random", "--env", "opid/ALFWorld-v1"], "did you mean 'opid/ALFWorld-v0'?"),
        (["eval", "--agent", "random", "--split", "test"], "split must be one of"),
        (["eval", "--agent", "random", "--set", "size"], "--set needs key=value, got 'size'"),
        (["eval", "--agent", "random", "--set", "colour=red"], "has no arguments ['colour']; allowed: ["),
        (["eval", "--agent", "random", "--set", 'games=["/no/such/game.tw-pddl"]'], "no game file at"),
        (["play", "--task-id", "nowhere", *SMALL], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_is_allowed(words: list[str], message: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "words", [["evla"], ["eval", "--agnet", "random"], ["eval", "--agent", "random", "--num-envs", "0"]]
)
def test_unknown_commands_and_flags_are_named(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert words[-1] in done.stderr or words[-2] in done.stderr or words[0] in done.stderr


def test_debug_shows_the_traceback() -> None:
    assert "Traceback" in run("--debug", "eval", "--agent", "nobody").stderr
