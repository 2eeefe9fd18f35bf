"""Household games against stock ALFWorld."""

from __future__ import annotations

import random
import tarfile
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
from rich.progress import track

from opid_gym.console import talk as progress
from opid_gym_envs.alfworld.engine import Engine
from opid_gym_envs.alfworld.export import export_game
from opid_gym_envs.alfworld.game import Game
from opid_gym_envs.alfworld.generator import generate
from opid_gym_envs.alfworld.problem import Problem, load_problem
from opid_gym_envs.alfworld.stock import StockEngine
from throughput.common import (
    Arguments,
    Benchmark,
    Sample,
    Transcript,
    cpu_seconds,
    peak_megabytes,
    ratios,
    summary,
)

SHARED_GAMES = Path(__file__).resolve().parents[2] / "tests" / "data" / "alfworld"
STEPS = 30
NUM_ENVS = (1, 8, 32, 128)

Episode = list[str]  # actions


def speed(arguments: Arguments) -> dict[str, Any]:
    """Both sides on the same real-size games with the same actions, game by game in turn."""
    samples: dict[str, list[Sample]] = {"ours": [], "ours_vector": []}
    if arguments.against_stock:
        samples["stock"] = []
    identical = True
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        games = real_size_games(Path(folder))
        for seed, path in enumerate(track(games, "speed", console=progress)):
            if arguments.against_stock and seed > 1 and time.monotonic() - begin > arguments.seconds:
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
    if arguments.against_stock:
        figures |= ratios(figures)
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
    """Play one episode in stock ALFWorld: CPU seconds, and everything it showed."""
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
        """Begin a new episode; returns the observation and the admissible actions."""
        observations, infos = self.envs.reset()
        return observations[0], infos["admissible_actions"][0]

    def step(self, action: str) -> tuple[str, tuple[str, ...]]:
        """Take one action; returns the observation and the admissible actions."""
        observations, _, _, _, infos = self.envs.step([action])
        return observations[0], infos["admissible_actions"][0]


class Single:
    """``make``."""

    def __init__(self, path: Path) -> None:
        self.env = gym.make("opid/ALFWorld-v0", games=[path])

    def reset(self) -> tuple[str, tuple[str, ...]]:
        """Begin a new episode; returns the observation and the admissible actions."""
        observation, info = self.env.reset()
        return observation, info["admissible_actions"]

    def step(self, action: str) -> tuple[str, tuple[str, ...]]:
        """Take one action; returns the observation and the admissible actions."""
        observation, _, _, _, info = self.env.step(action)
        return observation, info["admissible_actions"]


APIS: dict[str, type[Vector] | type[Single]] = {"ours": Single, "ours_vector": Vector}


def play_ours(
    path: Path, actions: Episode, api: type[Vector] | type[Single], rounds: int = 20
) -> tuple[list[Sample], Transcript]:
    """Play one episode `rounds` times through `api`: CPU seconds of each round, and everything it showed."""
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


def memory() -> dict[str, Any]:
    """Peak memory of 128 different real-size games at once, after some play, in this process."""
    before = peak_megabytes()
    envs = gym.make_vec("opid/ALFWorld-v0", num_envs=128, size="real")
    _, infos = envs.reset(seed=0)
    rng = random.Random(0)
    for _ in range(50):
        _, _, _, _, infos = envs.step([rng.choice(actions or ("look",)) for actions in infos["admissible_actions"]])
    return {"peak_mb": round(peak_megabytes(), 1), "of_which_imports_mb": round(before, 1)}


def by_size(arguments: Arguments) -> list[dict[str, Any]]:
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


def by_num_envs() -> list[dict[str, Any]]:
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


ALFWORLD = Benchmark(speed, memory, by_size, by_num_envs)
