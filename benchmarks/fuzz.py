"""A long campaign over everything that reads what others wrote: mutated inputs, no crash, none slow, no growth.

    python -m benchmarks.fuzz --inputs 1000000 --json

Runs in a checkout (`tests.fuzzing` has the targets and their mutations). Each target gets its share of the inputs. An
error that the reader does not document is a crash, and is printed with the seed that makes the input again. Reports
inputs, crashes, the slowest input in seconds, and how much memory the process grew from a tenth of the way to the end.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import psutil

from tests.fuzzing import targets

SLOW_SECONDS = 1.0


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="over all targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    chosen = {name: target for name, target in targets().items() if not arguments.target or name in arguments.target}
    share = -(-arguments.inputs // len(chosen))
    crashes: list[str] = []
    slow: list[str] = []
    slowest = 0.0
    process = psutil.Process()
    grown: dict[str, float] = {}
    for name, target in chosen.items():
        before = 0
        with tempfile.TemporaryDirectory() as folder:
            for number in range(share):
                if number == share // 10:
                    before = process.memory_info().rss
                seed = f"{arguments.seed}:{name}:{number}"
                started = time.process_time()
                try:
                    target.play(random.Random(seed), Path(folder))
                except Exception as error:
                    frame = traceback.extract_tb(error.__traceback__)[-1]
                    crashes.append(f"{seed}: {type(error).__name__}: {error!s:.100} ({frame.filename}:{frame.lineno})")
                    print(crashes[-1], file=sys.stderr)
                seconds = time.process_time() - started
                slowest = max(slowest, seconds)
                if seconds > SLOW_SECONDS:
                    slow.append(f"{seed}: {seconds:.1f} s")
                    print(slow[-1], file=sys.stderr)
        grown[name] = round((process.memory_info().rss - before) / 1e6, 1)
        print(f"{name}: {share} inputs, grew {grown[name]} MB", file=sys.stderr)
    said = {
        "inputs": share * len(chosen),
        "crashes": len(crashes),
        "slow": len(slow),
        "slowest_seconds": round(slowest, 3),
        "grown_megabytes": grown,
    }
    print(json.dumps(said) if arguments.json else said)
    sys.exit(bool(crashes or slow))


if __name__ == "__main__":
    main()
