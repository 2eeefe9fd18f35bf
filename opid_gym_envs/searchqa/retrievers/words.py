"""Text to the stems that our own lexical engines index and look for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice

import tantivy

# Lucene's English stop words, the words questions are made with, and what an apostrophe leaves behind.
_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
did do does had has have how many much were what when where which who whom whose why
d ll m re s t ve
"""
STOP_WORDS = frozenset(_WORDS.split())

_SPACES = dict.fromkeys((*range(32), *range(127, 160)), " ")

# Words of a query that count, the first ones; a question has ten.
MAX_WORDS = 1_000

# A word to make passages longer with: no query has it, even one that says it.
FILLER = "zzfillerzz"


def analyzer(stop_words: Collection[str] = ()) -> tantivy.TextAnalyzer:
    """English stems, upper and lower case and accents aside; words in other alphabets stay as they are.

    >>> analyzer(STOP_WORDS).analyze("Where does the Niger's source lie? In Guinée!")
    ['niger', 'sourc', 'lie', 'guine']
    """
    return (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(100))
        .filter(tantivy.Filter.lowercase())
        .filter(tantivy.Filter.ascii_fold())
        .filter(tantivy.Filter.custom_stopword(sorted(stop_words)))
        .filter(tantivy.Filter.stemmer("english"))
        .build()
    )


def query_analyzer() -> Callable[[str], list[str]]:
    """What makes stems of a query: without its stop words, unless it has no others.

    >>> analyze = query_analyzer()
    >>> analyze("When was the band formed?"), analyze("The Who")
    (['band', 'form'], ['the', 'who'])
    """
    informative, everything = analyzer(STOP_WORDS).analyze, analyzer().analyze

    def analyze(query: str) -> list[str]:
        query = printable(query)
        stems = islice(informative(query) or everything(query), MAX_WORDS)
        return [stem for stem in stems if stem != FILLER]

    return analyze


def printable(text: str) -> str:
    r"""Text that every engine can take: control characters are spaces, half a surrogate pair a question mark.

    >>> printable("caf\ud800e\x00noir")
    'caf?e noir'
    """
    if text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode("utf-8").translate(_SPACES)
