"""Two processes on this machine (gloo) against one: the same episodes, gradients and weights, however they share."""

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest
import torch
from opid_agents.distributed import Processes, balanced, end_process, interleaved
from opid_agents.policy import Policy
from opid_agents.recipes.recipe import RecipeError
from opid_agents.training.run import Run

from opid_gym.trajectory import read_jsonl
from tests.agents import together
from tests.agents.models import tiny_recipe
from tests.patience import SECONDS, free_port, wait_for
from tests.processes import running

ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The folder of all runs: by one process, then by two that torchrun starts."""
    folder = tmp_path_factory.mktemp("together")
    for algorithm in together.RUNS:
        together.run(algorithm, folder / algorithm)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, "-m", "tests.agents.together", str(folder)],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def metrics_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]


def replies_of(folder):
    return [[step.reply for step in t.steps] for t in read_jsonl(folder / "trajectories.jsonl")]


def assert_same_run(found, expected):
    assert replies_of(found) == replies_of(expected)
    for a, b in zip(metrics_of(found), metrics_of(expected), strict=True):
        assert [name for name in a if a[name] is None] == [name for name in b if b[name] is None]
        a, b = ({name: value for name, value in line.items() if value is not None} for line in (a, b))
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)
        for name in ("train/loss", "train/grad_norm"):
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-5)
    pairs = zip(*(Policy.load(folder / "model").model.parameters() for folder in (found, expected)), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 5e-5


@pytest.mark.parametrize("mode", together.MODES)
@pytest.mark.parametrize("algorithm", together.RUNS)
def test_two_processes_learn_what_one_learns(out, algorithm, mode):
    assert_same_run(out / f"{algorithm}-{mode}", out / algorithm)
    first, second = metrics_of(out / algorithm)
    assert first["train/grad_norm"] > 0
    assert "eval/success" in second
    found, expected = out / f"{algorithm}-{mode}" / "model", out / algorithm / "model"
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    assert (found / "config.json").read_text() == (expected / "config.json").read_text()


@pytest.mark.parametrize("mode", together.MODES)
@pytest.mark.parametrize("case", ["all", "one"])
def test_gradients_are_those_of_one_process_even_if_one_of_two_has_no_row(out, case, mode):
    gradients, result = together.update(case)
    assert max(float(gradient.abs().max()) for gradient in gradients) > 0.01
    for rank in (0, 1):
        found, told = torch.load(out / f"{case}-{mode}-{rank}.pt", weights_only=False)
        for a, b in zip(found, gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=0)
        assert told.metrics == pytest.approx(result.metrics, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("mode", together.MODES)
def test_a_loss_that_is_not_finite_in_one_process_makes_both_skip_the_update(out, mode):
    for rank in (0, 1):
        changes, told = torch.load(out / f"nan-{mode}-{rank}.pt", weights_only=False)
        assert (told.updates, told.skipped, told.skipped_in_a_row) == (0, 1, 1)
        assert not any(bool(change.any()) for change in changes)


@pytest.mark.parametrize("mode", together.MODES)
def test_a_run_of_two_goes_on_with_its_own_numbers(out, mode):
    assert metrics_of(out / f"again-{mode}") == metrics_of(out / f"opid-{mode}")
    assert (out / f"again-{mode}/model/model.safetensors").read_bytes() == (
        out / f"opid-{mode}/model/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("mode", together.MODES)
def test_a_run_goes_on_with_another_number_of_processes(out, mode, tmp_path):
    assert_same_run(out / f"more-{mode}", out / "opid")
    together.stopped(out / f"opid-{mode}", tmp_path / "fewer")
    together.run("opid", tmp_path / "fewer", resume=True)
    assert_same_run(tmp_path / "fewer", out / "opid")


def train_in_two(out, folder, *changes):
    """The command that learns in two processes, for longer than anybody waits."""
    arguments = ["--recipe", str(out / "opid" / "recipe.json"), "--out", str(folder), *together.RUNS["opid"], *changes]
    command = [sys.executable, "-m", "opid_agents", "train", "--processes", "2", *arguments, "iterations=200"]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def test_when_a_process_is_killed_the_others_end_with_one_error_and_the_run_goes_on(out, tmp_path):
    folder = tmp_path / "killed"
    process = train_in_two(out, folder, "evaluation.tasks=3")
    try:
        wait_for(lambda: (folder / "metrics.jsonl").exists() or process.poll() is not None, "an iteration")
        assert process.poll() is None, process.stderr.read()
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
        workers[1].send_signal(signal.SIGKILL)
        said = process.communicate(timeout=SECONDS)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2
    errors = [line for line in said.splitlines() if "rror" in line]
    assert len(errors) == 1, said
    assert "of 2 was ended by SIGKILL" in errors[0]
    assert running(workers) == []
    together.run("opid", folder, resume=True)
    assert_same_run(folder, out / "opid")


@pytest.mark.parametrize("text", ["", "all is done"])
def test_a_process_ends_with_its_own_code_whatever_threads_of_an_exchange_still_want(text):
    done = subprocess.run(
        [sys.executable, "-m", "tests.agents.last_exchange", str(free_port()), "3", text],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout) == (3, text), done.stderr


def test_alone_a_process_is_not_ended_at_once():
    end_process(1)


def test_when_who_started_them_is_killed_the_processes_end(out, tmp_path):
    process = train_in_two(out, tmp_path / "run")
    try:
        wait_for(lambda: (tmp_path / "run" / "metrics.jsonl").exists() or process.poll() is not None, "an iteration")
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not running(workers), "their end")


def test_parts_are_balanced_by_their_costs():
    costs = [100, 1, 1, 50, 50, 1, 97]
    parts = balanced(costs, 3)
    assert sorted(i for part in parts for i in part) == list(range(7))
    assert [sum(costs[i] for i in part) for part in parts] == [100, 100, 100]
    assert balanced([], 2) == [[], []]
    assert balanced([3, 1, 2], 1) == [[0, 1, 2]]


def test_every_process_has_its_part_of_a_list_and_together_they_have_all():
    items = list("abcdefgh")
    assert interleaved([Processes(rank, 3).own(items) for rank in range(3)]) == items
    assert interleaved([Processes(rank, 9).own(items) for rank in range(9)]) == items


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["parallel=none"], "parallel: got 'none' for 2 processes; allowed: replicate, shard, auto, or one process"),
        (["parallel=shard", "lora.rank=4"], r"parallel: got 'shard' with adapters \(lora.rank\); allowed: replicate"),
        (["parallel=shard", "sampler.kind=vllm"], "parallel: got 'shard' with sampler.kind=vllm; allowed: replicate"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_with_what_they_can(changes, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        Run.open(tiny_recipe(*changes), tmp_path, processes=Processes(0, 2))
