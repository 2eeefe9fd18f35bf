"""From facts to questions: one-hop, two-hop and comparisons, with the passages that each takes.

- *One-hop*: a fact of a country. "What is the currency of Kenya?"
- *Two-hop*: a fact of a country that is described by another fact, told in another passage. "What is the currency of
  the country whose capital is Nairobi?", "What is the capital of the largest export partner of Kenya?"
- *Comparison*: one figure of two countries. "Which has the larger total area, Kenya or Uganda?"

Every question is made by rule from the book, and only if it can be checked: its answer stands in its last passage, a
description fits one country only and does not give its name away, and the figures compared differ clearly. The splits
share no country: whatever a question names, asks for or goes through belongs to the question's split.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from opid_gym_envs.searchqa.factbook_facts import RELATIONS, Relation
from opid_gym_envs.searchqa.factbook_passages import Book, Country
from opid_gym_envs.searchqa.questions import Question
from opid_gym_envs.searchqa.scoring import normalise

SPLITS = ("train", "dev", "test")
ONE_HOP, TWO_HOP, COMPARISON = ("factbook-one-hop", "factbook-two-hop", "factbook-comparison")

# Of the countries, in percent.
_SHARES = (60, 15, 25)
_SEED = 20261125
# Words of a passage that find it.
_OPENING = 24
# Two-hop questions that go on to one country, by how it is described; pairs a country is compared in, by figure.
_PER_FACT, _PER_COUNTRY = 2, 2
# Least and largest ratio of two figures that are compared.
_RATIO = (1.1, 12.0)
# One-hop questions whose answer is often no more than the country's own name.
_GUESSED = frozenset({"ethnic-group", "language"})
# Differences of these figures are small by nature.
_CLOSE = {"median-age": (1.05, 3.0), "life-expectancy": (1.03, 2.0), "independence": (1.002, 2.0)}


@dataclass(frozen=True, slots=True)
class Fact:
    """A relation of one country, read and checked.

    Attributes:
        country: whose.
        relation: which.
        answers: accepted, best first.
        passage: id of the passage that tells it.
        about: the country that the answer is, if it is one.
    """

    country: Country
    relation: Relation
    answers: tuple[str, ...]
    passage: str
    about: Country | None = None


def make_questions(book: Book) -> dict[str, list[Question]]:
    """All questions by split, each split in an order in which any first part is a fair sample of it.

    The same book gives the same questions.
    """
    return _Maker(book).make()


class _Maker:
    def __init__(self, book: Book) -> None:
        self.book = book
        self.subjects = [country for country in book.countries.values() if country.is_subject]
        order = self.subjects.copy()
        random.Random(_SEED).shuffle(order)
        first, second = (len(order) * share // 100 for share in (_SHARES[0], _SHARES[0] + _SHARES[1]))
        self.split_of = {
            country.code: SPLITS[(number >= first) + (number >= second)] for number, country in enumerate(order)
        }
        self.facts: dict[tuple[str, str], Fact] = {
            (fact.country.code, fact.relation.name): fact
            for country in self.subjects
            for relation in RELATIONS
            if (fact := self._fact(country, relation))
        }

    def make(self) -> dict[str, list[Question]]:
        split: defaultdict[str, list[Question]] = defaultdict(list)
        for question, countries in (*self._one_hop(), *self._two_hop(), *self._comparisons()):
            mentioned = {country.code for text in (question.text, *question.answers) for country in self.named_in(text)}
            where = {self.split_of[code] for code in mentioned | countries}
            if len(where) == 1:
                split[where.pop()].append(question)
        for name in SPLITS:
            split[name].sort(key=lambda question: question.id)
            random.Random(f"{_SEED}:{name}").shuffle(split[name])
        return {name: split[name] for name in SPLITS}

    # ------------------------------------------------------------------------------------------------- countries

    @cached_property
    def _by_name(self) -> Mapping[str, Country]:
        return {name: country for country in self.subjects for name in reversed(country.names)}

    @cached_property
    def _any_name(self) -> re.Pattern[str]:
        names = sorted(self._by_name, key=len, reverse=True)
        return re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, names)) + r")(?!\w)")

    def named_in(self, text: str) -> Iterator[Country]:
        """The countries that a text names; where names overlap, that of the longest."""
        for match in self._any_name.finditer(text):
            yield self._by_name[match.group()]

    # ----------------------------------------------------------------------------------------------------- facts

    def _fact(self, country: Country, relation: Relation) -> Fact | None:
        text = country.fields.get(relation.path)
        answers = relation.read(text) if text else ()
        if not answers:
            return None
        best = normalise(answers[0])
        telling = self.book.telling[country.code, relation.path]
        passages = [id for id in telling if f" {best} " in f" {normalise(self.book.passages[id].text)} "]
        if not best or not passages:
            return None
        about = self._by_name.get(answers[0]) if relation.country else None
        if relation.country:
            if about is None or about is country:
                return None
            answers = tuple(dict.fromkeys((*answers, *about.names)))
        elif set(map(normalise, answers)) & set(map(normalise, country.names)):
            return None  # the capital of Luxembourg
        return Fact(country, relation, answers, passages[0], about)

    def _gives_away(self, description: str, country: Country) -> bool:
        """Whether a description has a word that begins like one of the country's name."""
        words = [word[:4].lower() for name in country.names for word in re.findall(r"\w{4,}", name)]
        adjective = country.fields.get("People and Society/Nationality/adjective", "")[:4].lower()
        return any(word in description.lower() for word in (*words, adjective) if word)

    # ------------------------------------------------------------------------------------------------- questions

    def _ways(self, query: str, passage: str) -> tuple[str, str]:
        """What one would search for, and the passage's own first words, which find it for certain."""
        return query, " ".join(self.book.passages[passage].contents.split()[:_OPENING])

    def _one_hop(self) -> Iterator[tuple[Question, set[str]]]:
        for fact in self.facts.values():
            country, relation = fact.country, fact.relation
            if relation.name in _GUESSED and self._gives_away(fact.answers[0], country):
                continue
            question = Question(
                id=f"generated/factbook:one-hop:{country.code}:{relation.name}",
                source=ONE_HOP,
                text=relation.question.format(place=country.place),
                answers=fact.answers,
                supports=(fact.passage,),
                queries=(self._ways(relation.query.format(name=country.name), fact.passage),),
            )
            yield question, {country.code}

    def _two_hop(self) -> Iterator[tuple[Question, set[str]]]:
        meant: defaultdict[str, set[str]] = defaultdict(set)
        for fact in self.facts.values():
            for answer in fact.answers:
                meant[_alike(answer)].add(fact.country.code)
        for fact in self.facts.values():
            relation = fact.relation
            if not relation.identifies:
                continue
            if fact.about is not None:
                bridge = fact.about
                description = relation.identifies.format(place=fact.country.place)
                clue = relation.query.format(name=fact.country.name)
            else:
                bridge = fact.country
                answer = fact.answers[0]
                kind = "country" if bridge.sovereign else "territory"
                description = relation.identifies.format(kind=kind, answer=answer)
                clue = relation.clue.format(answer=answer)
                if len(meant[_alike(answer)]) > 1 or self._gives_away(answer, bridge):
                    continue
            yield from self._go_on(fact, bridge, description, clue)

    def _go_on(self, fact: Fact, bridge: Country, description: str, clue: str) -> Iterator[tuple[Question, set[str]]]:
        """Questions about a described country."""
        first = fact.passage
        told = f" {normalise(self.book.passages[first].text)} {normalise(description)} "
        candidates = [
            second
            for relation in RELATIONS
            if (second := self.facts.get((bridge.code, relation.name)))
            and second.about is None
            and second.passage != first
            and not any(f" {normalise(answer)} " in told for answer in second.answers)
        ]
        random.Random(f"{_SEED}:{fact.country.code}:{fact.relation.name}").shuffle(candidates)
        for second in candidates[: _PER_COUNTRY if fact.about else _PER_FACT]:
            question = Question(
                id=f"generated/factbook:two-hop:{fact.country.code}:{fact.relation.name}:{second.relation.name}",
                source=TWO_HOP,
                text=second.relation.question.format(place=description),
                answers=second.answers,
                supports=(first, second.passage),
                queries=(
                    self._ways(clue, first),
                    self._ways(second.relation.query.format(name=bridge.name), second.passage),
                ),
            )
            yield question, {fact.country.code, bridge.code}

    def _comparisons(self) -> Iterator[tuple[Question, set[str]]]:
        for relation in RELATIONS:
            if relation.value is None:
                continue
            low, high = _CLOSE.get(relation.name, _RATIO)
            values = {
                country.code: value
                for country in self.subjects
                if (country.code, relation.name) in self.facts
                and (value := relation.value(country.fields[relation.path])) is not None
            }
            for split in SPLITS:
                rng = random.Random(f"{_SEED}:{relation.name}:{split}")
                waiting = [self.book.countries[code] for code in values if self.split_of[code] == split]
                rng.shuffle(waiting)
                while waiting:
                    one = waiting.pop()
                    for other in waiting:
                        small, large = sorted((values[one.code], values[other.code]))
                        if low <= large / small <= high and self._distinct(one, other):
                            waiting.remove(other)
                            yield self._comparison(relation, one, other, values[one.code] > values[other.code])
                            break

    def _distinct(self, one: Country, other: Country) -> bool:
        """Whether two names can stand side by side: neither is part of the other, nor a list."""
        within = any(a.lower() in b.lower() or b.lower() in a.lower() for a in one.names for b in other.names)
        return not within and "," not in one.name + other.name

    def _comparison(
        self, relation: Relation, one: Country, other: Country, first_wins: bool
    ) -> tuple[Question, set[str]]:
        pair = (one, other)
        winner = one if first_wins else other
        passages = tuple(self.facts[country.code, relation.name].passage for country in pair)
        question = Question(
            id=f"generated/factbook:comparison:{one.code}-{other.code}:{relation.name}",
            source=COMPARISON,
            text=relation.compare.format(first=one.place, second=other.place),
            answers=winner.names,
            supports=passages,
            queries=tuple(
                self._ways(relation.query.format(name=country.name), passage)
                for country, passage in zip(pair, passages, strict=True)
            ),
        )
        return question, {one.code, other.code}


def _alike(answer: str) -> str:
    """The same for answers that differ in a plural: Mont Nimba and Monts Nimba are one mountain."""
    return " ".join(word.rstrip("s") for word in normalise(answer).split())
