"""What generated products are made of, read from ``vocabulary.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources


@dataclass(frozen=True, slots=True)
class Claims:
    """Attributes of a family of goods, by the place they take in an instruction.

    Attributes:
        before: stand before the thing, "*leak proof* bottles".
        having: follow "with", "... with *stainless steel*".
        serving: follow "for", "... for *dry skin*".
    """

    before: tuple[str, ...]
    having: tuple[str, ...]
    serving: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of goods.

    Attributes:
        department: the broad category, e.g. ``garden``.
        product_category: path of categories, with " › " between levels.
        query: what one would search to find all of them.
        names: what a title may call one.
        prices: lowest and highest usual price in dollars.
        axes: the options it may come in: names as the shop shows them, and values.
        claims: which attributes it may have.
    """

    department: str
    product_category: str
    query: str
    names: tuple[str, ...]
    prices: tuple[int, int]
    axes: tuple[tuple[str, tuple[str, ...]], ...]
    claims: Claims


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Everything products are made of.

    Attributes:
        kinds: the kinds of goods.
        words: lists of words that all kinds share, by name.
    """

    kinds: tuple[Kind, ...]
    words: Mapping[str, tuple[str, ...]]


@cache
def vocabulary() -> Vocabulary:
    """The vocabulary of this package."""
    data = tomllib.loads(resources.files(__package__).joinpath("vocabulary.toml").read_text(encoding="utf-8"))
    claims = {
        family: Claims(**{place: _split(text) for place, text in places.items()})
        for family, places in data["claims"].items()
    }
    axes = {
        axis: (data["axis_names"].get(axis, axis.rpartition(" ")[2]), _split(text))
        for axis, text in data["axes"].items()
    }
    kinds = []
    for line in data["goods"]["kinds"].strip().splitlines():
        department, path, query, names, prices, axis_names, family = (part.strip() for part in line.split(" | "))
        low, high = map(int, prices.split("-"))
        kinds.append(
            Kind(
                department=department,
                product_category=f"{data['roots'][department]} › {path}",
                query=query,
                names=_split(names),
                prices=(low, high),
                axes=tuple(axes[axis] for axis in _split(axis_names)),
                claims=claims[family],
            )
        )
    return Vocabulary(tuple(kinds), {name: _split(text) for name, text in data["words"].items()})


def _split(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.replace("\n", " ").split(","))
