"""Splitting text into words where Lucene's ``StandardTokenizer`` does.

The boundaries are those of Unicode's UAX #29, and beyond it emoji sequences, runs of South East Asian script and single
ideographs and Hiragana are words. ``word_classes.txt`` gives the class of every character as Lucene 8 and 9 see it
(Unicode 9, emoji 11), whatever Unicode the running Python knows: a text is spelled in classes, and words are matched in
that spelling.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import accumulate

LONGEST_WORD = 255
"""Longer matches are cut: Lucene looks at so many UTF-16 units at a time."""

_ASCII_WORD = re.compile(
    r"_*+[A-Za-z0-9](?:[A-Za-z0-9_]++|(?<=[0-9])[.,;'](?=[0-9])|(?<=[A-Za-z])[:.'](?=[A-Za-z]))*+|_++"
)


def split_words(text: str) -> list[str]:
    """The words of a text, unchanged and in order.

    >>> split_words("Women's 7.5 — 3-pack ★ naïve")
    ["Women's", '7.5', '3', 'pack', '★', 'naïve']
    """
    if text.isascii():
        words: list[str] = _ASCII_WORD.findall(text)
        if "_" in text:
            words = [word for word in words if word.strip("_")]
    else:
        words = [text[match.start() : match.end()] for match in _matches(text.translate(_classes()))]
    if len(text) > LONGEST_WORD // 2 and max(map(len, words), default=0) > LONGEST_WORD // 2:
        return _split_within_limit(text)
    return words


def _matches(spelling: str) -> Iterator[re.Match[str]]:
    return (match for match in _word().finditer(spelling) if match.lastgroup is None)


def _split_within_limit(text: str) -> list[str]:
    """As `split_words`, where a word may be longer than Lucene looks."""
    spelling = text.translate(_classes())
    words = []
    place = 0
    while found := _START.search(spelling, place):
        place = found.start()
        match = _word().match(spelling, place, place + _length_within_limit(text, place))
        if match is None:
            place += 1
        elif match.lastgroup is None:
            words.append(text[place : match.end()])
            place = match.end()
        else:  # Lucene tries again from each character, in vain until the end of the run is in sight
            place = max(place + 1, _end_of_run(spelling, place) - LONGEST_WORD + 1)
    return words


def _end_of_run(spelling: str, place: int) -> int:
    return len(spelling) - len(spelling[place:].lstrip(spelling[place])) if spelling[place] in "_z" else place


def _length_within_limit(text: str, place: int) -> int:
    """How many characters Lucene looks at from here."""
    window = text[place : place + LONGEST_WORD]
    if window.isascii() or max(window) <= "\uffff":
        return len(window)
    ends = accumulate(1 + (letter > "\uffff") for letter in window)
    return sum(end <= LONGEST_WORD for end in ends)


class _Classes(dict[int, str]):
    """Code point -> class, a space for characters that are in no word; looked up in ranges when first met."""

    def __init__(self) -> None:
        ranges = []
        text = resources.files(__package__).joinpath("word_classes.txt").read_text(encoding="ascii")
        for line in text.replace("\n  ", " ").splitlines():
            name, *spans = line.split()
            for span in spans:
                first, _, last = span.partition("-")
                ranges.append((int(first, 16), int(last or first, 16), name))
        ranges.sort()
        self._firsts = [first for first, _, _ in ranges]
        self._ranges = ranges

    def __missing__(self, point: int) -> str:
        place = bisect_right(self._firsts, point) - 1
        found = " "
        if place >= 0:
            _, last, name = self._ranges[place]
            found = name if point <= last else " "
        self[point] = found
        return found


_classes = cache(_Classes)
_START = re.compile("[AHMNKSTtEfR#_z]")


@cache
def _word() -> re.Pattern[str]:
    """Words in the spelling of classes.

    Classes: A letter, H Hebrew letter, N digit, K Katakana, M letter and emoji, S ideograph or Hiragana, T South East
    Asian, E emoji, f emoji modifier, R half a flag, # sign of a key cap; _ : . ' " , join what stands on both sides;
    x extends the character before, as do t (also South East Asian), f, k (key cap), y and v (presentation selectors)
    and z (joiner).
    """
    more = "[xvyzftk]*+"
    low_lines = f"(?:_{more})*+"
    letter = f"[AHM]{more}"
    hebrew = f"""H{more}(?:"{more}H{more}|'{more})"""
    letters = f"(?!{hebrew}){letter}(?:{low_lines}(?!{hebrew}){letter}|[:.']{more}{letter})*+"
    numbers = f"N{more}(?:(?:{low_lines}|[,.']{more})N{more})*+"
    katakana = f"K{more}(?:{low_lines}K{more})*+"
    run = f"(?:{katakana}|(?:{hebrew}|{letters}|{numbers})++)"
    bare = "[xzftk]*+"
    joined = f"{bare}(?:(?<=z)|vz++)"
    emojis = f"(?:{joined}[EM])*+{bare}v?"
    kinds = (
        f"M(?:{joined}M)*+{joined}E{emojis}",
        f"{low_lines}{run}(?:(?:_{more})++{run})*+{low_lines}",
        f"z*+[EM]{emojis}",
        f"f{bare}(?:(?<=z)[EM]{emojis})?",
        f"#(?:{bare}vk{bare}|(?=[xzft]*+k){bare})",
        f"(?:R{more}){{2}}",
        "[Tt][xvyzftkT]*+",
        f"S{more}",
        "(?P<nothing>_++|z++)",  # taken in one piece, or a long run would be tried from each of its characters
    )
    return re.compile("|".join(kinds))
