"""The part of a passage that a query asks about, in place of the whole or of its beginning."""

from __future__ import annotations

import re

from opid_gym_envs.searchqa.retrievers.words import STOP_WORDS
from opid_gym_envs.searchqa.scoring import normalise

_SENTENCE_END = re.compile(r'(?<=[.;?!])\s+(?=[A-Z"(\d])')


def sentences(text: str) -> list[str]:
    """A text cut behind its full stops, as far as a rule can tell them.

    >>> sentences("Capital, name: Nairobi. Time difference: UTC+3 (8 hours ahead).")
    ['Capital, name: Nairobi.', 'Time difference: UTC+3 (8 hours ahead).']
    """
    return _SENTENCE_END.split(text)


def shared_words(text: str, words: frozenset[str]) -> int:
    """How many of some words (see `content_words`) a text has."""
    return len(content_words(text) & words)


def content_words(text: str) -> frozenset[str]:
    """The different words of a text that mean something, without the ending of the plural."""
    return frozenset(word.rstrip("s") for word in normalise(text).split() if word not in STOP_WORDS)


def best_sentence(text: str, words: frozenset[str]) -> int:
    """The number of the sentence that has most of some words; the first of equals."""
    scores = [shared_words(sentence, words) for sentence in sentences(text)]
    return scores.index(max(scores))


def excerpt(text: str, query: str, characters: int, *, title: str = "") -> str:
    """The sentence that has most of a query's words, and as many of its neighbours as there is room for.

    Args:
        text: of a passage.
        query: what was asked.
        characters: maximum length; a longer sentence is cut, to begin no later than with the query's first word in it.
        title: of the passage; what it says itself need not be found in a sentence.

    >>> excerpt("Area: 580,367 sq km. Capital, name: Nairobi. Anthem: Ee Mungu.", "capital of Kenya", 25)
    'Capital, name: Nairobi.'
    """
    if len(text) <= characters:
        return text
    parts, words = sentences(text), content_words(query) - content_words(title)
    first = last = best_sentence(text, words)
    sentence = parts[first]
    if len(sentence) > characters:
        found = (match.start() for match in re.finditer(r"\w+", sentence) if content_words(match.group()) & words)
        start = min(next(found, 0), len(sentence) - characters)
        return sentence[start : start + characters].strip()
    length = len(sentence)
    while True:
        if last + 1 < len(parts) and length + 1 + len(parts[last + 1]) <= characters:
            last += 1
            length += 1 + len(parts[last])
        elif first and length + 1 + len(parts[first - 1]) <= characters:
            first -= 1
            length += 1 + len(parts[first])
        else:
            return " ".join(parts[first : last + 1])
