"""From text to index terms, as Lucene's analyzer for English has it in Anserini and pyserini.

Words without the possessive 's, lower-cased, without stop words, stemmed by Porter's algorithm.
"""

from __future__ import annotations

from functools import lru_cache

from opid_gym_envs.webshop.search.porter import stem
from opid_gym_envs.webshop.search.words import split_words

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that are not indexed: Lucene's list for English."""


def analyze(text: str) -> list[str]:
    """The terms of a text in order.

    >>> analyze("The women's boots, size 7.5 with 2 zippers!")
    ['women', 'boot', 'size', '7.5', '2', 'zipper']
    """
    return [found for word in split_words(text) if (found := term(word)) is not None]


@lru_cache(maxsize=1 << 16)
def term(word: str) -> str | None:
    """The index term of one word; None for a stop word."""
    if word[-2:-1] in ("'", "’", "＇") and word[-1:] in ("s", "S"):
        word = word[:-2]
    word = word.lower() if word.isascii() else "".join(map(_lower, word))
    if word in STOP_WORDS:
        return None
    return _stem_in_utf16(word) if any(letter > "\uffff" for letter in word) else stem(word)


def _lower(letter: str) -> str:
    return "i" if letter == "İ" else letter.lower()  # Java's mapping of single characters


def _stem_in_utf16(word: str) -> str:
    """Java's characters are UTF-16 units, of which rare letters have two; the stemmer counts them."""
    units = word.encode("utf-16-be", "surrogatepass")
    letters = "".join(chr(int.from_bytes(units[place : place + 2])) for place in range(0, len(units), 2))
    return stem(letters).encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")
