"""How the shop's catalogue grows: building it once, opening it, searching it, and the memory that takes.

    python benchmarks/webshop_catalogue.py --json > results/webshop_catalogue.json

Each size is built in one process and used in another. Queries are what agents search for (titles, categories, whole
goals with their options, a few words of a product) and, apart, whole descriptions, which are longer than any of these.
Times are CPU time of the process, but for the opening, where the clock counts. Progress goes to stderr; with ``--json``
the last line of stdout is one JSON object, otherwise a table is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from opid_gym_envs.webshop import Catalogue, Product

progress = Console(stderr=True)
QUERIES = 150  # of each kind


def build(count: int, cache: Path) -> dict[str, Any]:
    begin = time.process_time()
    shop = Catalogue.generated(count, cache_dir=cache)
    seconds = time.process_time() - begin
    size = sum(path.stat().st_size for path in shop.folder.rglob("*") if path.is_file())
    return {"build_s": round(seconds, 2), "build_peak_mb": memory("VmHWM"), "disk_mb": round(size / 1e6, 1)}


def use(count: int, cache: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    shop = Catalogue.generated(count, cache_dir=cache)
    shop.search("first of all", 50)
    opened = time.perf_counter() - begin
    rng = random.Random(0)
    kinds: dict[str, tuple[Callable[[Product], str], ...]] = {
        "search": (
            lambda p: p.title,
            lambda p: p.query,
            lambda p: f"{p.instruction or p.query} with {', and '.join(f'{k}: {v[0]}' for k, v in p.options.items())}",
            lambda p: " ".join(rng.sample(p.search_text.split(), 4)),
        ),
        "long_search": (lambda p: p.description,),
    }
    found: dict[str, Any] = {"open_s": round(opened, 3)}
    for name, forms in kinds.items():
        queries = [form(shop.by_index(rng.randrange(count))) for form in forms for _ in range(QUERIES)]
        times = []
        for query in queries:
            begin = time.process_time()
            shop.search(query, 50)
            times.append(1e3 * (time.process_time() - begin))
        found |= {f"{name}_p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95)}
    return found | {"memory_mb": memory("VmRSS")}


def memory(figure: str) -> float:
    """A figure of this process, in megabytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith(figure)) / 1024, 1)


def in_fresh_process(part: str, count: int, cache: Path) -> Any:
    command = [sys.executable, __file__, "--part", part, "--products", str(count), "--cache", str(cache)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--cache", type=Path, help="where to build; by default a folder that is removed")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    parser.add_argument("--part", choices=["build", "use"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        part = {"build": build, "use": use}[arguments.part]
        print(json.dumps(part(arguments.products[0], arguments.cache)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = arguments.cache or Path(scratch)
        for count in arguments.products:
            progress.print(f"{count:,} products")
            parts = [in_fresh_process(part, count, cache) for part in ("build", "use")]
            rows.append({"products": count, **parts[0], **parts[1]})
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(str, row.values()))
        Console().print(table)


if __name__ == "__main__":
    main()
