"""How long questions and passages take to read, as a multiple of parsing their JSON; processor time.

python -m benchmarks.reading --json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from opid_gym_envs.searchqa.corpus import read_corpus
from opid_gym_envs.searchqa.questions import read_questions

ROWS = 20_000
ROUNDS = 5
TEXT = "It is well known all over the country, and was so in the year {0}. " * 8


def question(number: int) -> dict[str, object]:
    """A question with two answers and metadata."""
    text = f"Who wrote book {number}, and where was it first printed?"
    metadata = {"hops": 2, "from": ["a", "b"]}
    return {"id": f"train_{number}", "question": text, "golden_answers": ["Nobody", str(number)], "metadata": metadata}


def passage(number: int) -> dict[str, object]:
    """A passage of some 500 characters."""
    return {"id": str(number), "contents": f'"Book {number}"\n{TEXT.format(number)}'}


def parse(path: Path) -> int:
    """Parse every line; returns their number."""
    with open(path, "rb") as file:
        return len([json.loads(line) for line in file])


def seconds(work: Callable[[Path], int], path: Path) -> float:
    """Processor time of reading a file."""
    started = time.process_time()
    assert work(path) == ROWS
    return time.process_time() - started


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    said = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, row, read in (
            ("questions", question, lambda path: len(read_questions(path).questions)),
            ("passages", passage, lambda path: len(list(read_corpus(path)))),
        ):
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row(number)) + "\n" for number in range(ROWS)))
            said[name] = round(min(seconds(read, path) / seconds(parse, path) for _ in range(ROUNDS)), 2)
    print(json.dumps(said) if arguments.json else said)


if __name__ == "__main__":
    main()
