"""BM25 on tantivy: memory-mapped, the default.

Tantivy fixes BM25's parameters at k1 = 1.2, b = 0.75 (Robertson and Zaragoza, 2009), where pyserini's defaults for
Lucene are 0.9 and 0.4. The length of passages has Lucene's weight here all the same: every passage is indexed with P
fillers, a word that no query has. For a passage of length l, where the mean is L, BM25's factor of length is then

    1 - 0.75 + 0.75 (l + P) / (L + P)  =  1 - b + b l / L    with b = 0.75 L / (L + P)

and P = (0.75 / 0.4 - 1) L makes b = 0.4. ``benchmarks/retrieval.py`` measures what that is worth. Fillers cost a byte
of index a passage: a word has one entry in a passage, however often it is there.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import tantivy

from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, counted, silent
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.words import FILLER, LANGUAGES, analyzer, query_analyzer, searchable

TOKENIZER = "opid_gym"
# Rows between two commits: what an interruption can lose.
COMMIT_EVERY = 1_000_000
# One thread, so that the same corpus always gives the same index and the same order among equal scores.
HEAP = 1_000_000_000
# The weight of length: tantivy's, and the one wanted.
TANTIVY_B = 0.75
B = 0.4
# Number of passages, evenly spaced, from which the mean length is estimated. Where lengths deviate by half their mean,
# it is known to 1.6 %, and b to 0.003.
SAMPLE = 1_000
# Queries of more terms are searched in one go.
MOST_TERMS = 16
# Number of terms whose largest score is remembered.
TERMS_KEPT = 65_536
# Scores are sums in single precision, so bounds are taken a little higher.
SLACK = 1.0001
# What it costs to look a passage up in a term's list, and to search once more, in entries of lists read through
# (measured at 20,000 and 100,000 passages; the best passages are the same whatever these are).
LOOK_UP = 8
SEARCH = 3_000

# A passage's score, and where it is.
Found = tuple[float, tantivy.DocAddress]


class BM25(IndexedRetriever):
    """BM25 ranking of words' stems, upper and lower case and accents aside (see `words`).

    Stop words of a query are left out, unless it has no other words. The query is a bag of words: quotes, brackets,
    colons and the like mean nothing.

    Settings:
        language: whose stemmer is used, one of `words.LANGUAGES`. Texts may have words of other languages too.
    """

    FORMAT = 3  # 1 had no fillers, 2 took words without spaces between them for one
    SETTINGS = {"language": "english"}  # noqa: RUF012  (declared as a ClassVar of a Mapping above)
    CHOICES = {"language": LANGUAGES}  # noqa: RUF012

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        index = tantivy.Index.open(str(folder))
        self._schema = index.schema
        self._searcher = index.searcher()
        self._analyze = query_analyzer(settings["language"])
        self._term = lru_cache(TERMS_KEPT)(self._read_term)

    @classmethod
    def build(cls, folder: Path, passages: PassageStore, settings: Mapping[str, Any], stage: Stage = silent) -> None:
        """See `IndexedRetriever.build`."""
        folder.mkdir(parents=True, exist_ok=True)
        schema = (
            tantivy.SchemaBuilder()
            .add_text_field("contents", tokenizer_name=TOKENIZER, index_option="freq")
            .add_integer_field("row", fast=True)
            .build()
        )
        try:
            index = tantivy.Index(schema, path=str(folder))
        except ValueError:  # a power cut has torn what an interrupted build left
            shutil.rmtree(folder)
            folder.mkdir()
            index = tantivy.Index(schema, path=str(folder))
        index.register_tokenizer(TOKENIZER, analyzer(settings["language"]))
        index.reload()
        done = index.searcher().num_docs  # rows are added in order, and a commit is whole or not there
        fillers = f" {FILLER}" * fillers_for(passages, settings["language"])
        writer = index.writer(HEAP, num_threads=1)
        with stage("indexing words", len(passages)) as advance:
            advance(done)
            for row, passage in enumerate(counted(passages.read_from(done), advance), done):
                writer.add_document(tantivy.Document(contents=_indexed(passage) + fillers, row=row))
                if (row + 1) % COMMIT_EVERY == 0:
                    writer.commit()
            writer.commit()
            writer.wait_merging_threads()

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`. Tantivy searches for several queries at once, Python in between for one."""
        found: list[list[Found]] = [[] for _ in queries]
        going = [(self._best(query, k, hits), hits) for query, hits in zip(queries, found, strict=True)]
        while going:
            wanted = [(plan, hits, query) for plan, hits in going if (query := next(plan, None)) is not None]
            results = self._workers.map(lambda one: self._search(one[2], k), wanted)
            for (_, hits, _), result in zip(wanted, results, strict=True):
                hits[:] = result
            going = [(plan, hits) for plan, hits, _ in wanted]
        addresses = [address for hits in found for _, address in hits]
        rows = iter(self._searcher.fast_field_values("row", addresses))
        return [[(int(next(rows) or 0), score) for score, _ in hits] for hits in found]

    def _best(self, text: str, k: int, hits: Sequence[Found]) -> Iterator[tantivy.Query]:
        """Searches for the `k` best passages, which the last one finds; what one has found must be in `hits` then.

        At first, only passages with the term that can add most are looked at (MaxScore; Turtle and Flood, 1995). If the
        others could not add up to what the k-th best of these passages has, no passage without that term is among the
        best of all. Else those with any of the first few terms are, few enough that the others cannot make up for them.
        """
        counts = Counter(self._analyze(text))
        terms = [term for stem, count in counts.items() if (term := self._term(stem, count)) is not None]
        if not terms:
            return
        terms.sort(key=lambda term: -term.most)
        if len(terms) <= MOST_TERMS:
            # What the terms from each place on could add together.
            rests = [*accumulate((term.most * SLACK for term in reversed(terms)), initial=0.0)][::-1]
            worth = sum(term.passages for term in terms) - SEARCH
            passages, least = 0, 0.0
            for place in range(1, len(terms)):
                passages += terms[place - 1].passages
                if passages * LOOK_UP * (len(terms) - place) > worth:
                    break
                if passages < k or 0.0 < least <= rests[place]:
                    continue
                yield _with_some(terms[:place], terms[place:])
                least = hits[-1][0] if len(hits) == k else 0.0
                if least > rests[place]:
                    return
        yield _any(terms)

    def _search(self, query: tantivy.Query, k: int) -> list[Found]:
        hits: list[Found] = self._searcher.search(query, k, count=False).hits
        return hits

    def _read_term(self, stem: str, count: int) -> _Term | None:
        """A term that occurs `count` times in a query; None if no passage has it."""
        query = tantivy.Query.term_query(self._schema, "contents", stem, "freq")
        if count > 1:
            query = tantivy.Query.boost_query(query, count)
        best = self._search(query, 1)
        return _Term(query, best[0][0], self._searcher.doc_freq("contents", stem)) if best else None


@dataclass(frozen=True, slots=True)
class _Term:
    """A term of a query: the most it adds to a passage's score, and the number of passages that have it."""

    query: tantivy.Query
    most: float
    passages: int


def _any(terms: Sequence[_Term]) -> tantivy.Query:
    if len(terms) == 1:
        return terms[0].query
    return tantivy.Query.boolean_query([(tantivy.Occur.Should, term.query) for term in terms])


def _with_some(needed: Sequence[_Term], others: Sequence[_Term]) -> tantivy.Query:
    """Passages with any of the terms needed; the others add to the score."""
    query = _any(needed)
    for term in others:  # one around the other, because tantivy skips ahead in a single term, but not in a union
        query = tantivy.Query.boolean_query([(tantivy.Occur.Must, query), (tantivy.Occur.Should, term.query)])
    return query


def fillers_for(passages: PassageStore, language: str) -> int:
    """How many fillers a passage gets: (0.75 / 0.4 - 1) times the mean number of words."""
    analyze = analyzer(language).analyze
    rows = range(0, len(passages), max(1, len(passages) // SAMPLE))
    return round((TANTIVY_B / B - 1) * mean(len(analyze(_indexed(passages[row]))) for row in rows))


def _indexed(passage: Passage) -> str:
    return searchable(f"{passage.title}\n{passage.text}")
