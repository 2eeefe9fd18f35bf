"""The shop against stock WebShop."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Protocol

import gymnasium as gym
from rich.progress import track

from opid_gym.console import talk as progress
from opid_gym_envs.webshop import Catalogue, Product
from throughput.common import (
    Arguments,
    Benchmark,
    Sample,
    cpu_seconds,
    peak_megabytes,
    ratios,
    summary,
)
from throughput.webshop_stock import Reconstruction, Shown, StockCheckout

PRODUCTS = 1000
STEPS = 15
EPISODES = 400
WARM_UP = 600
STOCK_WARM_UP = 10
NUM_ENVS = (1, 8, 32, 128)
MAKE = {"split": "test", "max_episode_steps": 1000}


class Shop(Protocol):
    """One shopper: ours, or the original."""

    def reset(self, number: int) -> Shown:
        """Begin the goal with this number; returns the page and the admissible actions."""

    def step(self, action: str) -> Shown:
        """Take one action; returns the page and the admissible actions."""


class Single:
    """``make``."""

    def __init__(self, **arguments: Any) -> None:
        self.env = gym.make("opid/WebShop-v0", **MAKE, **arguments)
        self.world = self.env.unwrapped.world  # type: ignore[attr-defined]

    def reset(self, number: int) -> Shown:
        """Begin the goal with this number; returns the page and the admissible actions."""
        observation, info = self.env.reset(options={"task_id": self.world.task_ids[number]})
        return observation, info["admissible_actions"]

    def step(self, action: str) -> Shown:
        """Take one action; returns the page and the admissible actions."""
        observation, _, _, _, info = self.env.step(action)
        return observation, info["admissible_actions"]


class Vector:
    """``make_vec`` with one game."""

    def __init__(self, **arguments: Any) -> None:
        self.envs: Any = gym.make_vec("opid/WebShop-v0", num_envs=1, **MAKE, **arguments)

    def reset(self, number: int) -> Shown:
        """Begin the goal with this number; returns the page and the admissible actions."""
        observations, infos = self.envs.reset(options={"task_ids": [self.envs.world.task_ids[number]]})
        return observations[0], infos["admissible_actions"][0]

    def step(self, action: str) -> Shown:
        """Take one action; returns the page and the admissible actions."""
        observations, _, _, _, infos = self.envs.step([action])
        return observations[0], infos["admissible_actions"][0]


def speed(arguments: Arguments) -> dict[str, Any]:
    """Both sides in the same shop, on the same goals and actions: ours first, then the original for as long as it may.

    Not in turn: the original's Java has threads of its own, and its work would empty the processor's caches.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_official_files(Catalogue.generated(PRODUCTS), data)
        planner = Single(data_dir=data)  # builds the catalogue, once
        episodes = []
        for number in range(WARM_UP + EPISODES):
            goal = number % len(planner.world.task_ids)
            episodes.append((goal, random_episode(planner, goal, number)))
        figures: dict[str, Any] = {"products": PRODUCTS}
        transcripts = {}
        for name, make in (("ours", Single), ("ours_vector", Vector)):
            # Products are read from disk when they are first shown, where the original has read them all.
            figures[name], transcripts[name] = _played(partial(make, data_dir=data), episodes, WARM_UP, None)
        identical = transcripts["ours"] == transcripts["ours_vector"]
        if arguments.against_stock:
            original: Callable[[], Reconstruction | StockCheckout] = partial(Reconstruction, planner.world)
            if arguments.stock_dir is not None:
                original = partial(StockCheckout, arguments.stock_dir, data)
            figures["stock"], shown = _played(original, episodes[WARM_UP:], STOCK_WARM_UP, arguments.seconds)
            figures["against"] = figures["stock"].pop("description")
            figures |= ratios(figures)
            if arguments.stock_dir is not None:  # a reconstruction judges no purchase
                identical &= shown == transcripts["ours"][WARM_UP : WARM_UP + len(shown)]
        figures["identical_transcripts"] = identical
    return figures


def _played(
    make: Callable[[], Any], episodes: list[tuple[int, list[str]]], warm_up: int, seconds: float | None
) -> tuple[dict[str, Any], list[list[Shown]]]:
    """Figures of one side, from what comes after the warm-up, and everything it showed."""

    def first_reset() -> Any:
        shop = make()
        shop.reset(0)
        return shop

    first, shop = cpu_seconds(first_reset)
    begin = time.monotonic()
    samples: list[Sample] = []
    by_action: dict[str, list[float]] = {}
    transcripts = []
    for number, (goal, actions) in enumerate(track(episodes, type(shop).__name__, console=progress)):
        if samples and seconds is not None and time.monotonic() - begin > seconds:
            break
        reset, costs, transcript = _play(shop, goal, actions)
        transcripts.append(transcript)
        if number >= warm_up:
            samples.append(Sample(first, (reset,), sum(costs), len(costs)))
            for action, cost in zip(actions, costs, strict=True):
                kind = "buy" if action == "click[buy now]" else action.partition("[")[0]
                by_action.setdefault(kind, []).append(cost)
    medians = {kind: round(median(costs) * 1e6, 1) for kind, costs in sorted(by_action.items())}
    figures = {**summary(samples), "by_action_us": medians}
    if not isinstance(shop, (Single, Vector)):
        figures["description"] = shop.description
    return figures, transcripts


def _play(shop: Shop, goal: int, actions: list[str]) -> tuple[float, list[float], list[Shown]]:
    """CPU seconds of the reset and of each step, and what was shown."""
    reset, shown = cpu_seconds(lambda: shop.reset(goal))
    transcript, costs = [shown], []
    for action in actions:
        cost, shown = cpu_seconds(lambda action=action: shop.step(action))  # type: ignore[misc]
        transcript.append(shown)
        costs.append(cost)
    return reset, costs, transcript


def random_episode(planner: Single, goal: int, seed: int) -> list[str]:
    """What a shopper might do: search with some words of the goal, look around, buy in the end.

    Queries do not repeat, so that no search is answered from memory (each side has a catalogue of its own).
    """
    rng = random.Random(seed)
    _, admissible = planner.reset(goal)
    words = planner.world.goals[goal].instruction.split()
    actions: list[str] = []
    while "click[buy now]" not in actions and len(actions) < STEPS:
        if admissible[0].startswith("search["):
            action = f"search[{' '.join(rng.sample(words, rng.randint(3, len(words))))}]"
        else:
            buying = rng.random() < 0.2 or len(actions) == STEPS - 1
            action = rng.choice([action for action in admissible if buying or action != "click[buy now]"])
        actions.append(action)
        _, admissible = planner.step(action)
    return actions


def write_official_files(catalogue: Catalogue, folder: Path) -> None:
    """Write a catalogue in the form of the official files, for the original to load."""
    (folder / "items_shuffle.json").write_text(json.dumps([official_record(product) for product in catalogue]))
    attributes = {
        product.asin: {
            "attributes": product.attributes,
            "instruction": product.instruction,
            "instruction_attributes": product.instruction_attributes or None,
        }
        for product in catalogue
    }
    (folder / "items_ins_v2.json").write_text(json.dumps(attributes))
    (folder / "items_human_ins.json").write_text("{}")


def official_record(product: Product) -> dict[str, Any]:
    """The product as one record of the official file of products."""
    return {
        "asin": product.asin,
        "name": product.title,
        "full_description": product.description,
        "small_description": product.bullet_points,
        "category": product.category,
        "product_category": product.product_category,
        "query": product.query,
        "pricing": "".join(f"${price}" for price in product.pricing),
        "customization_options": {
            name: [{"value": value} for value in values] for name, values in product.options.items()
        },
        "images": [product.image],
    }


def memory() -> dict[str, Any]:
    """Peak memory of 128 shoppers at once, after some play, in this process."""
    before = peak_megabytes()
    envs = gym.make_vec("opid/WebShop-v0", num_envs=128)
    _, infos = envs.reset(seed=0)
    rng = random.Random(0)
    for _ in range(60):
        _, _, _, _, infos = envs.step([_random_action(rng, *pair) for pair in _pairs(infos)])
    return {"peak_mb": round(peak_megabytes(), 1), "of_which_imports_mb": round(before, 1)}


def _pairs(infos: dict[str, Any]) -> zip[tuple[str, tuple[str, ...]]]:
    return zip(infos["task"], infos["admissible_actions"], strict=True)


def _random_action(rng: random.Random, task: str, admissible: tuple[str, ...]) -> str:
    if not admissible or admissible[0].startswith("search["):
        words = task.split()
        return f"search[{' '.join(rng.sample(words, rng.randint(1, len(words))))}]"
    return rng.choice(admissible)


def by_size(arguments: Arguments) -> list[dict[str, Any]]:
    """How cost grows with the catalogue, each size in a process of its own; built beforehand if it was not."""
    rows = []
    sizes = [size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= (arguments.largest or 10_000)]
    for size in track(sizes, "by size", console=progress):
        Catalogue.generated(size)
        code = f"import json, throughput.webshop as shop; print(json.dumps(shop.of_size({size})))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).resolve().parents[1],
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return rows


def of_size(size: int) -> dict[str, Any]:
    """Figures of one size; wall-clock time where a user waits."""
    import opid_gym

    gym.register_envs(opid_gym)
    Single(num_products=size)  # draws the goals, once
    begin = time.perf_counter()
    shop = Single(num_products=size)
    shop.env.reset(seed=0)
    start = time.perf_counter() - begin
    rng = random.Random(0)
    searches, steps = [], []
    for _ in range(60):
        _, info = shop.env.reset()
        for _ in range(10):
            action = _random_action(rng, info["task"], info["admissible_actions"])
            cost, (_, _, over, _, info) = cpu_seconds(lambda action=action: shop.env.step(action))  # type: ignore[misc]
            (searches if action.startswith("search[") else steps).append(cost)
            if over:
                break
    return {
        "products": size,
        "goals": len(shop.world.goals),
        "start_ms": round(start * 1e3, 1),
        "search_ms": round(median(searches) * 1e3, 3),
        "search_p95_ms": round(quantiles(searches, n=20)[-1] * 1e3, 3),
        "other_step_us": round(median(steps) * 1e6, 1),
        "peak_mb": round(peak_megabytes(), 1),
    }


def by_num_envs() -> list[dict[str, Any]]:
    """How the cost of a step grows with the number of shoppers stepped together."""
    rows = []
    for number in track(NUM_ENVS, "by number of games", console=progress):
        envs = gym.make_vec("opid/WebShop-v0", num_envs=number)
        _, infos = envs.reset(seed=0)
        rng = random.Random(0)
        costs = []
        for _ in range(max(60, 2000 // number)):
            actions = [_random_action(rng, *pair) for pair in _pairs(infos)]
            seconds, (_, _, _, _, infos) = cpu_seconds(lambda envs=envs, actions=actions: envs.step(actions))  # type: ignore[misc]
            costs.append(seconds / number)
        cost = sum(costs) / len(costs)
        rows.append({"num_envs": number, "step_us_per_env": round(cost * 1e6, 2), "steps_per_s": round(1 / cost)})
    return rows


WEBSHOP = Benchmark(speed, memory, by_size, by_num_envs)
