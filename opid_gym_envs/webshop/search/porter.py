"""Porter's stemmer, with its author's two later changes, as Lucene's ``PorterStemFilter`` has it.

M. F. Porter, *An algorithm for suffix stripping*, Program 14(3), 1980; the changes ("bli" for "abli", and "logi") are
those of his own later implementations.
"""

from __future__ import annotations

from itertools import pairwise

_SECOND = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("logi", "log"),
)
_THIRD = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_FOURTH = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent"),
    *("sion", "tion", "ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


def stem(word: str) -> str:
    """The stem of a lower-cased word; words of one or two letters are stems.

    >>> [stem(word) for word in ("relational", "hopping", "ponies", "sky", "lenses")]
    ['relat', 'hop', 'poni', 'sky', 'lens']
    """
    if len(word) <= 2:
        return word
    word = _inflection(word)
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(_replace(word, _SECOND), _THIRD)
    for suffix in _FOURTH:
        if word.endswith(suffix):
            kept = len(word) - (3 if suffix in ("sion", "tion") else len(suffix))
            word = word[:kept] if _measure(word[:kept]) > 1 else word
            break
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_short(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word[:-1]) > 1:
        word = word[:-1]
    return word


def _inflection(word: str) -> str:
    """Plurals, and the ends -ed and -ing."""
    if word.endswith("s"):
        if word.endswith(("sses", "ies")):
            word = word[:-2]
        elif word[-2] != "s":
            word = word[:-1]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    end = next((end for end in ("ed", "ing") if word.endswith(end)), "")
    if not end or not _has_vowel(word[: -len(end)]):
        return word
    word = word[: -len(end)]
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if len(word) > 1 and word[-1] == word[-2] and _is_consonant(word, len(word) - 1):
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _measure(word) == 1 and _ends_short(word) else word


def _replace(word: str, endings: tuple[tuple[str, str], ...]) -> str:
    for ending, other in endings:
        if word.endswith(ending):
            kept = word[: -len(ending)]
            return kept + other if _measure(kept) > 0 else word
    return word


def _is_consonant(word: str, index: int) -> bool:
    letter = word[index]
    if letter == "y":
        return index == 0 or not _is_consonant(word, index - 1)
    return letter not in "aeiou"


def _has_vowel(word: str) -> bool:
    return not all(_is_consonant(word, index) for index in range(len(word)))


def _measure(word: str) -> int:
    """How often a run of vowels is followed by a run of consonants."""
    kinds = [_is_consonant(word, index) for index in range(len(word))]
    return sum(after and not before for before, after in pairwise(kinds))


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant other than w, x, y at the end."""
    last = len(word) - 1
    return (
        last >= 2
        and _is_consonant(word, last)
        and not _is_consonant(word, last - 1)
        and _is_consonant(word, last - 2)
        and word[last] not in "wxy"
    )
