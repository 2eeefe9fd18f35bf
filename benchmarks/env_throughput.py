"""How fast an environment is, next to the original it reproduces: same games, same actions, one run.

    python benchmarks/env_throughput.py --env alfworld --against stock --json

Ours is measured as a user meets it, through ``gymnasium.make`` (one game, as the original plays) and through
``gymnasium.make_vec``, every step with its admissible actions in ``info``; the original through its own interface,
admissible commands included. All times are CPU time of this process (``time.process_time``), figures are medians.
Progress goes to stderr; with ``--json`` the last line of stdout is one JSON object, otherwise tables are printed.

- *first reset*: a game file nobody has looked at, until the first observation is there (making the environment
  included).
- *reset*: the same game again, until the first observation is there.
- *step*: one action, until the observation and the next admissible actions are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.progress import track
from rich.table import Table

import opid_gym
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.problem import Problem, load_problem
from opid_gym_envs.alfworld.stock import StockEngine

gym.register_envs(opid_gym)
SHARED_GAMES = Path(__file__).resolve().parents[1] / "tests" / "data" / "alfworld"
STEPS = 30
NUM_ENVS = (1, 8, 32, 128)
progress = Console(stderr=True)

Episode = list[str]  # actions
Transcript = list[tuple[str, tuple[str, ...]]]  # observation and admissible actions, from the reset on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=sorted(BENCHMARKS), required=True, help="which environment")
    parser.add_argument("--against", choices=["stock"], help="also run the original (it must be installed)")
    parser.add_argument("--seconds", type=float, default=60.0, help="roughly how long the original may run")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")
    parser.add_argument("--child", choices=["memory"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    benchmark = BENCHMARKS[arguments.env]
    if arguments.child:
        print(json.dumps(benchmark.memory()))
        return
    try:
        speed = benchmark.speed(arguments.seconds if arguments.against else None)
    except ImportError as error:
        parser.error(str(error))
    figures = {
        "env": arguments.env,
        "machine": machine(),
        **speed,
        "memory_128_games": in_fresh_process(arguments.env, "memory"),
        "by_size": benchmark.by_size(),
        "by_num_envs": benchmark.by_num_envs(),
    }
    if arguments.json:
        print(json.dumps(figures))
    else:
        print_tables(figures)


def machine() -> dict[str, Any]:
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(), "system": sys.platform}


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def in_fresh_process(env: str, child: str) -> Any:
    """Run a part of this script in a process of its own, so that nothing measured before weighs on it."""
    command = [sys.executable, __file__, "--env", env, "--child", child]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------------------------------------------- ALFWorld


@dataclass(frozen=True)
class Sample:
    """CPU seconds of one visit to one game."""

    first_reset: float
    resets: tuple[float, ...]
    steps: float  # for the whole episode
    count: int


def alfworld_speed(stock_seconds: float | None) -> dict[str, Any]:
    """Both sides on the same real-size games with the same actions, game by game in turn."""
    samples: dict[str, list[Sample]] = {"ours": [], "ours_vector": []}
    if stock_seconds is not None:
        samples["stock"] = []
    identical = True
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        games = real_size_games(Path(folder))
        for seed, path in enumerate(track(games, "speed", console=progress)):
            if stock_seconds is not None and seed > 1 and time.monotonic() - begin > stock_seconds:
                break
            actions = random_episode(path, seed)
            transcripts = []
            for name in samples:
                visits, transcript = (
                    play_stock(path, actions) if name == "stock" else play_ours(path, actions, APIS[name])
                )
                samples[name] += visits
                transcripts.append(transcript)
            identical &= all(transcript == transcripts[0] for transcript in transcripts)
    figures: dict[str, Any] = {name: summary(visits) for name, visits in samples.items()}
    figures["identical_transcripts"] = identical
    if stock_seconds is not None:
        stock = figures["stock"]
        for suffix, ours in (("", figures["ours"]), ("_vector", figures["ours_vector"])):
            figures["steps_ratio" + suffix] = round(stock["step_us"] / ours["step_us"], 1)
            figures["first_resets_ratio" + suffix] = round(stock["first_reset_ms"] / ours["first_reset_ms"], 1)
            figures["resets_ratio" + suffix] = round(stock["reset_ms"] / ours["reset_ms"], 1)
    return figures


def real_size_games(folder: Path) -> list[Path]:
    """The public real kitchen with its five tasks, and as many generated games of real size."""
    with tarfile.open(SHARED_GAMES / "games.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    real = sorted((folder / "valid_seen").rglob("game.tw-pddl"))
    made = [export_game(generate(seed, size="real"), folder / "generated") for seed in range(len(real))]
    return [path for pair in zip(real, made, strict=True) for path in pair]


def random_episode(path: Path, seed: int) -> Episode:
    """Random admissible actions, up to a win or STEPS."""
    rng = random.Random(seed)
    engine = Engine(Game.compile(load_problem(path)))
    actions: Episode = []
    while len(actions) < STEPS and not (engine.won and actions):
        actions.append(rng.choice(engine.admissible_commands()))
        engine.step(actions[-1])
    return actions


def play_stock(path: Path, actions: Episode) -> tuple[list[Sample], Transcript]:
    made, engine = cpu_seconds(lambda: StockEngine(path))
    first, observation = cpu_seconds(engine.reset)
    again = tuple(cpu_seconds(engine.reset)[0] for _ in range(2))
    shown = (observation, engine.admissible_commands())
    steps, rest = cpu_seconds(lambda: [(engine.step(action), engine.admissible_commands()) for action in actions])
    engine.close()
    return [Sample(made + first, again, steps, len(actions))], [shown, *rest]


class Vector:
    """``make_vec`` with one game."""

    def __init__(self, path: Path) -> None:
        self.envs = gym.make_vec("opid/ALFWorld-v0", num_envs=1, games=[path])

    def reset(self) -> tuple[str, tuple[str, ...]]:
        observations, infos = self.envs.reset()
        return observations[0], infos["admissible_actions"][0]

    def step(self, action: str) -> tuple[str, tuple[str, ...]]:
        observations, _, _, _, infos = self.envs.step([action])
        return observations[0], infos["admissible_actions"][0]


class Single:
    """``make``."""

    def __init__(self, path: Path) -> None:
        self.env = gym.make("opid/ALFWorld-v0", games=[path])

    def reset(self) -> tuple[str, tuple[str, ...]]:
        observation, info = self.env.reset()
        return observation, info["admissible_actions"]

    def step(self, action: str) -> tuple[str, tuple[str, ...]]:
        observation, _, _, _, info = self.env.step(action)
        return observation, info["admissible_actions"]


APIS: dict[str, type[Vector] | type[Single]] = {"ours": Single, "ours_vector": Vector}


def play_ours(
    path: Path, actions: Episode, api: type[Vector] | type[Single], rounds: int = 20
) -> tuple[list[Sample], Transcript]:
    samples: list[Sample] = []
    transcript: Transcript = []
    for _ in range(rounds):

        def first_reset() -> tuple[Vector | Single, tuple[str, tuple[str, ...]]]:
            env = api(path)
            return env, env.reset()

        first, (env, shown) = cpu_seconds(first_reset)
        again = tuple(cpu_seconds(env.reset)[0] for _ in range(5))
        steps, rest = cpu_seconds(lambda env=env: [env.step(action) for action in actions])  # type: ignore[misc]
        samples.append(Sample(first, again, steps, len(actions)))
        transcript = [shown, *rest]
    return samples, transcript


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    step = median(sample.steps / sample.count for sample in samples)
    return {
        "step_us": round(step * 1e6, 2),
        "steps_per_s": round(1 / step, 1),
        "first_reset_ms": round(median(sample.first_reset for sample in samples) * 1e3, 3),
        "reset_ms": round(median(seconds for sample in samples for seconds in sample.resets) * 1e3, 4),
        "steps": sum(sample.count for sample in samples),
        "visits": len(samples),
    }


def alfworld_memory() -> dict[str, Any]:
    """Peak memory of 128 different real-size games at once, after some play, in this process."""
    before = peak_megabytes()
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=128, size="real")
    _, infos = envs.reset(seed=0)
    rng = random.Random(0)
    for _ in range(50):
        _, _, _, _, infos = envs.step([rng.choice(actions or ("look",)) for actions in infos["admissible_actions"]])
    return {"peak_mb": round(peak_megabytes(), 1), "of_which_imports_mb": round(before, 1)}


def peak_megabytes() -> float:
    # Linux counts into ru_maxrss what the parent process held; its own high-water mark does not.
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def alfworld_by_size() -> list[dict[str, Any]]:
    """How cost grows with the game: generated games, and a real-size one with everything in it two to eight times."""
    base = generate(1, size="real")
    problems = [("small", generate(1, size="small")), ("real", base)]
    problems += [(f"real x {times}", enlarged(base, times)) for times in (2, 4, 8)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, problem in track(problems, "by size", console=progress):
            path = export_game(problem, Path(folder))
            game = Game.compile(problem)
            samples, _ = play_ours(path, random_episode(path, seed=0), Vector)
            figures = summary(samples)
            sizes = {"game": name, "receptacles": len(game.receptacles), "objects": len(game.objects)}
            rows.append({**sizes, **{key: figures[key] for key in ("step_us", "first_reset_ms", "reset_ms")}})
    return rows


def enlarged(problem: Problem, times: int) -> Problem:
    """The same household with each receptacle, object and place several times."""

    def renamed(fact: tuple[str, ...], number: int) -> tuple[str, ...]:
        return (fact[0], *(f"{word}_bar_{number}" if number and "_bar_" in word else word for word in fact[1:]))

    facts = [renamed(fact, number) for number in range(times) for fact in problem.facts]
    facts = [fact for fact in facts if fact[0] != "atlocation" or fact in problem.facts]
    return replace(problem, id=f"enlarged/{times}", facts=tuple(dict.fromkeys(facts)))


def alfworld_by_num_envs() -> list[dict[str, Any]]:
    """How the cost of a step grows with the number of games stepped together."""
    rows = []
    for number in track(NUM_ENVS, "by number of games", console=progress):
        envs = gym.make_vec("opid/ALFWorld-v0", num_envs=number, size="real", max_episode_steps=10_000)
        _, infos = envs.reset(seed=0)
        rng = random.Random(0)
        costs = []
        for _ in range(max(40, 2000 // number)):
            actions = [rng.choice(known or ("look",)) for known in infos["admissible_actions"]]
            seconds, (_, _, _, _, infos) = cpu_seconds(lambda envs=envs, actions=actions: envs.step(actions))  # type: ignore[misc]
            costs.append(seconds / number)
        cost = median(costs)
        rows.append({"num_envs": number, "step_us_per_env": round(cost * 1e6, 2), "steps_per_s": round(1 / cost)})
    return rows


# ------------------------------------------------------------------------------------------------------ output


def print_tables(figures: dict[str, Any]) -> None:
    console = Console()
    console.print(f"{figures['env']} on {figures['machine']['cpu']}, Python {figures['machine']['python']}, one core")
    names = {"ours": "ours (make)", "ours_vector": "ours (make_vec, one game)", "stock": "original"}
    keys = {"step_us": "steps_ratio", "first_reset_ms": "first_resets_ratio", "reset_ms": "resets_ratio"}
    rows = [{"": title, **figures[name]} for name, title in names.items() if name in figures]
    if "steps_ratio" in figures:
        for name, suffix in (("ours (make)", ""), ("ours (make_vec, one game)", "_vector")):
            times = {key: f"{figures[ratio + suffix]:.0f}x" for key, ratio in keys.items()}
            rows.append({"": f"original / {name}", **times})
    print_table(console, "speed (CPU time, medians)", rows)
    print_table(console, "memory of 128 real-size games in one process", [figures["memory_128_games"]])
    print_table(console, "cost by size of the game", figures["by_size"])
    print_table(console, "cost by number of games", figures["by_num_envs"])


def print_table(console: Console, title: str, rows: Iterable[dict[str, Any]]) -> None:
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in rows[0]))
    console.print(table)


@dataclass(frozen=True)
class Benchmark:
    """What is measured of one environment.

    Attributes:
        speed: both sides' figures and their ratios, given the seconds the original may take (None: only ours).
        memory: peak memory of 128 games; run in a process of its own.
        by_size: cost for games of growing size.
        by_num_envs: cost for growing batches.
    """

    speed: Callable[[float | None], dict[str, Any]]
    memory: Callable[[], dict[str, Any]]
    by_size: Callable[[], list[dict[str, Any]]]
    by_num_envs: Callable[[], list[dict[str, Any]]]


BENCHMARKS = {
    "alfworld": Benchmark(alfworld_speed, alfworld_memory, alfworld_by_size, alfworld_by_num_envs),
}

if __name__ == "__main__":
    main()
