"""The benchmark harness: exact passes, resuming, and agents that raise, hang, die or answer nonsense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from opid_gym.bench.harness import Plan, Shard, Summary, Watch, choose_tasks, run
from opid_gym.bench.results import EpisodeResult, read_results
from opid_gym.bench.worker import Deadline
from opid_gym.files import FolderInUse, hold
from opid_gym.roster import parse_spec
from opid_gym.trajectory import read_jsonl
from tests.patience import SECONDS, wait_for
from tests.processes import hear_signals
from tests.troublemakers import TROUBLE

ENV = "tests.corridor:tests/Corridor-v0"
TASKS = ["walk-1", "walk-2", "walk-3", "walk-4", "walk-5"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _worker_finds_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def plan(*agents: str, env: str = f"{ENV} max_episode_steps=4 label=corridor", **settings: object) -> Plan:
    return Plan(tuple(map(parse_spec, agents)), (parse_spec(env),), **settings)  # type: ignore[arg-type]


def play(out: Path, *agents: str, workers: int = 2, **settings: object) -> tuple[Summary, list[EpisodeResult]]:
    summary = run(plan(*agents, **settings), out, workers=workers)
    return summary, read_results(out / "episodes.jsonl")


def by_task(results: list[EpisodeResult]) -> dict[str, EpisodeResult]:
    assert len({r.task_id for r in results}) == len(results)
    return {r.task_id: r for r in results}


def test_every_task_is_played_once_for_each_agent_and_seed(tmp_path: Path) -> None:
    summary, results = play(tmp_path, "random", "expert", seeds=(0, 1), num_envs=2)
    assert Counter((r.agent, r.seed) for r in results) == {(a, s): 5 for a in ("random", "expert") for s in (0, 1)}
    assert len({r.key for r in results}) == 20
    assert (summary.played, summary.failed, summary.not_run) == (20, 0, {})
    expert = [r for r in results if r.agent == "expert" and r.seed == 1]
    assert {r.task_id: (r.success, r.length, r.episode_return, r.task_type) for r in expert} == {
        "walk-1": (True, 1, 1.0, "odd"),
        "walk-2": (True, 2, 1.0, "even"),
        "walk-3": (True, 3, 1.0, "odd"),
        "walk-4": (True, 4, 1.0, "even"),
        "walk-5": (False, 4, 0.0, "odd"),
    }
    assert all(r.truncated == (not r.success) and r.seconds > 0 and r.valid_actions == r.length for r in expert)
    trajectories = list(read_jsonl(tmp_path / "trajectories" / "expert-corridor-1.jsonl"))
    assert sorted(t.task_id for t in trajectories) == TASKS
    played_as = {"agent": "expert", "env": "corridor", "seed": 1, "trial": 0}
    assert trajectories[0].metadata == {**played_as, "source": "generated", "data": None}
    notes = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert notes["data"] == {"corridor": {"source": "generated", "data": None}}


def test_what_is_there_is_not_played_again(tmp_path: Path) -> None:
    play(tmp_path, "random", episodes=2)
    before = (tmp_path / "episodes.jsonl").read_text()
    summary, results = play(tmp_path, "random", "expert", episodes=3)
    assert (tmp_path / "episodes.jsonl").read_text().startswith(before)
    assert summary.played == 4  # one more of the first agent, three of the second
    assert len(results) == 6
    assert play(tmp_path, "random", "expert", episodes=3)[0].played == 0


class Listen(Watch):
    """Keeps what it is told of repairs."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def repaired(self, what: str) -> None:
        self.heard.append(what)


def test_what_an_interruption_tore_is_named_and_played_again_once(tmp_path: Path) -> None:
    """Zeros in the middle of both files, half a line, notes cut off, and a trajectory whose result was not written."""
    play(tmp_path, "expert")
    results, trajectories = tmp_path / "episodes.jsonl", tmp_path / "trajectories" / "expert-corridor-0.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    lost = json.loads(lines[4])["task_id"]
    results.write_bytes(lines[0] + b"\0" * 200 + b"\n" + lines[2] + b"[" * 100_000 + b"\n" + lines[3][:50])
    whole = trajectories.read_bytes()
    trajectories.write_bytes(whole + whole.splitlines(keepends=True)[0] + b"\0" * 100)
    (tmp_path / "bench.json").write_text('{"commands": [')
    watch = Listen()
    summary = run(plan("expert"), tmp_path, watch=watch)
    assert summary.played == 3
    found = by_task(read_results(results))
    assert sorted(found) == TASKS
    played = Counter(t.task_id for t in read_jsonl(trajectories))
    assert played == dict.fromkeys(TASKS, 1)
    said = "\n".join(watch.heard)
    for place in ("bench.json: Expecting value", "episodes.jsonl:2: ", "episodes.jsonl:4: the brackets are nested too"):
        assert place in said
    assert "episodes.jsonl:5: unfinished line" in said
    assert f"the episode of {lost!r} has no result" in said
    assert "is there twice" in said
    assert json.loads((tmp_path / "bench.json").read_text())["agents"] == {"expert": "expert"}
    watch.heard.clear()
    assert run(plan("expert"), tmp_path, watch=watch).played == 0
    assert watch.heard == []


def test_a_second_benchmark_in_the_same_folder_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    with hold(tmp_path), pytest.raises(FolderInUse, match=f"in use by process {os.getpid()} "):
        play(tmp_path, "expert")
    assert play(tmp_path, "expert")[0].played == 5


def test_a_torn_last_line_is_played_again_and_nothing_is_lost(tmp_path: Path) -> None:
    play(tmp_path, "expert")
    path = tmp_path / "episodes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-25])
    summary, results = play(tmp_path, "expert")
    assert summary.played == 1
    assert sorted(r.task_id for r in results) == TASKS
    assert path.read_bytes().startswith(whole[: whole[:-1].rfind(b"\n") + 1])


@pytest.mark.parametrize(
    ("agent", "reason"),
    [
        ("Raises", "agent: act raised RuntimeError: no idea what to do"),
        ("Counts", "agent: act returned 2 actions for 1 games"),
        ("AnswersNumbers", "agent: act returned a int as an action: 7"),
        ("Exits", "agent: its process ended with exit code 5"),
        ("one_game_raises", "agent: act raised KeyError: 'lost'"),
    ],
)
def test_only_the_episode_where_an_agent_goes_wrong_is_failed(tmp_path: Path, agent: str, reason: str) -> None:
    assert_one_episode_failed(tmp_path, agent, reason, timeout=SECONDS)


@pytest.mark.parametrize("agent", ["Sleeps", "HoldsTheInterpreter"])
def test_an_agent_that_hangs_fails_its_episode_alone(tmp_path: Path, agent: str) -> None:
    """The limit is the longest that a machine may hold up one of the other calls, which take microseconds."""
    assert_one_episode_failed(tmp_path, agent, "agent: took longer than 5 s for one call", timeout=5.0)


def assert_one_episode_failed(out: Path, agent: str, reason: str, timeout: float) -> None:
    words = f"tests.troublemakers:{agent} label=bad"
    summary, results = play(out, words, "expert", num_envs=3, timeout=timeout)
    bad = by_task([r for r in results if r.agent == "bad"])
    assert sorted(bad) == TASKS
    assert bad[TROUBLE].failure == reason
    assert (bad[TROUBLE].success, bad[TROUBLE].task_type) == (False, "odd")
    assert {r.task_id: r.success for r in bad.values() if r.task_id != TROUBLE} == {
        "walk-1": True, "walk-2": True, "walk-4": True, "walk-5": False,
    }  # fmt: skip
    assert all(r.failure is None for r in results if r.task_id != TROUBLE or r.agent == "expert")
    assert (summary.played, summary.failed) == (10, 1)


def test_a_deadline_that_is_read_while_it_is_written_is_never_long_ago(tmp_path: Path) -> None:
    path = tmp_path / "deadline"
    code = f"""
from opid_gym.bench.worker import Deadline
deadline = Deadline({str(path)!r})
while True:
    deadline.enter("agent")
    deadline.enter("environment")
"""
    deadline = Deadline(path)
    deadline.enter("setup")
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        wait_for(lambda: deadline.read()[0] != "setup")
        oldest = min(deadline.read()[1] for _ in range(200_000))
        writer.kill()
    assert oldest >= started


def test_failed_episodes_are_played_again_only_when_asked(tmp_path: Path) -> None:
    play(tmp_path, "tests.troublemakers:Raises")
    again = plan("tests.troublemakers:Raises")
    assert run(again, tmp_path).played == 0
    summary = run(again, tmp_path, retry_failed=True)
    assert (summary.played, summary.failed) == (1, 1)
    assert len(read_results(tmp_path / "episodes.jsonl")) == 5


def test_an_agent_that_cannot_be_made_is_reported_and_tried_again_next_time(tmp_path: Path) -> None:
    told: list[str] = []

    class Listen(Watch):
        def not_run(self, shard: Shard, reason: str) -> None:
            told.append(f"{shard}: {reason}")

    both = plan("tests.troublemakers:CannotBeMade label=bad", "expert")
    summary = run(both, tmp_path, watch=Listen())
    assert summary.played == 5
    [reason] = summary.not_run.values()
    assert reason.startswith("OSError: no server at this address (see ")
    assert told == [f"bad on corridor, seed 0: {reason}"]
    assert "Traceback" in (tmp_path / "logs" / "bad-corridor-0.log").read_text()
    assert list(run(both, tmp_path).not_run.values()) == [reason]


def test_what_an_agent_prints_goes_to_its_log(tmp_path: Path) -> None:
    summary, results = play(tmp_path, "tests.troublemakers:Talks label=talks")
    assert (summary.played, summary.failed, len(results)) == (5, 0, 5)
    log = (tmp_path / "logs" / "talks-corridor-0.log").read_text()
    assert '{"event": "done"}' in log
    assert "native noise" in log


def test_threads_that_an_agent_leaves_behind_hold_nothing_up(tmp_path: Path) -> None:
    started = time.monotonic()
    summary, _ = play(tmp_path, "tests.troublemakers:LeavesAThread label=t")
    assert (summary.played, summary.failed) == (5, 0)
    assert time.monotonic() - started < 600  # as long as the thread sleeps


def test_agents_that_learn_from_failure_get_further_trials(tmp_path: Path) -> None:
    _, results = play(tmp_path, "tests.troublemakers:LearnsFromFailure label=learns")
    learned = by_task(results)
    assert {task: (r.trials, r.success) for task, r in learned.items()} == {
        "walk-1": (2, True), "walk-2": (2, True), "walk-3": (2, True), "walk-4": (2, True), "walk-5": (3, False),
    }  # fmt: skip
    assert learned["walk-1"].length == 1  # of the last trial
    assert learned["walk-1"].prompt_tokens == 10 * (4 + 1)  # of all trials
    assert learned["walk-5"].cost == 0.5 * 12
    trials = [t.metadata["trial"] for t in read_jsonl(tmp_path / "trajectories" / "learns-corridor-0.jsonl")]
    assert Counter(trials) == {0: 5, 1: 5, 2: 1}


def test_a_function_is_an_agent_for_one_game(tmp_path: Path) -> None:
    _, results = play(
        tmp_path, "tests.troublemakers:one_game label=r", "tests.troublemakers:one_game command=left label=l"
    )
    assert sum(r.success for r in results if r.agent == "r") == 4
    assert sum(r.success for r in results if r.agent == "l") == 0


def test_one_label_cannot_stand_for_two_things(tmp_path: Path) -> None:
    play(tmp_path, "random", episodes=1)
    with pytest.raises(ValueError, match="has results of 'random' as 'random', and now it is 'expert'"):
        run(plan("expert label=random"), tmp_path)
    with pytest.raises(ValueError, match=r"agents \['expert'\] are there twice"):
        plan("expert", "expert")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 6}, "6 episodes were asked for and there are 5 tasks"),
        ({"seeds": ()}, "seeds must be different"),
        ({"num_envs": 0}, "must be >= 1"),
        ({"timeout": 0.0}, "timeout must be a positive number"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path, settings: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(plan("random", **settings), tmp_path)


def test_the_sample_of_tasks_is_fixed_and_grows() -> None:
    tasks = [f"t{i}" for i in range(50)]
    samples = [choose_tasks(tasks, n) for n in (1, 10, 30, 50)]
    assert [len(s) for s in samples] == [1, 10, 30, 50]
    for small, large in pairwise(samples):
        assert set(small) < set(large)
    assert samples[-1] == tasks == choose_tasks(tasks, None)


def command(out: Path, *agents: str, more: tuple[str, ...] = ()) -> list[str]:
    words = [word for agent in agents for word in ("--agent", agent)]
    env = f"{ENV} max_episode_steps=4 label=corridor"
    return [sys.executable, "-m", "opid_gym.cli", "bench", *words, "--env", env, "--out", str(out), *more]


def test_the_command_writes_a_leaderboard_and_its_exit_code_tells_of_failures(tmp_path: Path) -> None:
    good = subprocess.run(
        command(tmp_path, "random", "expert", more=("--seeds", "2", "--json")), capture_output=True, text=True, cwd=ROOT
    )
    assert good.returncode == 0, good.stderr
    said = json.loads(good.stdout)
    assert said["played"] == 20
    assert [(row["agent"], row["episodes"]) for row in said["leaderboard"]] == [("expert", 10), ("random", 10)]
    assert (said["leaderboard"][0]["mean_return"], said["leaderboard"][0]["valid_actions"]) == (0.8, 1.0)
    page = (tmp_path / "leaderboard.md").read_text()
    assert "| expert | 80.0% |" in page
    assert "opid-gym bench --agent random --agent expert" in page
    for name in ("leaderboard.csv", "comparisons.csv", "success.png", "mean_return.svg"):
        assert (tmp_path / name).stat().st_size > 100

    bad = subprocess.run(command(tmp_path, "tests.troublemakers:Raises"), capture_output=True, text=True, cwd=ROOT)
    assert bad.returncode == 3
    assert "act raised RuntimeError: no idea what to do" in bad.stderr
    assert "Traceback" not in bad.stderr
    assert "expert" in bad.stdout  # the board shows all that is in the folder
    assert "corridor: generated tasks" in bad.stdout
    assert all(column in bad.stdout for column in ("return", "valid", "failed"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--agent", "nobody"], "agent 'nobody' is neither one of ["),
        (["--agent", "random", "--episodes", "few"], "--episodes must be 'all' or a number, got 'few'"),
        (["--agent", "tests.nowhere:Agent"], "No module named 'tests.nowhere'"),
        (["--agent", "tests.troublemakers:Nobody"], "tests.troublemakers has no Nobody"),
        (["--agent", "random color"], "an option needs key=value, got 'color'"),
    ],
)
def test_mistakes_are_told_before_anything_is_played(tmp_path: Path, words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "opid_gym.cli", "bench", *words, "--env", ENV, "--out", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out" / "episodes.jsonl").exists()


def test_an_interrupted_run_leaves_no_process_and_goes_on_later(tmp_path: Path) -> None:
    may_go_on = tmp_path / "may go on"
    agent = f"tests.troublemakers:WaitsForAFile path={json.dumps(str(may_go_on))}"
    words = command(tmp_path / "bench", agent, more=("--workers", "1", "--num-envs", "1"))
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=hear_signals)
    results = tmp_path / "bench" / "episodes.jsonl"
    wait_for(lambda: results.exists() and len(read_results(results)) == TASKS.index(TROUBLE))
    children = psutil.Process(running.pid).children(recursive=True)
    assert children
    os.kill(running.pid, signal.SIGINT)
    _, said = running.communicate(timeout=SECONDS)
    assert running.returncode == 130
    assert "The same command goes on." in said
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert not alive
    there = len(read_results(results))
    assert there == TASKS.index(TROUBLE)
    may_go_on.touch()
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert f"{there} episodes are there already, {5 - there} are to be played" in done.stderr
    assert sorted(r.task_id for r in read_results(results)) == TASKS


@pytest.mark.parametrize("agent", ["Sleeps", "HoldsTheInterpreter"])
def test_workers_leave_with_a_parent_that_was_killed(tmp_path: Path, agent: str) -> None:
    running = subprocess.Popen(command(tmp_path, f"tests.troublemakers:{agent}"), stderr=subprocess.DEVNULL, cwd=ROOT)
    children = wait_for(lambda: psutil.Process(running.pid).children(recursive=True))
    running.kill()
    running.wait()
    _, alive = psutil.wait_procs(children, timeout=SECONDS)
    assert not alive
