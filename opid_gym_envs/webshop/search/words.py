"""Splitting text into words where Lucene's ``StandardTokenizer`` does.

The boundaries are those of Unicode's UAX #29, and beyond it emoji sequences, runs of South East Asian script and single
ideographs and Hiragana are words. ``word_classes.txt`` gives the class of every character as Lucene 8 and 9 see it
(Unicode 9, emoji 11), whatever Unicode the running Python knows: a text is spelled in classes, and words are matched in
that spelling.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cache
from importlib import resources

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
        joined = "_" in text
    else:
        spelling = text.translate(_classes())
        words = [text[match.start() : match.end()] for match in _word().finditer(spelling)]
        joined = True
    if len(text) > LONGEST_WORD // 2 and any(len(word) > LONGEST_WORD // 2 for word in words):
        return _split_within_limit(text)
    return [word for word in words if not _joins_nothing(word)] if joined else words


def _joins_nothing(word: str) -> bool:
    """Whether a match is a run of characters that could have joined words, but did not."""
    return not word.strip("_") or all(letter.translate(_classes()) in _LEFT_OVER for letter in word)


def _split_within_limit(text: str) -> list[str]:
    spelling = text.translate(_classes())
    words = []
    place = 0
    while match := _word().search(spelling, place):
        start, end = match.span()
        if _units(text[start:end]) > LONGEST_WORD:
            limit = start + LONGEST_WORD
            while _units(text[start:limit]) > LONGEST_WORD:
                limit -= 1
            inside = _word().match(spelling, start, limit)
            end = inside.end() if inside else start + 1
        if _joins_nothing(text[start:end]):
            end = min(end, start + 1) if end - start > LONGEST_WORD // 2 else end
        else:
            words.append(text[start:end])
        place = end
    return words


def _units(text: str) -> int:
    return len(text) + sum(letter > "\uffff" for letter in text)


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


_LEFT_OVER = frozenset("_z")
_classes = cache(_Classes)


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
        "_++|z++",  # no word, but taken in one piece, or a long run would be tried from each of its characters
    )
    return re.compile("|".join(kinds))
