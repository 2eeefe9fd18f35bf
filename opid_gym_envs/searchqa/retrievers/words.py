"""Which words of a query say nothing about what is asked."""

from __future__ import annotations

# Lucene's English stop words, the words questions are made with, and what an apostrophe leaves behind.
_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
did do does had has have how many much were what when where which who whom whose why
d ll m re s t ve
"""
STOP_WORDS = frozenset(_WORDS.split())


def printable(text: str) -> str:
    """Text that every engine can take: half a surrogate pair, which is no character, becomes a question mark.

    >>> printable("caf\\ud800e")
    'caf?e'
    """
    return text.encode("utf-8", "replace").decode("utf-8")
