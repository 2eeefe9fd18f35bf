"""BM25 on tantivy: memory-mapped, the default.

Tantivy fixes BM25's parameters at k1 = 1.2, b = 0.75 (Robertson and Zaragoza, 2009); pyserini's defaults for Lucene are
0.9 and 0.4. ``benchmarks/retrieval.py`` measures what that changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tantivy

from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, counted, silent
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.words import analyzer, printable, query_analyzer

TOKENIZER = "opid_gym_english"
# Rows between two commits: what an interruption can lose.
COMMIT_EVERY = 1_000_000
# One thread, so that the same corpus always gives the same index and the same order among equal scores.
HEAP = 1_000_000_000


class BM25(IndexedRetriever):
    """BM25 ranking of words' English stems, upper and lower case and accents aside.

    Stop words of a query are left out, unless it has no other words. The query is a bag of words: quotes, brackets,
    colons and the like mean nothing.
    """

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        self._index = tantivy.Index.open(str(folder))
        self._schema = self._index.schema
        self._searcher = self._index.searcher()
        self._analyze = query_analyzer()

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
        index = tantivy.Index(schema, path=str(folder))
        index.register_tokenizer(TOKENIZER, analyzer())
        index.reload()
        done = index.searcher().num_docs  # rows are added in order, and a commit is whole or not there
        writer = index.writer(HEAP, num_threads=1)
        with stage("indexing words", len(passages)) as advance:
            advance(done)
            for row, passage in enumerate(counted(passages.read_from(done), advance), done):
                text = printable(f"{passage.title}\n{passage.text}")
                writer.add_document(tantivy.Document(contents=text, row=row))
                if (row + 1) % COMMIT_EVERY == 0:
                    writer.commit()
            writer.commit()
            writer.wait_merging_threads()

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`."""
        return [self._rank(query, k) for query in queries]

    def _rank(self, text: str, k: int) -> list[tuple[int, float]]:
        query = self._query(text)
        if query is None:
            return []
        hits = self._searcher.search(query, k, count=False).hits
        rows = self._searcher.fast_field_values("row", [address for _, address in hits])
        return [(int(row or 0), score) for row, (score, _) in zip(rows, hits, strict=True)]

    def _query(self, text: str) -> tantivy.Query | None:
        """The query's words, each weighted by how often it occurs; None if there are none."""
        stems = Counter(self._analyze(text))
        if not stems:
            return None
        clauses = []
        for stem, count in stems.items():
            term = tantivy.Query.term_query(self._schema, "contents", stem, "freq")
            clauses.append((tantivy.Occur.Should, term if count == 1 else tantivy.Query.boost_query(term, count)))
        return tantivy.Query.boolean_query(clauses)
