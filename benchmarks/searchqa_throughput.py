"""How fast search QA plays, and what it brings to answer the queries of all games with one retrieval call.

    python benchmarks/searchqa_throughput.py --json

The factbook's questions are played by the expert, three passages a search. A *step* is one action of one game; more
than half of them search. Medians over rounds that take turns, so that whatever else the machine does falls on all rows
alike: of the CPU time of this process (``time.process_time``) where the retriever is in it (``--retriever bm25``, the
default), of the time on the clock where it is a server (``--retriever http://...``). Progress goes to stderr; with
``--json`` the last line of stdout is one JSON object, otherwise a table is printed.

- *make*: N games of ``gymnasium.make``, stepped one after the other: a retrieval call for each.
- *make_vec*: the same N games as one vector environment: one retrieval call for all.
- *groups*: the same with eight rollouts of each question, as learners play them: equal queries are asked once.
- *search only*: the queries of those steps given to the retriever in one call, nothing around it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode
from rich.progress import track
from rich.table import Table
from throughput.common import machine, progress

import opid_gym
from opid_gym.console import out
from opid_gym_envs.searchqa.env import SearchQA

gym.register_envs(opid_gym)
ENV = "opid/SearchQA-v0"
NUM_ENVS = (1, 32, 128)
GROUP = 8
ROUNDS = 7

Round = Callable[[], int]  # plays, and says how many steps that was


def main() -> None:
    """Measure steps a second for growing numbers of games and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retriever", default="bm25", help="name of an engine, or address of a search server")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    begin = time.process_time()
    world = SearchQA(split="test", retriever=arguments.retriever)
    opened = time.process_time() - begin
    clock = time.perf_counter if "://" in arguments.retriever else time.process_time
    figures = {
        "env": ENV,
        "retriever": arguments.retriever,
        "machine": machine(),
        "questions": len(world.task_ids),
        "open_seconds": round(opened, 3),
        "by_num_envs": [row(world, number, clock) for number in track(NUM_ENVS, "games", console=progress)],
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print_table(figures)


def row(world: SearchQA, number: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Steps a second of each way to play, with so many games."""
    games = world.task_ids[:number]
    rounds: dict[str, Round] = {
        "make": singles(world, games),
        "make_vec": vector(world, games),
        "search only": searches(world, games),
    }
    if number % GROUP == 0:
        rounds["groups"] = vector(world, [games[i - i % GROUP] for i in range(number)])
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for _ in range(ROUNDS):
        for name, play in rounds.items():
            begin = clock()
            steps = play()
            seconds[name].append((clock() - begin) / steps)
    rates = {name: round(1 / median(each)) for name, each in seconds.items()}
    return {"num_envs": number, **rates, "make_vec / make": round(rates["make_vec"] / rates["make"], 2)}


def singles(world: SearchQA, games: Any) -> Round:
    """A round in which the expert plays the games one after the other, each in an environment of ``make``."""
    envs = [gym.make(ENV, split="test", retriever=world.retriever) for _ in games]

    def play() -> int:
        steps = 0
        for env, task_id in zip(envs, games, strict=True):
            env.reset(options={"task_id": task_id})
        running = list(envs)
        while running:
            steps += len(running)
            ends = [env.step(env.unwrapped.expert_action())[2:4] for env in running]  # type: ignore[attr-defined]
            running = [env for env, end in zip(running, ends, strict=True) if not any(end)]
        return steps

    return play


def vector(world: SearchQA, games: Any) -> Round:
    """A round in which the expert plays all games side by side in one ``make_vec``."""
    envs = gym.make_vec(
        ENV,
        num_envs=len(games),
        split="test",
        retriever=world.retriever,
        autoreset_mode=AutoresetMode.DISABLED,
        max_episode_steps=4,
    )

    def play() -> int:
        envs.reset(options={"task_ids": list(games)})
        running = [True] * len(games)
        steps = 0
        while any(running):
            steps += sum(running)
            actions = envs.unwrapped.expert_actions(running)  # type: ignore[attr-defined]
            _, _, ended, cut, _ = envs.step(actions)
            running = [was and not (a or b) for was, a, b in zip(running, ended, cut, strict=True)]
        return steps

    return play


def searches(world: SearchQA, games: Any) -> Round:
    """A round of one search for each game, all in one batch and without an environment."""
    queries = [ways[0] for task_id in games for ways in world.question(task_id).queries]

    def search() -> int:
        world.retriever.search(queries, world.topk)
        return len(queries)

    return search


def print_table(figures: dict[str, Any]) -> None:
    """Print the figures as a table, one row for each number of games."""
    rows = figures["by_num_envs"]
    table = Table(title=f"{figures['env']} on {figures['retriever']}, steps a second ({figures['machine']['cpu']})")
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        table.add_column(key.replace("_envs", " envs"), justify="right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in keys))
    out.print(table)


if __name__ == "__main__":
    main()
