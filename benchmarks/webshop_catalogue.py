"""How the shop grows with its catalogue: building it once, starting, searching, and the memory that takes.

    python benchmarks/webshop_catalogue.py --json > results/webshop_catalogue.json

Each size is built in one process (the catalogue, then its goals) and used in others, all through
``gym.make("opid/WebShop-v0", num_products=N)``. Queries are what agents search for: whole instructions and five words
of them, each as a step of an environment, page included; then titles, categories, four words of a product's page, and
whole descriptions. Times are CPU time of the process, but for the start, where the clock counts; importing is not
counted. Progress goes to stderr; with ``--json`` the last line of stdout is one JSON object, otherwise a table is
printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.table import Table

import opid_gym
from opid_gym.console import out
from opid_gym.console import talk as progress
from opid_gym_envs.webshop import Catalogue, Product

gym.register_envs(opid_gym)
QUERIES = 150  # of each kind
OF_INSTRUCTION: dict[str, Callable[[str, random.Random], str]] = {
    "instruction": lambda instruction, rng: instruction,
    "instruction_words": lambda instruction, rng: some_words(instruction, 5, rng),
}
OF_PRODUCT: dict[str, Callable[[Product, random.Random], str]] = {
    "title": lambda product, rng: product.title,
    "category": lambda product, rng: product.query,
    "product_words": lambda product, rng: some_words(product.search_text, 4, rng),
    "description": lambda product, rng: product.description,
}


def build(count: int) -> dict[str, Any]:
    """The catalogue, then its goals."""
    begin = time.process_time()
    shop = Catalogue.generated(count)
    figures = {
        "build_s": round(time.process_time() - begin, 2),
        "build_peak_mb": memory("VmHWM"),
        "disk_mb": round(sum(path.stat().st_size for path in shop.folder.rglob("*") if path.is_file()) / 1e6, 1),
    }
    begin = time.process_time()
    env = gym.make("opid/WebShop-v0", num_products=count)
    figures["goals_s"] = round(time.process_time() - begin, 2)
    return figures | {"goals": len(env.get_wrapper_attr("world").goals)}


def start(count: int) -> dict[str, Any]:
    """What a later process waits for, and what it then has in memory."""
    begin = time.perf_counter()
    gym.make("opid/WebShop-v0", num_products=count).reset(seed=0)
    return {"start_s": round(time.perf_counter() - begin, 3), "start_mb": memory("VmRSS")}


def search(count: int) -> dict[str, Any]:
    """Searches of every kind."""
    env = gym.make("opid/WebShop-v0", num_products=count)
    shop: Catalogue = env.get_wrapper_attr("world").catalogue
    rng = random.Random(0)
    figures: dict[str, Any] = {}
    for name, of_instruction in OF_INSTRUCTION.items():
        times = []
        for _ in range(QUERIES):
            _, info = env.reset(seed=rng.randrange(2**31))
            action = f"search[{of_instruction(info['task'], rng)}]"
            begin = time.process_time()
            env.step(action)
            times.append(time.process_time() - begin)
        figures |= percentiles(name, times)
    for name, of_product in OF_PRODUCT.items():
        times = []
        for _ in range(QUERIES):
            query = of_product(shop.by_index(rng.randrange(count)), rng)
            begin = time.process_time()
            shop.search(query, 50)
            times.append(time.process_time() - begin)
        figures |= percentiles(name, times)
    return figures | {"memory_mb": memory("VmRSS")}


def some_words(text: str, count: int, rng: random.Random) -> str:
    """So many words of a text, in their order; all if it has no more."""
    words = text.split()
    return " ".join(words[place] for place in sorted(rng.sample(range(len(words)), min(count, len(words)))))


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    """The median and the 95th percentile, in milliseconds."""
    return {f"{name}_p{p}_ms": round(1e3 * float(np.percentile(seconds, p)), 2) for p in (50, 95)}


def memory(figure: str) -> float:
    """A figure of this process, in megabytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(figure)) / 1024, 1)


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {"build": build, "start": start, "search": search}


def in_fresh_process(part: str, count: int, cache: Path) -> Any:
    """The figures of one part, measured in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--products", str(count)]
    environment = os.environ | {"OPID_GYM_CACHE": str(cache)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure every part for each number of products and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--cache", type=Path, help="where to build; by default a folder that is removed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.products[0])))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in arguments.products:
            progress.print(f"{count:,} products")
            rows.append({"products": count})
            for part in PARTS:
                rows[-1] |= in_fresh_process(part, count, arguments.cache or Path(scratch))
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        table = Table("", *(f"{row['products']:,}" for row in rows))
        for key in list(rows[0])[1:]:
            table.add_row(key, *(str(row[key]) for row in rows))
        out.print(table)


if __name__ == "__main__":
    main()
