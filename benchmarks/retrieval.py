"""Retrieval engines side by side: speed, memory, time to build and to open, and recall.

    python benchmarks/retrieval.py --json > results/retrieval.json
    python benchmarks/retrieval.py --growth 10000 100000 1000000 --json > results/retrieval_growth.json

One corpus for all (see `invented_corpus`), one run. Queries are known items (recall: is the passage the query was made
of among the first three?) and the one-hop questions of the World Factbook (is a supporting passage among them?). Each
engine builds in a process of its own and searches in another one, one thread, in batches of 64; `dense` and `hybrid`
get a part of the corpus, because making vectors takes so long, and BM25 is measured on that part too.

- ``queries_per_cpu_second``: median of three passes over all queries, passages fetched, processor time of the whole
  process (a Java virtual machine's threads included); ``first_pass_queries_per_cpu_second`` is that of the first one,
  when nothing has been asked before;
- ``recall_at_3_less_lucenes``: by kind of query, the difference on the same queries and its 95 % interval (bootstrap
  over queries);
- ``build_seconds``: wall time of `build_index`, corpus file to complete folder, and ``build_cpu_seconds``;
- ``open_seconds``: `open_index` in a fresh process, importing the engine included;
- ``memory_mb``: resident after the queries, mapped files that happen to be in memory included, and ``private_mb``
  without them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from statistics import mean, median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import psutil
from invented_corpus import InventedCorpus
from rich.table import Table

from opid_gym.bench.statistics import mean_interval
from opid_gym.console import out, talk
from opid_gym_envs.searchqa.corpus import Passage, read_corpus, write_corpus
from opid_gym_envs.searchqa.factbook import load_factbook
from opid_gym_envs.searchqa.retrievers import build_index, open_index

ENGINES = ("bm25", "bm25s", "lucene")
ON_A_PART = ("dense", "hybrid")
BATCH = 64
# Known items and questions each, for the engines that make vectors.
QUERIES_OF_THE_PART = 500


def main() -> None:
    """Measure building and searching for each engine and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--part", type=int, default=1_000, help="passages that dense and hybrid get; 0 leaves them out")
    parser.add_argument("--queries", type=int, default=2_000, help="known items, and questions, at most")
    parser.add_argument("--engines", nargs="+", default=[*ENGINES, *ON_A_PART])
    parser.add_argument("--growth", type=int, nargs="+", help="sizes to measure bm25 at, instead of engines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps({"build": build, "search": search}[arguments.step[0]](*arguments.step[1:])))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure = measure_growth if arguments.growth else measure_engines
        results = {"settings": settings(arguments), **measure(Path(folder), arguments)}
    if arguments.json:
        print(json.dumps(results))
    else:
        show(results)


def measure_engines(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every engine on the whole corpus or on a part of it."""
    invented = InventedCorpus(arguments.seed)
    whole = write(folder / "whole", invented, list(invented.passages(arguments.passages)), arguments.queries)
    results = {name: measure(name, whole) for name in arguments.engines if name not in ON_A_PART}
    compare_with_lucene(results, whole)
    if arguments.part and (slow := [name for name in arguments.engines if name in ON_A_PART]):
        part = write(folder / "part", invented, part_of(invented, arguments.part), QUERIES_OF_THE_PART)
        for name in ("bm25", *slow):
            results[name if name in ON_A_PART else f"{name}_on_the_part"] = measure(name, part)
    return results


def compare_with_lucene(results: dict[str, Any], folder: Path) -> None:
    """Add to each row how its recall differs from Lucene's on the same queries, if Lucene is among them."""
    if "absent" in results.get("lucene", {"absent": "not asked for"}):
        return
    judge = json.loads((folder / "lucene.found.json").read_text())
    for name, row in results.items():
        if name == "lucene" or "absent" in row:
            continue
        found = json.loads((folder / f"{name}.found.json").read_text())
        row["recall_at_3_less_lucenes"] = {}
        for kind, values in found.items():
            differences = [[one - other] for one, other in zip(values, judge[kind], strict=True)]
            interval = mean_interval(differences)
            numbers = (interval.estimate, interval.low, interval.high)
            row["recall_at_3_less_lucenes"][kind] = [round(number, 4) for number in numbers]


def measure_growth(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """BM25 at several sizes, and what a passage more costs."""
    rows = []
    for size in arguments.growth:
        invented = InventedCorpus(arguments.seed)
        place = write(folder / str(size), invented, invented.passages(size), arguments.queries)
        rows.append(measure("bm25", place))
    sizes = np.array([row["passages"] for row in rows])
    slopes = {}
    if len(rows) > 1:
        for key in ("build_cpu_seconds", "index_mb", "passages_mb", "cpu_ms_per_query"):
            slopes[key] = float(np.polyfit(sizes, [row[key] for row in rows], 1)[0]) * 1e6
    return {"growth": rows, "per_million_passages": slopes}


def part_of(invented: InventedCorpus, size: int) -> list[Passage]:
    """Real passages, those that support a question first."""
    wanted = {name for question in questions() for name in question.supports}
    supporting = [passage for passage in invented.real if passage.id in wanted]
    others = [passage for passage in invented.real if passage.id not in wanted]
    return [*supporting[: size // 2], *others[: size - min(len(supporting), size // 2)]]


def write(folder: Path, invented: InventedCorpus, passages: Any, count: int) -> Path:
    """A folder with ``corpus.jsonl`` and ``queries.jsonl``, where a query is ``[kind, text, [ids]]``."""
    folder.mkdir()
    started = time.perf_counter()
    size = write_corpus(folder / "corpus.jsonl", passages)
    rng = np.random.default_rng(invented.seed)
    rows = set(rng.choice(size, min(count, size), replace=False).tolist())
    asked = [passage for row, passage in enumerate(read_corpus(folder / "corpus.jsonl")) if row in rows]
    present = {passage.id for passage in islice(read_corpus(folder / "corpus.jsonl"), len(invented.real))}
    queries: list[tuple[str, str, Sequence[str]]] = [
        ("known_items", text, [name]) for text, name in invented.queries(asked, count)
    ]
    answerable = [question for question in questions() if present.issuperset(question.supports)]
    for number in sorted(rng.permutation(len(answerable))[:count].tolist()):
        queries.append(("questions", answerable[number].text, answerable[number].supports))
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps(query) + "\n" for query in queries)
    talk.print(f"{size:,} passages, {len(queries):,} queries: {time.perf_counter() - started:.0f} s")
    return folder


def questions() -> list[Any]:
    """The factbook's questions that one search can answer."""
    book = load_factbook()
    return [q for split in ("train", "dev", "test") for q in book.questions(split) if len(q.supports) == 1]


def measure(engine: str, folder: Path) -> dict[str, Any]:
    """One engine on one corpus; what is missing is told instead, if it is not installed."""
    row: dict[str, Any] = {}
    for name in ("build", "search"):
        command = [sys.executable, __file__, "--step", name, engine, str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            if "ImportError" not in reason:
                raise RuntimeError(f"{engine} could not {name}:\n{done.stderr}")
            talk.print(f"{engine}: absent, {reason}")
            return {"absent": reason}
        row |= json.loads(done.stdout.splitlines()[-1])
    talk.print(f"{engine}: {row['queries_per_cpu_second']:,.0f} queries a CPU-second, recall {row['recall_at_3']:.3f}")
    return row


def build(engine: str, folder: str) -> dict[str, Any]:
    """Build the index and weigh it."""
    index = Path(folder, engine)
    started, cpu = time.perf_counter(), time.process_time()
    manifest = build_index(Path(folder, "corpus.jsonl"), index, engine)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    return {
        "passages": manifest.count,
        "build_seconds": round(seconds, 2),
        "build_cpu_seconds": round(cpu, 2),
        "build_memory_mb": round(peak_memory() / 1e6),
        "index_mb": round(weight(index / engine) / 1e6, 1),
        "passages_mb": round(weight(index / "passages") / 1e6, 1),
    }


def search(engine: str, folder: str) -> dict[str, Any]:
    """Open the index and ask every query, in batches."""
    process = psutil.Process()
    lines = Path(folder, "queries.jsonl").read_text(encoding="utf-8").splitlines()
    queries = [json.loads(line) for line in lines]
    batches = [[text for _, text, _ in queries[start : start + BATCH]] for start in range(0, len(queries), BATCH)]
    started = time.perf_counter()
    retriever = open_index(Path(folder, engine))
    opened = time.perf_counter() - started
    retriever.search(batches[0], 3)  # what compiles on first use has compiled
    passes = []
    for _ in range(3):
        cpu = time.process_time()
        hits = [found for batch in batches for found in retriever.search(batch, 3)]
        passes.append(time.process_time() - cpu)
    found: dict[str, list[bool]] = {"known_items": [], "questions": []}
    for (kind, _, ids), of_query in zip(queries, hits, strict=True):
        found[kind].append(any(hit.id in ids for hit in of_query))
    memory = process.memory_full_info()
    Path(folder, f"{engine}.found.json").write_text(json.dumps(found))
    return {
        "queries_per_cpu_second": round(len(queries) / median(passes), 1),
        "first_pass_queries_per_cpu_second": round(len(queries) / passes[0], 1),
        "cpu_ms_per_query": round(1000 * median(passes) / len(queries), 4),
        "open_seconds": round(opened, 4),
        "memory_mb": round(memory.rss / 1e6),
        "private_mb": round(memory.uss / 1e6),
        "queries": len(queries),
        "recall_at_3": round(mean(found["known_items"] + found["questions"]), 4),
        **{f"recall_at_3_{kind}": round(mean(values), 4) for kind, values in found.items()},
    }


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def weight(folder: Path) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What it took to get these figures."""
    return {
        "command": "python benchmarks/retrieval.py " + " ".join(sys.argv[1:]),
        "seed": arguments.seed,
        "batch": BATCH,
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
    }


def show(results: dict[str, Any]) -> None:
    """Tables for people."""
    rows = results.get("growth") or {name: row for name, row in results.items() if name != "settings"}
    columns = ("queries_per_cpu_second", "recall_at_3", "build_seconds", "open_seconds", "memory_mb", "index_mb")
    table = Table("engine", "passages", *columns, box=None)
    for name, row in rows.items() if isinstance(rows, dict) else (("bm25", row) for row in rows):
        told = (str(row[column]) for column in columns) if "absent" not in row else (row["absent"],)
        table.add_row(name, f"{row.get('passages', 0):,}", *told)
    out.print(table)
    if results.get("per_million_passages"):
        print("a million passages more:", results["per_million_passages"])


if __name__ == "__main__":
    main()
