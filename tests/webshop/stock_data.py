"""What stock WebShop printed, drew and paid on a made-up catalogue of its own format.

`FOLDER` holds the catalogue: ordinary products, and some made to be difficult (markup and Unicode in texts, options
that read like buttons, prices of every form). ``transcripts.jsonl.gz`` was written by stock itself
(princeton-nlp/WebShop, with Lucene through pyserini, thefuzz 0.22.1, and spaCy 3.8.18 with en_core_web_sm 3.8.0), after
``random.seed(233)``.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data" / "webshop" / "stock"


@cache
def stock_goals(human: bool) -> dict[str, Any]:
    """Stock's shuffled goals and prices: ``{"goals": [...], "prices": {asin: price}}``."""
    return next(line for line in _lines() if line["kind"] == "goals" and line["human"] == human)


@cache
def stock_episodes(human: bool) -> list[dict[str, Any]]:
    """Episodes: number of the goal, and what stock showed, listed and paid at each step."""
    return [line for line in _lines() if line["kind"] == "episode" and line["human"] == human]


@cache
def _lines() -> list[dict[str, Any]]:
    with gzip.open(FOLDER / "transcripts.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]
