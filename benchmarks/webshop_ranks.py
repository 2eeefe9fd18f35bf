"""Whether our search ranks exactly as Lucene does: the same 50 products in the same order, for every query.

    python benchmarks/webshop_ranks.py --json

Products are the generated ones, of which many get symbols, emoji and other scripts strewn in; queries are titles,
instructions, descriptions and single words of theirs, and all kinds of noise. Needs the extra `lucene`.
Progress goes to stderr; with ``--json`` the last line of stdout is one JSON object, otherwise a table is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import track
from rich.table import Table

from opid_gym.console import out
from opid_gym.console import talk as progress
from opid_gym_envs.webshop.generator import generate
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.search.bm25 import Index, IndexWriter
from opid_gym_envs.webshop.search.lucene import Searcher, write_index

_SYMBOLS = """
★ ★★★★★ ™ ® ¾ 5° ½-inch 7½ €20 &amp; <b>new</b> 100% c++ #1 3M™ @home b&w w/o don't women’s mens' o'neill's u.s.a. e.g.
1,000 1.5.2 12:30 a_b_c __x__ - — 👍 👍🏽 🇩🇪 1️⃣ ❤️ ©2021 café naïve Ångström ﬁne ÉLÉGANT straße İstanbul ΟΔΟΣ 日本語
カタカナ ひらがな 한국어 ภาษาไทย עברית ב״ה العربية हिन्दी русский 【hot】 👩‍👩‍👧‍👦
"""
SYMBOLS = (
    *_SYMBOLS.split(),
    *("№ 5", "（2 pcs）", "zero\u200bwidth", "no\u00a0break", "soft\u00adhyphen", "e\u0301clair", "tab\tbed"),
    *("line\nbreak", "\U0001d400\U0001d401s", "x" * 300),
)
STRANGE = (
    "",
    " ",
    "!!!",
    "the of and",
    "'",
    "''s",
    "s's",
    "___",
    "\x00",
    "\u200d",
    "★",
    "zzzqqqxxx",
    "a" * 5000,
    "and size: 8",
)


def documents(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Pairs of id and text: products as search sees them, every other one with symbols strewn in."""
    rng = random.Random(seed)
    for product in generate(count, seed):
        text = product.search_text
        if rng.random() < 0.5:
            text = strewn(text, rng, rng.randint(1, 6)).lower()
        yield product.asin, text


def strewn(text: str, rng: random.Random, times: int) -> str:
    """The text with `times` random symbols among its words, which are joined by a separator drawn at random."""
    words = text.split(" ")
    for _ in range(times):
        words.insert(rng.randint(0, len(words)), rng.choice(SYMBOLS))
    return rng.choice((" ", " ", "  ", "-", ", ")).join(words)


def queries(count: int, products: Sequence[Product], seed: int) -> Iterator[str]:
    """Texts an agent may search for, and texts it should not."""
    rng = random.Random(seed)
    yield from STRANGE
    kinds: tuple[Callable[[Product], str], ...] = (
        lambda p: p.title,
        lambda p: p.instruction or p.query,
        lambda p: p.query,
        lambda p: p.description,
        lambda p: " ".join(rng.sample(p.search_text.split(), min(5, len(p.search_text.split())))),
        lambda p: rng.choice(p.search_text.split()),
        lambda p: " ".join([*p.attributes[:2], *(f"{k}: {v[0]}" for k, v in p.options.items()), "price < 30.00"]),
        lambda p: " ".join(rng.choices(p.title.split(), k=12)),  # words repeat
        lambda p: strewn(p.query, rng, 3),
        lambda p: " ".join(rng.choices(SYMBOLS, k=rng.randint(1, 4))),
    )
    for number in range(count - len(STRANGE)):
        yield kinds[number % len(kinds)](rng.choice(products))


def compare(count: int, number_of_queries: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """Index the same documents on both sides, ask the same, and count where the answers differ.

    Returns:
        ``identical`` of ``queries`` answers, the first differing ones, and milliseconds a query on both sides.
    """
    texts = list(documents(count, seed))
    ours_at, theirs_at = folder / "ours", folder / "lucene"
    ours_at.mkdir()
    theirs_at.mkdir()
    with IndexWriter(ours_at) as writer:
        for _, text in texts:
            writer.add(text)
    write_index(theirs_at, texts)
    ids = np.array([id_ for id_, _ in texts])
    index, searcher = Index(ours_at, keys=ids), Searcher(theirs_at)
    asked = list(queries(number_of_queries, list(generate(count, seed)), seed))
    times: dict[str, list[float]] = {"ours": [], "lucene": []}
    different = []
    for query in track(asked, f"{count:,} products", console=progress):
        begin = time.process_time()
        ours = ids[index.search(query, 50)].tolist()
        middle = time.process_time()
        theirs = searcher.search(query, 50)
        times["ours"].append(middle - begin)
        times["lucene"].append(time.process_time() - middle)
        if ours != theirs:
            different.append(query)
    searcher.close()
    return {
        "products": count,
        "queries": len(asked),
        "identical": len(asked) - len(different),
        "different": different[:5],
        **{f"{side}_ms": round(median(seconds) * 1e3, 3) for side, seconds in times.items()},
    }


def main() -> None:
    """Compare our ranks with Lucene's for each size of catalogue; exits with 1 if any rank differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--products", type=int, nargs="+", default=[1_000, 10_000], help="sizes of catalogue")
    parser.add_argument("--queries", type=int, default=1_000, help="how many queries at each size")
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead of a table")
    arguments = parser.parse_args()
    rows = []
    for count in arguments.products:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compare(count, arguments.queries, Path(folder)))
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        table = Table("products", "queries", "identical top 50", "ours, ms", "Lucene, ms")
        for row in rows:
            table.add_row(*(str(row[key]) for key in ("products", "queries", "identical", "ours_ms", "lucene_ms")))
        out.print(table)
    sys.exit(any(row["different"] for row in rows))


if __name__ == "__main__":
    main()
