"""The `opid-gym` command as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opid_gym.bench.harness import choose_tasks
from opid_gym.registration import make_envs
from opid_gym.trajectory import read_jsonl
from tests.patience import SECONDS

SMALL = ("--set", "size=small")


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opid_gym.cli", *words], input=stdin, capture_output=True, text=True, timeout=SECONDS
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
    assert (
        "generated tasks, not official data: mean return 0.000, valid actions 100.0%, mean length 3.0 steps"
        in done.stdout
    )


def test_a_person_can_play_and_leave() -> None:
    done = run("play", *SMALL, stdin="?\nlook\n")
    assert done.returncode == 0, done.stderr
    assert "Your task is to" in done.stdout
    listed = done.stdout.splitlines()
    assert any(line.strip().endswith("  inventory") for line in listed)  # one action on each line, with its number
    assert "Tasks say put, but the action is: move OBJECT to PLACE." in done.stdout
    assert done.stdout.rstrip().endswith("left after 1 step, not solved: bye")


def test_a_person_can_choose_an_action_by_its_number() -> None:
    corridor = ("--env", "tests.corridor:tests/Corridor-v0", "--task-id", "walk-2")
    done = run("play", *corridor, stdin="?\n9\nfly\n2\n2\n")
    assert done.returncode == 0, done.stderr
    assert "1  left\n2  right" in done.stdout
    assert "9 is not a number from 1 to 2; ? lists them" in done.stdout
    assert "not one of the actions possible here" in done.stdout  # and yet played, as an agent's would be
    assert done.stdout.rstrip().endswith("solved in 3 steps; return 1")


def test_watching_an_agent_shows_its_actions_and_the_result() -> None:
    done = run("play", "--agent", "expert", "--games", "2", "--delay", "0", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "2 of 2 games solved" in done.stdout
    assert done.stdout.count("; return 1") == 2
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


def test_a_command_without_its_extra_says_which_whatever_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ModuleNotFoundError('No module named flask', name='flask')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for words in (["serve", "webshop", "--port", "0"], ["serve", "webshop", "now"], ["serve", "--help"]):
        command = [sys.executable, "-m", "opid_gym.cli", *words]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
        assert "pip install 'opid-gym[webshop]'" in " ".join(re.sub("[│╭╮╰╯─]", " ", ran.stdout + ran.stderr).split())
