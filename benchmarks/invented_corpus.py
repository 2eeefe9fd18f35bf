"""A corpus of any size out of real text, with queries whose answers are known.

The passages of the World Factbook come first, as they are. Then come invented countries, as many as it takes: each has
the sections of a real one, and each of its passages is put together from sentences that real countries have in that
section. Country names become the invented country's or a neighbour's, half of the other names become names of its own,
and the digits are permuted within each passage. So words are as frequent and as unevenly frequent as in the book, and
every country has words that only its passages have, as articles do. Everything follows from the seed.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from opid_gym_envs.searchqa.corpus import Passage, read_corpus
from opid_gym_envs.searchqa.factbook import load_factbook
from opid_gym_envs.searchqa.retrievers.words import STOP_WORDS

WORDS = 85
NAMES_OF_ITS_OWN = 12
_ONSETS = (*"bdfgklmnprstvz", "br", "dr", "kh", "st", "tr")
_SYLLABLES = [onset + vowel + end for onset in _ONSETS for vowel in "aeiou" for end in ("", *"nrls")]
_SENTENCE = re.compile(r"(?<=[.!?;]) (?=\S)")
_CAPITALISED = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+\b")
_DIGITS = "0123456789"


class InventedCorpus:
    """Passages by number, and queries for them.

    Args:
        seed: of everything.
    """

    def __init__(self, seed: int = 0) -> None:
        self.real = list(read_corpus(load_factbook().corpus))
        self.seed = seed
        countries = {passage.title.partition(": ")[0] for passage in self.real}
        country = re.compile(r"\b(" + "|".join(map(re.escape, sorted(countries, key=len, reverse=True))) + r")\b")
        # Sentences by section, each cut where a name stands: text, name, text, ...; a country is marked by "\0".
        self._sentences: defaultdict[str, list[list[str]]] = defaultdict(list)
        for passage in self.real:
            section = passage.title.partition(": ")[2]
            for sentence in _SENTENCE.split(passage.text):
                if 4 <= len(sentence.split()) <= 60:
                    marked = _CAPITALISED.sub("\1\\g<0>\1", country.sub("\1\0\1", sentence))
                    self._sentences[section].append(marked.split("\1"))
        self._sections = sorted(self._sentences)

    def passages(self, count: int) -> Iterator[Passage]:
        """The first `count` passages; more of them begin with the same ones."""
        yield from self.real[:count]
        made, number = len(self.real), 0
        while made < count:
            for passage in self._country(number)[: count - made]:
                yield passage
                made += 1
            number += 1

    def queries(self, passages: Sequence[Passage], count: int) -> list[tuple[str, str]]:
        """Known items: pairs of a query and the id of the passage it was made of.

        A query names the passage's country and some words of one of its sentences.
        """
        rng = random.Random(f"{self.seed} queries")
        pairs = []
        for passage in rng.choices(passages, k=count):
            words = re.findall(r"\w+", rng.choice(_SENTENCE.split(passage.text)))
            telling = [word for word in words if word.lower() not in STOP_WORDS] or words
            chosen = rng.sample(telling, min(len(telling), rng.randint(2, 5)))
            pairs.append((f"What about {' '.join(chosen)} of {passage.title.partition(': ')[0]}?", passage.id))
        return pairs

    def _country(self, number: int) -> list[Passage]:
        rng = random.Random(f"{self.seed} {number}")
        name, *neighbours = (_name(rng) for _ in range(3))
        names = [_name(rng) for _ in range(NAMES_OF_ITS_OWN)]
        passages = []
        for section in self._sections:
            for part in range(rng.randint(1, 8)):
                text = self._text(rng, section, [name, name, *neighbours], names)
                passages.append(Passage(f"invented-{number}-{len(passages)}-{part}", f"{name}: {section}", text))
        return passages

    def _text(self, rng: random.Random, section: str, countries: list[str], names: list[str]) -> str:
        parts: list[str] = []
        length = 0
        while length < WORDS:
            pieces = list(rng.choice(self._sentences[section]))
            for place in range(1, len(pieces), 2):
                if pieces[place] == "\0":
                    pieces[place] = rng.choice(countries)
                elif rng.random() < 0.5:
                    pieces[place] = rng.choice(names)
            parts.append("".join(pieces))
            length += parts[-1].count(" ") + 1
        digits = "".join(rng.sample(_DIGITS, 10))
        return " ".join(parts).translate(str.maketrans(_DIGITS, digits))


def _name(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))).title()
