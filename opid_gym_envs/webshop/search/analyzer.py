"""From text to index terms, as Lucene's analyzer for English has it in Anserini and pyserini.

Words by Unicode's word boundaries (UAX #29, with Lucene's additions: emoji, runs of South East Asian script and single
ideographs are words), without the possessive 's, lower-cased, without stop words, stemmed by Porter's algorithm.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from opid_gym_envs.webshop.search.porter import stem

LONGEST_WORD = 255
"""Lucene cuts longer words into pieces of so many UTF-16 units."""

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that are not indexed: Lucene's list for English."""

_ASCII_WORD = re.compile(
    r"_*[A-Za-z0-9](?:[A-Za-z0-9_]+|(?<=[0-9])[.,;'](?=[0-9])|(?<=[A-Za-z])[:.'](?=[A-Za-z]))*", re.ASCII
)


def analyze(text: str) -> list[str]:
    """The terms of a text in order.

    >>> analyze("The women's boots, size 7.5 with 2 zippers!")
    ['women', 'boot', 'size', '7.5', '2', 'zipper']
    """
    return [found for word in split_words(text) if (found := term(word)) is not None]


def split_words(text: str) -> list[str]:
    """The words of a text, unchanged."""
    words: list[str] = (_ASCII_WORD if text.isascii() else _unicode_word()).findall(text)
    if len(text) <= LONGEST_WORD or not any(len(word) > LONGEST_WORD // 2 for word in words):
        return words
    return [piece for word in words for piece in _pieces(word)]


@lru_cache(maxsize=1 << 16)
def term(word: str) -> str | None:
    """The index term of one word; None for a stop word."""
    if word[-2:-1] in ("'", "’", "＇") and word[-1:] in ("s", "S"):
        word = word[:-2]
    word = word.lower() if word.isascii() else "".join(_lower(letter) for letter in word)
    return None if word in STOP_WORDS else stem(word)


def _lower(letter: str) -> str:
    return "i" if letter == "İ" else letter.lower()  # Java's mapping of single characters


def _pieces(word: str) -> list[str]:
    units = word.encode("utf-16-le", "surrogatepass")
    size = 2 * LONGEST_WORD
    return [units[i : i + size].decode("utf-16-le", "replace") for i in range(0, len(units), size)]


@cache
def _unicode_word() -> Any:
    import regex  # needed for other than ASCII only

    extend = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*+"
    bare = r"(?:(?![\uFE0E\uFE0F])[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}])*"

    def extended(characters: str) -> str:
        return f"{characters}{extend}"

    letter = extended(r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}]")
    number = extended(r"[\p{WB=Numeric}\uFF10-\uFF19]")
    katakana = extended(r"\p{WB=Katakana}")
    low_line = extended(r"\p{WB=ExtendNumLet}")
    mid_letter = extended(r"[\p{WB=MidLetter}\p{WB=MidNumLet}\p{WB=Single_Quote}]")
    mid_number = extended(r"[\p{WB=MidNum}\p{WB=MidNumLet}\p{WB=Single_Quote}]")
    hebrew = extended(r"\p{WB=Hebrew_Letter}")
    quotes = rf"(?:{hebrew}(?:{extended(chr(39))}|{extended(chr(34))}{hebrew}))"
    numbers = rf"(?:{number}(?:(?:(?:{low_line})*|{mid_number}){number})*)"
    letters = rf"(?:{letter}(?:(?:(?:{low_line})*|{mid_letter}){letter})*)"
    run = rf"(?:{katakana}(?:(?:{low_line})*{katakana})*|(?:{quotes}|{numbers}|{letters})+)"
    word = rf"(?:{low_line})*{run}(?:(?:{low_line})+{run})*(?:{low_line})*"
    picture = r"(?:[\p{Extended_Pictographic}--[©®™〰〽]])"
    emoji_modifier = rf"\p{{Emoji_Modifier}}{bare}"
    emoji = rf"(?:\u200D*{picture}{bare}\uFE0F?|(?:\u200D*\p{{Emoji_Modifier_Base}}{bare})?{emoji_modifier})"
    emojis = rf"{emoji}(?:(?:\u200D{emoji})*|[\U000E0020-\U000E007E]+\U000E007F)"
    key_cap = rf"[0-9#*]{bare}\uFE0F?\u20E3{bare}"
    flag = rf"(?:{extended(chr(92) + 'p{WB=Regional_Indicator}')}){{2}}"
    south_east_asian = rf"(?:{extended(chr(92) + 'p{LB=SA}')})+"
    single = extended(r"[\p{Script=Han}\p{Script=Hiragana}]")
    kinds = (emojis, key_cap, flag, word, south_east_asian, single)
    return regex.compile(f"(?pV1){'|'.join(kinds)}")
