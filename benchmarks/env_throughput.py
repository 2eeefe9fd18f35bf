"""How fast an environment is, next to the original it reproduces: same games, same actions, one run.

    python benchmarks/env_throughput.py --env alfworld --against stock --json
    python benchmarks/env_throughput.py --env webshop --against stock --stock-dir WebShop --json

Ours is measured as a user meets it, through ``gymnasium.make`` (one game, as the original plays) and through
``gymnasium.make_vec``, every step with its admissible actions in ``info``; the original through its own interface,
admissible commands included. All times are CPU time of this process (``time.process_time``), figures are medians.
Progress goes to stderr; with ``--json`` the last line of stdout is one JSON object, otherwise tables are printed.

- *first reset*: from nothing until the first observation is there: a game file nobody has looked at, or a shop whose
  catalogue is built, making the environment included.
- *reset*: a later one, until the first observation is there.
- *step*: one action, until the observation and the next admissible actions are there.

Stock ALFWorld is a package (``pip install 'opid-gym[stock]'``). Stock WebShop is a checkout of princeton-nlp/WebShop
with its needs installed, named by ``--stock-dir``; without one its work is reconstructed, and the figures say so
(``against``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
from rich.console import Console
from rich.table import Table
from throughput.alfworld import ALFWORLD
from throughput.common import Arguments, machine
from throughput.webshop import WEBSHOP

import opid_gym
from opid_gym.console import out as console

BENCHMARKS = {"alfworld": ALFWORLD, "webshop": WEBSHOP}


def main() -> None:
    """Measure one environment, beside the original if asked, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=sorted(BENCHMARKS), required=True, help="which environment")
    parser.add_argument("--against", choices=["stock"], help="also run the original")
    parser.add_argument("--stock-dir", type=Path, help="a checkout of the original (webshop)")
    parser.add_argument("--seconds", type=float, default=60.0, help="roughly how long the original may run")
    parser.add_argument("--largest", type=int, help="the largest catalogue (webshop), e.g. 1000000; 10000 if not given")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of tables")
    parser.add_argument("--child", choices=["memory"], help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    gym.register_envs(opid_gym)
    benchmark = BENCHMARKS[parsed.env]
    if parsed.child:
        print(json.dumps(benchmark.memory()))
        return
    arguments = Arguments(parsed.against is not None, parsed.seconds, parsed.stock_dir, parsed.largest)
    try:
        speed = benchmark.speed(arguments)
    except (ImportError, FileNotFoundError) as error:
        parser.error(str(error))
    figures = {
        "env": parsed.env,
        "machine": machine(),
        **speed,
        "memory_128_games": in_fresh_process(parsed.env, "memory"),
        "by_size": benchmark.by_size(arguments),
        "by_num_envs": benchmark.by_num_envs(),
    }
    if parsed.json:
        print(json.dumps(figures))
    else:
        print_tables(figures)


def in_fresh_process(env: str, child: str) -> Any:
    """Run a part of this script in a process of its own, so that nothing measured before weighs on it."""
    command = [sys.executable, __file__, "--env", env, "--child", child]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_tables(figures: dict[str, Any]) -> None:
    """Print the figures of a run as tables: speed, memory, cost by size and by number of games."""
    console.print(f"{figures['env']} on {figures['machine']['cpu']}, Python {figures['machine']['python']}, one core")
    if "against" in figures:
        console.print(f"original: {figures['against']}")
    names = {"ours": "ours (make)", "ours_vector": "ours (make_vec, one game)", "stock": "original"}
    keys = {"step_us": "steps_ratio", "first_reset_ms": "first_resets_ratio", "reset_ms": "resets_ratio"}
    rows = [{"": title, **figures[name]} for name, title in names.items() if name in figures]
    if "steps_ratio" in figures:
        for name, suffix in (("ours (make)", ""), ("ours (make_vec, one game)", "_vector")):
            times = {key: f"{figures[ratio + suffix]:.0f}x" for key, ratio in keys.items()}
            rows.append({"": f"original / {name}", **times})
    print_table(console, "speed (CPU time, medians)", rows)
    print_table(console, "memory of 128 games in one process", [figures["memory_128_games"]])
    print_table(console, "cost by size of the game", figures["by_size"])
    print_table(console, "cost by number of games", figures["by_num_envs"])


def print_table(console: Console, title: str, rows: Iterable[dict[str, Any]]) -> None:
    """Print one table whose columns are the keys of its first row."""
    rows = list(rows)
    table = Table(title=title, title_justify="left")
    for key in rows[0]:
        table.add_column(key.replace("_", " "), justify="left" if isinstance(rows[0][key], str) else "right")
    for row in rows:
        table.add_row(*(str(row.get(key, "")) for key in rows[0]))
    console.print(table)


if __name__ == "__main__":
    main()
