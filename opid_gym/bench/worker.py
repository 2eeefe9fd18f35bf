"""A process that plays the tasks of one job and says what happens, one line of JSON an event, on standard output.

It is a process of its own so that it can be ended: Python code that hangs cannot be interrupted from inside. The parent
(`opid_gym.bench.harness`) starts it, writes a `Job` to its standard input, and reads the `Deadline` to see how long the
agent or the environment has been at it. Whatever the agent prints goes to standard error, which the parent keeps as a
log.

Events (``i`` is the number of a task in the job)::

    {"event": "begin", "task": i}                      the environment is about to reset a game to it
    {"event": "begun", "task": i, "task_type": text}   and has done so
    {"event": "pause", "task": i}                      not solved, the agent gets another trial later
    {"event": "end", "task": i, "result": {...}, "trajectories": [...]}
    {"event": "done"}                                  all are ended
    {"event": "failed", "during": phase, "reason": text}
"""

from __future__ import annotations

import json
import mmap
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from opid_gym.agent import Agent, Decision
from opid_gym.bench.results import make_result
from opid_gym.named import explain_missing
from opid_gym.registration import make_envs
from opid_gym.rollout import play
from opid_gym.roster import Spec, find_agent, make_agent, plays_one_game
from opid_gym.trajectory import Trajectory

PHASES = ("setup", "agent", "environment")


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker plays.

    Attributes:
        agent, env: what is made.
        seed: of the agent.
        task_ids: each is played once.
        num_envs: games played at once. A function is given one, whatever stands here.
        deadline: file of the `Deadline`.
    """

    agent: Spec
    env: Spec
    seed: int
    task_ids: tuple[str, ...]
    num_envs: int
    deadline: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Read what `to_json` wrote."""
        raw = json.loads(line)
        raw |= {"agent": Spec(**raw["agent"]), "env": Spec(**raw["env"]), "task_ids": tuple(raw["task_ids"])}
        return cls(**raw)


class Deadline:
    """Since when a worker has been in which phase: two numbers in a file that both processes map.

    The worker pays nanoseconds for it, and the parent can read it whatever the worker is stuck in.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     Deadline(file.name).enter("agent")
    ...     phase, since = Deadline(file.name).read()
    >>> phase
    'agent'
    """

    def __init__(self, path: str | Path) -> None:
        with open(path, "ab") as file:
            file.truncate(16)
        with open(path, "r+b") as file:
            # Each number is stored at once; `struct.pack_into` would fill its target with zeros first.
            self._numbers = memoryview(mmap.mmap(file.fileno(), 16)).cast("d")

    def enter(self, phase: str) -> None:
        """A phase begins now."""
        # In this order: whoever reads in between sees the phase before, but as if it had just begun.
        self._numbers[0] = time.monotonic()
        self._numbers[1] = PHASES.index(phase)

    def read(self) -> tuple[str, float]:
        """The phase, and when it began on the clock of `time.monotonic`."""
        return PHASES[int(self._numbers[1])], self._numbers[0]


class AgentFailure(Exception):
    """The agent raised or returned nonsense; the message says what."""


class _WatchedAgent:
    """An agent whose calls are timed, and whose mistakes are told from the environment's."""

    def __init__(self, agent: Agent, deadline: Deadline) -> None:
        self._agent = agent
        self._deadline = deadline
        self.trials = int(getattr(agent, "trials", 1))

    def on_trajectory(self, trajectory: Trajectory) -> None:
        """Tell agents that look back what became of their game."""
        if hasattr(self._agent, "on_trajectory"):
            self._call(self._agent.on_trajectory, trajectory)

    def reset(self, mask: NDArray[np.bool_]) -> None:
        self._call(self._agent.reset, mask)

    def act(self, observations: Sequence[str], infos: Mapping[str, Any]) -> list[Decision]:
        active = infos["_task"]
        started = time.perf_counter()
        replies = self._call(self._agent.act, observations, infos)
        share = {"seconds": (time.perf_counter() - started) / max(int(active.sum()), 1)}
        if isinstance(replies, str) or not hasattr(replies, "__len__") or len(replies) != len(observations):
            got = repr(replies)[:100] if isinstance(replies, str) or not hasattr(replies, "__len__") else len(replies)
            raise AgentFailure(f"act returned {got} actions for {len(observations)} games")
        decisions = []
        for game, reply in enumerate(replies):
            if not active[game]:
                decisions.append(Decision(""))
            elif isinstance(reply, str):
                decisions.append(Decision(reply, data=share))
            elif isinstance(reply, Decision) and isinstance(reply.action, str):
                decisions.append(replace(reply, data={**reply.data, **share}))
            else:
                raise AgentFailure(f"act returned a {type(reply).__name__} as an action: {reply!r:.100}")
        self._deadline.enter("environment")
        return decisions

    def _call(self, method: Callable[..., Any], *arguments: Any) -> Any:
        self._deadline.enter("agent")
        try:
            return method(*arguments)
        except Exception as error:
            traceback.print_exc()
            raise AgentFailure(f"{method.__name__} raised {type(error).__name__}: {error}") from error
        finally:
            self._deadline.enter("environment")


class _WatchedEnv(VectorWrapper):  # generic in Gymnasium 1.4 and later only
    """Says which task begins before its game does, so that a world that breaks on it can be blamed on it."""

    def __init__(self, env: VectorEnv[Any, Any, Any], say: Callable[..., None], numbers: Mapping[str, int]) -> None:
        super().__init__(env)
        self._say = say
        self._numbers = numbers

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        assert options is not None
        begun = {game: self._numbers[options["task_ids"][game]] for game in np.flatnonzero(options["reset_mask"])}
        for number in begun.values():
            self._say(event="begin", task=number)
        observations, infos = self.env.reset(seed=seed, options=options)
        for game, number in begun.items():
            self._say(event="begun", task=number, task_type=infos["task_type"][game])
        return observations, infos


def work(job: Job, say: Callable[..., None]) -> None:
    """Play a job; `say` gets the events as keyword arguments."""
    deadline = Deadline(job.deadline)
    deadline.enter("setup")
    during = "setup"
    numbers = {task_id: number for number, task_id in enumerate(job.task_ids)}
    try:
        found, _ = find_agent(job.agent)
        num_envs = 1 if plays_one_game(found) else min(job.num_envs, len(job.task_ids))
        envs = make_envs(job.env.name, num_envs, **{"seed": job.seed, **job.env.options})
        agent = make_agent(job.agent, envs, seed=job.seed)
        during = "play"
        watched = _WatchedEnv(envs, say, numbers)
        deadline.enter("environment")
        _play(job, watched, _WatchedAgent(agent, deadline), say, numbers)
        deadline.enter("setup")
        envs.close()
    except Exception as error:
        traceback.print_exc()
        where = "agent" if isinstance(error, AgentFailure) else "setup" if during == "setup" else "environment"
        message = explain_missing(error) if isinstance(error, ModuleNotFoundError) else str(error)
        reason = message if where == "agent" else f"{type(error).__name__}: {message}"
        say(event="failed", during=where, reason=reason)
    else:
        say(event="done")


def _play(
    job: Job,
    envs: VectorEnv[Any, Any, Any],
    agent: _WatchedAgent,
    say: Callable[..., None],
    numbers: Mapping[str, int],
) -> None:
    """Play every task; one that an agent with further `trials` did not solve comes again after the others."""
    earlier: dict[str, list[Trajectory]] = {}
    waiting: list[str] = list(job.task_ids)
    for trial in range(agent.trials):
        again = []
        for trajectory in play(envs, agent, waiting):
            del trajectory.metadata["index"]  # of the tasks that this trial has left
            played_as = {"agent": job.agent.label, "env": job.env.label, "seed": job.seed, "trial": trial}
            trajectory.metadata = {**played_as, **trajectory.metadata}
            played = earlier.setdefault(trajectory.task_id, [])
            played.append(trajectory)
            agent.on_trajectory(trajectory)
            if trajectory.success or trial + 1 == agent.trials:
                result = make_result(job.agent.label, job.env.label, job.seed, played)
                say(
                    event="end",
                    task=numbers[trajectory.task_id],
                    result=asdict(result),
                    trajectories=[trajectory.to_json() for trajectory in played],
                )
                del earlier[trajectory.task_id]
            else:
                say(event="pause", task=numbers[trajectory.task_id])
                again.append(trajectory.task_id)
        waiting = sorted(again, key=lambda task_id: numbers[task_id])


def main() -> None:
    """Entry point of the process."""
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What an agent prints must not get between the events, and what it asks for at the keyboard nobody answers.
    os.dup2(2, 1)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    job = Job.from_json(orders.readline())

    def say(**event: Any) -> None:
        events.write(json.dumps(event) + "\n")
        events.flush()

    work(job, say)


if __name__ == "__main__":
    main()
