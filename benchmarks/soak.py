"""Plays for long in one process, and reports how memory grows: kilobytes a million steps, by a straight line.

    python -m benchmarks.soak --steps 10000000 --json            # of households and of the shop
    python -m benchmarks.soak --env opid/SearchQA-v0 --steps 3000000

Sixteen games at once, random admissible actions; where a world lists none, searches and answers in turn. The first
tenth does not count: caches fill then.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any

import gymnasium as gym
import numpy as np
import psutil

import opid_gym  # noqa: F401  (registers the environments)

GAMES = 16
LOOKS = 200
WORDS = ("capital", "river", "population", "red", "cotton", "shirt", "border", "language")
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "opid/ALFWorld-v0": {"size": "small"},
    "opid/WebShop-v0": {"num_products": 1000},
    "opid/SearchQA-v0": {},
}


def soak(name: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """Play `steps` steps; returns what was played, the seconds, and the growth."""
    rng = random.Random(seed)
    envs = gym.make_vec(name, num_envs=GAMES, **ENVIRONMENTS[name])
    _, infos = envs.reset(seed=seed)
    process, seen = psutil.Process(), []
    rounds = -(-steps // GAMES)
    started = time.perf_counter()
    for number in range(rounds):
        listed = infos.get("admissible_actions", [None] * GAMES)
        _, _, _, _, infos = envs.step([_action(rng, actions) for actions in listed])
        if number % max(1, rounds // LOOKS) == 0:
            seen.append((number * GAMES / 1e6, process.memory_info().rss / 1024))
    seconds = time.perf_counter() - started
    envs.close()
    counted = seen[len(seen) // 10 :]
    slope = float(np.polyfit(*zip(*counted, strict=True), 1)[0]) if len(counted) > 1 else float("nan")
    return {
        "steps": rounds * GAMES,
        "seconds": round(seconds, 1),
        "megabytes": round(seen[-1][1] / 1024, 1),
        "kilobytes_a_million_steps": round(slope, 1),
    }


def _action(rng: random.Random, actions: Any) -> str:
    if actions:
        return str(rng.choice(list(actions)))
    word = rng.choice(WORDS)
    return f"<search>{word}</search>" if rng.random() < 0.7 else f"<answer>{word}</answer>"


def main() -> None:
    """Soak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000, help="of each environment")
    parser.add_argument("--env", action="append", choices=ENVIRONMENTS, help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    found = {}
    for name in arguments.env or ("opid/ALFWorld-v0", "opid/WebShop-v0"):
        found[name] = soak(name, arguments.steps)
        print(f"{name}: {found[name]}", file=sys.stderr)
    print(json.dumps(found) if arguments.json else found)


if __name__ == "__main__":
    main()
