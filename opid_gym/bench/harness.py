"""Plays a benchmark: every task once an agent, environment and seed, whatever the agents do.

Each (agent, environment, seed) is a *shard*. A shard is played by a worker process (`opid_gym.bench.worker`), which is
ended when the agent or the environment takes longer than the time-out for one call, and replaced when it ended before
its work was done. Blame falls on one episode: when a batch breaks, the episodes that were under way are played again,
one at a time, and the one during which it breaks again is marked as failed. Everything else goes on.
"""

from __future__ import annotations

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opid_gym.bench.results import EpisodeResult, Key, repair_results, repair_trajectories
from opid_gym.bench.worker import Deadline, Job
from opid_gym.files import append_lines, hold, make_folder, write_file
from opid_gym.guard import guarded
from opid_gym.json_text import parse_json
from opid_gym.order import TaskOrder
from opid_gym.panel import Panel, panel_tasks
from opid_gym.registration import make_envs
from opid_gym.roster import Spec

RESULTS_FILE = "episodes.jsonl"
NOTES_FILE = "bench.json"
TRAJECTORIES = "trajectories"
LOGS = "logs"
# Making an agent may load a model or build an index.
SETUP_SECONDS = 900.0
_LOOK_SECONDS = 0.1  # how often the deadlines are looked at
_SYNC_SECONDS = 1.0  # between two times that results are forced to the disk
_END_SECONDS = 20.0  # that a worker's guard may take to end everything


@dataclass(frozen=True, slots=True)
class Plan:
    """What a benchmark plays.

    Attributes:
        agents, envs: who plays what; labels must be different.
        seeds: one pass for each.
        episodes: number of tasks of each environment, a fixed random sample of the split that only grows with the
            number; None: all.
        num_envs: games an agent plays at once.
        timeout: seconds for one call of the agent (or the environment), which acts in all games at once.
        keep_trajectories: write every episode down in full, for the viewer.
        panels: for environments that play the tasks of a panel, by their label: the panel and the name of its list.
            The others play the tasks of their split.
    """

    agents: tuple[Spec, ...]
    envs: tuple[Spec, ...]
    seeds: tuple[int, ...] = (0,)
    episodes: int | None = None
    num_envs: int = 16
    timeout: float = 120.0
    keep_trajectories: bool = True
    panels: Mapping[str, tuple[Panel, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, specs in (("agents", self.agents), ("environments", self.envs)):
            labels = [spec.label for spec in specs]
            twice = sorted({label for label in labels if labels.count(label) > 1})
            if not specs:
                raise ValueError(f"a benchmark needs {name}")
            if twice:
                raise ValueError(f"{name} {twice} are there twice: give them a label= each")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"seeds must be different and >= 0, got {self.seeds}")
        if self.num_envs < 1 or (self.episodes is not None and self.episodes < 1):
            raise ValueError(f"num_envs and episodes must be >= 1, got {self.num_envs} and {self.episodes}")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {self.timeout}")


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """One agent in one environment with one seed."""

    agent: Spec
    env: Spec
    seed: int

    def __str__(self) -> str:
        return f"{self.agent.label} on {self.env.label}, seed {self.seed}"


@dataclass(slots=True)
class Summary:
    """What a run of the harness did.

    Attributes:
        played, failed: episodes of this run, and those of them that are marked as failed.
        not_run: shards that could not be played at all (the agent or the environment could not be made), with the
            reason. They are tried again by the next run.
    """

    played: int = 0
    failed: int = 0
    not_run: dict[Shard, str] = field(default_factory=dict)


class Watch:
    """Told what goes on; override what you need."""

    def started(self, to_play: Mapping[Shard, int], already_there: int) -> None:
        """Before the first episode: how many are left to play in each shard, and how many earlier runs have played."""

    def finished(self, shard: Shard, result: EpisodeResult) -> None:
        """An episode is over."""

    def not_run(self, shard: Shard, reason: str) -> None:
        """A shard cannot be played."""

    def repaired(self, what: str) -> None:
        """Something in the folder was torn by an interruption and is not there any more; it will be made again."""


def choose_tasks(task_ids: Sequence[str], episodes: int | None) -> list[str]:
    """`episodes` of the tasks, in their order: the same ones every time, and among them those of any smaller number.

    Raises:
        ValueError: there are fewer.

    >>> few, more = choose_tasks("abcdefgh", 2), choose_tasks("abcdefgh", 5)
    >>> len(few), len(more), set(few) <= set(more)
    (2, 5, True)
    """
    if episodes is None:
        return list(task_ids)
    if episodes > len(task_ids):
        raise ValueError(f"{episodes} episodes were asked for and there are {len(task_ids)} tasks")
    order = TaskOrder(len(task_ids), seed=0)
    return [task_ids[number] for number in sorted(order.at(position) for position in range(episodes))]


def run(
    plan: Plan,
    out: Path,
    *,
    workers: int = 1,
    retry_failed: bool = False,
    watch: Watch | None = None,
    command: str | None = None,
) -> Summary:
    """Play what of `plan` is not in the folder `out` yet.

    Results are appended to ``episodes.jsonl`` as they come, trajectories to ``trajectories/``, what agents print to
    ``logs/``. May be interrupted at any time and called again.

    Args:
        plan: what to play.
        out: the benchmark's folder.
        workers: how many processes play at once.
        retry_failed: play failed episodes again.
        watch: told what goes on.
        command: that does this, kept with the results.

    Raises:
        FolderInUse: another process plays into this folder.
        ValueError, TypeError, ...: an environment cannot be made, or `out` holds results of other agents or
            environments under the same labels.
    """
    if workers < 1:
        raise ValueError(f"workers must be >= 1, got {workers}")
    tasks, sources = {}, {}
    for env in plan.envs:
        tasks[env.label], sources[env.label] = _look_at(env, plan.episodes, plan.panels.get(env.label))
    watch = watch or Watch()
    with hold(out):
        _take_notes(out / NOTES_FILE, plan, sources, command, watch)
        there = {r.key for r in _repair(out, watch) if not (retry_failed and r.failure)}
        shards: dict[Shard, list[str]] = {}
        already_there = 0
        for env in plan.envs:
            for seed in plan.seeds:
                for agent in plan.agents:
                    shard = Shard(agent, env, seed)
                    names = [Key(agent.label, env.label, seed, task_id) for task_id in tasks[env.label]]
                    left = [name.task_id for name in names if name not in there]
                    already_there += len(names) - len(left)
                    if left:
                        shards[shard] = left
        watch.started({shard: len(left) for shard, left in shards.items()}, already_there)
        with _Run(plan, out, workers, watch) as running:
            return running.play(shards)


def _repair(out: Path, watch: Watch) -> list[EpisodeResult]:
    """The results in a folder, after what an interruption left half written has been taken out."""
    results, problems = repair_results(out / RESULTS_FILE)
    known = {result.key for result in results}
    for file in sorted((out / TRAJECTORIES).glob("*.jsonl")):
        problems += repair_trajectories(file, known)
    for problem in problems:
        watch.repaired(problem)
    return results


def _take_notes(
    path: Path, plan: Plan, sources: Mapping[str, dict[str, Any]], command: str | None, watch: Watch
) -> None:
    """Note the plan's agents and environments and where their tasks come from, beside those of earlier runs there.

    Raises:
        ValueError: a label stands for something else there, or its tasks came from another source.
    """
    noted: dict[str, Any] = {}
    if path.exists():
        try:
            noted = _read_notes(path)
        except ValueError as error:
            watch.repaired(f"{path}: {error}")
    commands = noted.setdefault("commands", [])
    for kind, specs in (("agents", plan.agents), ("envs", plan.envs)):
        known = noted.setdefault(kind, {})
        for spec in specs:
            if known.setdefault(spec.label, str(spec)) != str(spec):
                raise ValueError(
                    f"{path.parent} has results of {spec.label!r} as {known[spec.label]!r}, and now it is "
                    f"{str(spec)!r}: give it another label=, or another folder"
                )
    data = noted.setdefault("data", {})
    for label, about in sources.items():
        before = data.get(label, about)["source"]
        if before != about["source"]:
            raise ValueError(
                f"{path.parent} has results of {label!r} on {before} tasks, and now they are {about['source']}: "
                "give it another label=, or another folder"
            )
        if label in data and data[label].get("panel_hash") != about.get("panel_hash"):
            raise ValueError(
                f"{path.parent} has results of {label!r} on the tasks of {_panel_of(data[label])}, and now they are of "
                f"{_panel_of(about)}: give it another folder"
            )
        data[label] = about
    if command and command not in commands:
        commands.append(command)
    write_file(path, json.dumps(noted, indent=2) + "\n")


def _panel_of(about: Mapping[str, Any]) -> str:
    return f"panel {about['panel']!r} version {about['panel_version']}" if "panel" in about else "no panel"


def _read_notes(path: Path) -> dict[str, Any]:
    noted = parse_json(path.read_bytes())
    kinds = {"commands": list, "agents": dict, "envs": dict, "data": dict}
    if not isinstance(noted, dict) or any(not isinstance(noted.get(k, kind()), kind) for k, kind in kinds.items()):
        raise ValueError("not the notes of a benchmark")
    return noted


def _look_at(env: Spec, episodes: int | None, panel: tuple[Panel, str] | None) -> tuple[list[str], dict[str, Any]]:
    """The tasks to play in an environment, and where they come from."""
    envs = make_envs(env.name, 1, **env.options)
    try:
        about = {"source": envs.world.source, "data": envs.world.data}
        if panel is None:
            return choose_tasks(envs.world.task_ids, episodes), about
        tasks = panel_tasks(*panel, envs.world)
        return choose_tasks(tasks, episodes), {**about, **panel[0].stamp(panel[1])}
    finally:
        envs.close()


@dataclass(slots=True, eq=False)
class _Worker:
    """A running process and what it is at."""

    shard: Shard
    job: Job
    process: subprocess.Popen[str]
    deadline: Deadline
    log: Path
    left: set[int]  # numbers of the tasks that have no result yet
    under_way: dict[int, str] = field(default_factory=dict)  # those that began and did not end, with their task types
    done: bool = False
    failure: tuple[str, str] | None = None  # (setup, agent or environment, reason)

    def kill(self) -> None:
        """End it with all that it started."""
        self.process.terminate()  # its guard does the rest
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(Path(self.job.deadline).parent, ignore_errors=True)


class _Run:
    """The state of one call of `run`: jobs that wait, workers that play, files that are open."""

    def __init__(self, plan: Plan, out: Path, workers: int, watch: Watch) -> None:
        self.plan = plan
        self.out = out
        self.places = workers
        self.watch = watch
        self.summary = Summary()
        self.waiting: deque[tuple[Shard, list[str], int]] = deque()  # shard, tasks, num_envs
        self.workers: list[_Worker] = []
        self.events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        self.pending: list[tuple[Shard, EpisodeResult, Sequence[str]]] = []
        self.synced = 0.0
        make_folder(out / LOGS)
        if plan.keep_trajectories:
            make_folder(out / TRAJECTORIES)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            for worker in self.workers:
                worker.kill()
        finally:
            self._save()

    def play(self, shards: Mapping[Shard, list[str]]) -> Summary:
        self.waiting.extend((shard, tasks, self.plan.num_envs) for shard, tasks in shards.items())
        while self.waiting or self.workers:
            while self.waiting and len(self.workers) < self.places:
                self._start(*self.waiting.popleft())
            try:
                worker, event = self.events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                pass
            else:
                if event is None:
                    self._replace(worker)
                else:
                    self._note(worker, event)
            for worker in self.workers:
                self._check_deadline(worker)
            if time.monotonic() - self.synced > _SYNC_SECONDS:
                self._save()
        return self.summary

    def _start(self, shard: Shard, task_ids: Sequence[str], num_envs: int) -> None:
        if shard in self.summary.not_run:
            return
        path = Path(tempfile.mkdtemp(prefix=f"opid-gym-bench-{os.getpid()}-"), "deadline")
        job = Job(fill(shard.agent, shard.env), shard.env, shard.seed, tuple(task_ids), num_envs, str(path))
        deadline = Deadline(path)
        deadline.enter("setup")
        log = self.out / LOGS / f"{_file_name(shard)}.log"
        with open(log, "ab") as log_file:
            process = subprocess.Popen(
                guarded([sys.executable, "-m", "opid_gym.bench.worker"], remove=[str(path.parent)]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                encoding="utf-8",
                env=_environment(self.places),
                start_new_session=True,
            )
        worker = _Worker(shard, job, process, deadline, log, set(range(len(task_ids))))
        self.workers.append(worker)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdin is not None
        assert worker.process.stdout is not None
        try:
            worker.process.stdin.write(worker.job.to_json() + "\n")
            worker.process.stdin.flush()
            for line in worker.process.stdout:
                self.events.put((worker, json.loads(line)))
        except (OSError, ValueError):  # it was killed in the middle of a line
            pass
        self.events.put((worker, None))

    def _note(self, worker: _Worker, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "begin":
            worker.under_way[event["task"]] = ""
        elif kind == "begun":
            worker.under_way[event["task"]] = event["task_type"]
        elif kind == "pause":
            del worker.under_way[event["task"]]
        elif kind == "end":
            del worker.under_way[event["task"]]
            lines = event["trajectories"] if self.plan.keep_trajectories else ()
            self._write(worker.shard, EpisodeResult(**event["result"]), lines)
            worker.left.remove(event["task"])
        else:
            if kind == "failed":
                worker.failure = (event["during"], event["reason"])
            else:
                worker.done = True
            worker.kill()  # it has said all; threads that an agent left behind could keep it from leaving by itself

    def _check_deadline(self, worker: _Worker) -> None:
        phase, since = worker.deadline.read()
        allowed = SETUP_SECONDS if phase == "setup" else self.plan.timeout
        if worker.failure is None and not worker.done and time.monotonic() - since > allowed:
            what = "making it" if phase == "setup" else "one call"
            worker.failure = (phase, f"took longer than {allowed:g} s for {what}")
            worker.kill()  # its last events are still read, then `_replace` is called

    def _replace(self, worker: _Worker) -> None:
        """A worker is gone. If its work was not done, blame an episode or find out which, and go on with the rest."""
        self.workers.remove(worker)
        worker.kill()
        if worker.done or not worker.left:
            return
        where, reason = worker.failure or ("agent", _how_it_ended(worker.process.returncode))
        if where == "setup" or not worker.under_way:
            self._give_up(worker.shard, f"{reason} (see {worker.log})")
            return
        suspects = sorted(worker.under_way)
        rest = sorted(worker.left - set(suspects))
        if len(suspects) == 1:
            [number] = suspects
            shard = worker.shard
            self._write(
                shard,
                EpisodeResult(
                    shard.agent.label,
                    shard.env.label,
                    shard.seed,
                    worker.job.task_ids[number],
                    worker.under_way[number],
                    failure=f"{where}: {reason}",
                ),
            )
        else:
            self._wait(worker, suspects, num_envs=1)
        self._wait(worker, rest, worker.job.num_envs)

    def _wait(self, worker: _Worker, numbers: Sequence[int], num_envs: int) -> None:
        if numbers:
            self.waiting.appendleft((worker.shard, [worker.job.task_ids[number] for number in numbers], num_envs))

    def _give_up(self, shard: Shard, reason: str) -> None:
        self.summary.not_run[shard] = reason
        self.watch.not_run(shard, reason)

    def _write(self, shard: Shard, result: EpisodeResult, trajectories: Sequence[str] = ()) -> None:
        self.pending.append((shard, result, trajectories))
        self.summary.played += 1
        self.summary.failed += result.failure is not None
        self.watch.finished(shard, result)

    def _save(self) -> None:
        """Write what is pending: first the trajectories, and when they are on the disk, the results that count them."""
        self.synced = time.monotonic()
        of_shards: dict[Shard, list[str]] = {}
        for shard, _, trajectories in self.pending:
            of_shards.setdefault(shard, []).extend(trajectories)
        for shard, lines in of_shards.items():
            if lines:
                append_lines(self.out / TRAJECTORIES / f"{_file_name(shard)}.jsonl", lines)
        if self.pending:
            append_lines(self.out / RESULTS_FILE, [result.to_json() for _, result, _ in self.pending])
            self.pending.clear()


def fill(agent: Spec, env: Spec) -> Spec:
    """`agent` with ``{env}`` in its options replaced by the environment's label, of which the last part is taken.

    >>> fill(Spec("sb3", {"path": "runs/{env}"}), Spec("opid/ALFWorld-v0")).options
    {'path': 'runs/ALFWorld-v0'}
    """
    name = env.label.rpartition("/")[2]
    filled = {k: v.replace("{env}", name) if isinstance(v, str) else v for k, v in agent.options.items()}
    return Spec(agent.name.replace("{env}", name), filled, agent.label)


def _how_it_ended(code: int) -> str:
    if code < 0:
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process ended with exit code {code}"


def _environment(workers: int) -> dict[str, str]:
    """Numerical libraries would otherwise start as many threads in each worker as there are cores."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers)), **os.environ}


def _file_name(shard: Shard) -> str:
    return re.sub(r"[^\w.-]+", "-", f"{shard.agent.label}@{shard.env.label}-{shard.seed}")
