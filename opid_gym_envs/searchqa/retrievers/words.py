"""Text to the terms that our own lexical engines index and look for.

Words of most languages are what stands between spaces and punctuation. Chinese and Japanese have no spaces, and Korean
puts endings behind its words, so they are cut into overlapping pairs of characters, as Lucene's CJK analyzer cuts them;
Thai, Lao, Khmer and Burmese too, whose words only a dictionary could tell apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import islice

import tantivy

LANGUAGES = (
    "arabic",
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "greek",
    "hungarian",
    "italian",
    "none",
    "norwegian",
    "portuguese",
    "romanian",
    "russian",
    "spanish",
    "swedish",
    "tamil",
    "turkish",
)
"""Languages whose words are stemmed (Snowball's stemmers, in tantivy); ``"none"`` leaves words as they are."""

# Lucene's English stop words, the words questions are made with, and what an apostrophe leaves behind.
_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
did do does had has have how many much were what when where which who whom whose why
d ll m re s t ve
"""
STOP_WORDS = frozenset(_WORDS.split())
# Languages of which tantivy knows stop words.
_WITH_STOP_WORDS = frozenset(LANGUAGES) - {"arabic", "greek", "none", "romanian", "tamil", "turkish"}

_SPACES = dict.fromkeys((*range(32), *range(127, 160)), " ")

# Maximum words of a query, the first ones; a question has ten.
MAX_WORDS = 1_000

# A word to make passages longer with: no query has it, even one that says it.
FILLER = "zzfillerzz"

# Characters of scripts whose words are not told apart by spaces.
_CJK = (
    "\u1100-\u11ff\u3005\u3007\u3021-\u3029\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3130-\u318f\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_SOUTH_EAST_ASIAN = "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecd\u0edc-\u0edf\u1000-\u103f\u1050-\u108f\u1780-\u17d3"
_RUN = re.compile(f"[{_CJK}{_SOUTH_EAST_ASIAN}]+")
# Forms of half and full width, which stand for plain characters.
_WIDE = "\uff01-\uffee"
# Points and signs over Hebrew and Arabic consonants, which most texts leave out.
_POINTS = "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0640"


def analyzer(language: str = "english", *, informative: bool = False) -> tantivy.TextAnalyzer:
    """Stems of words, upper and lower case and accents aside.

    Args:
        language: one of `LANGUAGES`; words of other alphabets than its own stay as they are.
        informative: leave stop words out, of languages for which there is a list.

    Raises:
        ValueError: an unknown language.

    >>> analyzer(informative=True).analyze("Where does the Niger's source lie? In Guinée!")
    ['niger', 'sourc', 'lie', 'guine']
    >>> analyzer("german").analyze("die Universitäten")
    ['die', 'universitat']
    """
    if language not in LANGUAGES:
        raise ValueError(f"language must be one of {list(LANGUAGES)}, got {language!r}")
    filters = [tantivy.Filter.remove_long(100), tantivy.Filter.lowercase()]
    if informative and language == "english":
        filters.append(tantivy.Filter.custom_stopword(sorted(STOP_WORDS)))
    elif informative and language in _WITH_STOP_WORDS:
        filters.append(tantivy.Filter.stopword(language))
    if language != "none":
        filters.append(tantivy.Filter.stemmer(language))
    # A stemmer of English knows no accents, others need them.
    filters.insert(2 if language == "english" else len(filters), tantivy.Filter.ascii_fold())
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
    for one in filters:
        builder = builder.filter(one)
    return builder.build()


def query_analyzer(language: str = "english") -> Callable[[str], list[str]]:
    """What makes stems of a query: without its stop words, unless it has no others.

    >>> analyze = query_analyzer()
    >>> analyze("When was the band formed?"), analyze("The Who"), analyze("首都は？")
    (['band', 'form'], ['the', 'who'], ['首都', '都は'])
    """
    informative, everything = analyzer(language, informative=True).analyze, analyzer(language).analyze
    fillers = frozenset(everything(FILLER))

    def analyze(query: str) -> list[str]:
        query = searchable(query)
        stems = islice(informative(query) or everything(query), MAX_WORDS)
        return [stem for stem in stems if stem not in fillers]

    return analyze


def searchable(text: str) -> str:
    r"""Text as it is given to `analyzer`, whatever its script; text in ASCII stays as it is.

    >>> searchable("Tokyo (東京都)"), searchable("ﾄｳｷｮｳ"), searchable("e\u0301le\u0300ve")
    ('Tokyo ( 東京 京都 )', ' トウ ウキ キョ ョウ ', 'élève')
    """
    text = printable(text)
    if text.isascii():
        return text
    special, dropped = _marks()
    if not special.search(text):
        return text
    text = dropped.sub("", unicodedata.normalize("NFKC", text))
    return _RUN.sub(_in_pairs, text)


def printable(text: str) -> str:
    r"""Text that every engine can take: control characters are spaces, half a surrogate pair a question mark.

    >>> printable("caf\ud800e\x00noir")
    'caf?e noir'
    """
    if text.isprintable():
        return text
    return text.encode("utf-8", "replace").decode("utf-8").translate(_SPACES)


def _in_pairs(run: re.Match[str]) -> str:
    """Each character with its neighbour, marks counted with the character that they belong to; one alone stays."""
    clusters: list[str] = []
    for character in run.group():
        if clusters and unicodedata.category(character)[0] == "M":
            clusters[-1] += character
        else:
            clusters.append(character)
    if len(clusters) == 1:
        return f" {clusters[0]} "
    return f" {' '.join(map(str.__add__, clusters, clusters[1:]))} "


@cache
def _marks() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What finds text that must be prepared, and what finds the marks in it that would cut a word in two."""
    marks = [chr(code) for code in range(0x300, 0xFFFF) if _is_mark(chr(code))]
    inside = analyzer("none").analyze
    cutting = "".join(mark for mark in marks if len(inside(f"x{mark}x")) > 1)
    dropped = re.compile(f"[{_POINTS}{re.escape(cutting)}]")
    return re.compile(f"[{_CJK}{_SOUTH_EAST_ASIAN}{_WIDE}{_POINTS}{re.escape(''.join(marks))}]"), dropped


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Mc", "Me") or character in "\u200c\u200d"
