"""The pages of the shop, read from their text as a person reads them, in any of its observation modes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from opid_gym_envs.webshop.pages import BUY, PREVIOUS, SEPARATOR
from opid_gym_envs.webshop.search.analyzer import analyze
from opid_gym_envs.webshop.session import NEVER_OPTIONS

_ID = re.compile(r"[A-Z0-9]{10}|item \d+")  # the latter in the short observation mode
_MARK = re.compile(r"\s*\[(?:clicked )?button\] (.*) \[(?:clicked )?button_\]")
_RESULTS = re.compile(r"Page -?\d+ \(Total results: \d+\)")
_LIMIT = re.compile(r",? (?:and )?price lower than (\d+(?:\.\d+)?) dollars")
_AMOUNT = re.compile(r"\$(\d+(?:,\d{3})*(?:\.\d+)?)")
# Names of options, in instructions of the shop's own making: "a mug with a lid with size: big, and color: red".
_OPTION = re.compile(r"(?: with |, and )((?:(?! with )[^:,])+): ")
_OWN = "find me "  # how these begin


@dataclass(frozen=True, slots=True)
class Instruction:
    """What an instruction says.

    Attributes:
        text: all of it, lower-cased, without the price.
        words: the terms of what is asked for, without the options and the price.
        limit: the price has to be lower; None: no limit is named.
        query: what to search for: all that an instruction of the shop's own making asks for. None of a person's, which
            has many words that nobody would search for.

    >>> read = Instruction.read("Find me soft mugs with color: red, and price lower than 20.00 dollars")
    >>> read.query, read.limit
    ('soft mugs with color: red', 20.0)
    """

    text: str
    words: frozenset[str]
    limit: float | None
    query: str | None = None

    @classmethod
    def read(cls, task: str) -> Instruction:
        """Take an instruction apart, of the shop's own making or a person's."""
        limit = _LIMIT.search(task)
        text = _LIMIT.sub("", task).lower()
        wanted = text.removeprefix(_OWN)
        option = _OPTION.search(wanted)
        words = frozenset(analyze(wanted[: option.start()] if option else wanted))
        return cls(text, words, float(limit[1]) if limit else None, wanted if wanted != text else None)

    def left_out(self, query: str) -> bool:
        """Whether a search lacks something of `query`, what the instruction asks for; the form of a word is no matter.

        >>> read = Instruction.read("Find me soft mugs with color: red, and price lower than 20.00 dollars")
        >>> read.left_out("soft mug"), read.left_out("a soft mug, its color: red")
        (True, False)
        """
        return self.query is not None and not set(analyze(self.query)) <= set(analyze(query))

    def named(self, name: str, values: Sequence[str]) -> str | None:
        """The value of an option that the instruction names; None if it names none of them.

        >>> Instruction.read("Find me mugs with size: 4 inch, and color: red").named("size", ["4 inch", "red"])
        '4 inch'
        """
        for value in values:
            if self._has(f"{name}: {value}".lower()):
                return value
        if f" {name.lower()}: " in self.text:
            return None  # another value, which is not for sale here
        return max((value for value in values if self._has(value.lower())), key=len, default=None)

    def lacking(self, options: Mapping[str, Sequence[str]]) -> bool:
        """Whether an instruction of the shop's own making names an option that is not among a product's.

        >>> read = Instruction.read("Find me mugs with a lid with size: big, and color: red")
        >>> read.lacking({"size": ["big"], "color": ["blue"]}), read.lacking({"size": ["big"], "color": ["red"]})
        (True, False)
        """
        if self.query is None:
            return False
        named = {name.lower() for name, values in options.items() if self.named(name, values) is not None}
        return not set(_OPTION.findall(self.text)) <= named

    def allows(self, price: str) -> bool:
        """Whether a price tag is not above the limit, or its lowest price is not."""
        lowest = _lowest(price)
        return self.limit is None or lowest is None or lowest <= self.limit

    def match(self, title: str) -> int:
        """How many of its words a title has."""
        return len(self.words & _terms(title))

    def _has(self, words: str) -> bool:
        return words in self.text and bool(re.search(rf"(?<![\w.]){re.escape(words)}(?!\w)", self.text))


@lru_cache(maxsize=4096)
def _terms(title: str) -> frozenset[str]:
    return frozenset(analyze(title))


@lru_cache(maxsize=4096)
def _lowest(price: str) -> float | None:
    return min((float(amount.replace(",", "")) for amount in _AMOUNT.findall(price)), default=None)


def options_of(page: Sequence[str], admissible: Collection[str]) -> dict[str, list[str]]:
    """Option -> its values on the page of a product, lower-cased, in the order of the page."""
    values = {action[6:-1] for action in admissible if action.startswith("click[")} - NEVER_OPTIONS
    found: dict[str, list[str]] = {}
    name = ""
    for piece in page[page.index(PREVIOUS) + 1 :]:
        if piece.startswith("Price: "):
            break
        if piece.lower() in values:
            found.setdefault(name, []).append(piece.lower())
        else:
            name = piece
    return found


def products_on(page: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Lower-cased id -> title and price of each product on a page of results."""
    pieces = [piece for piece in page if piece]
    return {
        pieces[i].lower(): (pieces[i + 1], pieces[i + 2])
        for i in range(len(pieces) - 2)
        if _ID.fullmatch(pieces[i]) and pieces[i + 2].startswith("$")
    }


def pieces_of(observation: str) -> list[str]:
    """The texts on a page, in order."""
    if SEPARATOR in observation:
        return observation.split(SEPARATOR)
    lines = observation.split("\n")
    return [mark.group(1) if (mark := _MARK.fullmatch(line)) else line for line in lines]


def is_results(page: Sequence[str]) -> bool:
    """Whether this is a page of results."""
    return any(_RESULTS.fullmatch(piece) for piece in page[:6])


def is_item(page: Sequence[str]) -> bool:
    """Whether this is the page of a product."""
    return BUY in page and PREVIOUS in page
