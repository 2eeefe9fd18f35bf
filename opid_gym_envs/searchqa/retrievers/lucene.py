"""Lucene itself, as pyserini configures it: the original of BM25 retrieval, and the judge of ours. Needs Java."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, counted, silent
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.words import printable
from opid_gym_envs.webshop.search.lucene import java, java_exception, write_index

# Different words of a query that Lucene takes; its own limit is 1,024.
MOST_WORDS = 1 << 20
# Analyzers of Anserini, by language.
LANGUAGES: tuple[str, ...] = (
    "ar",
    "bn",
    "da",
    "de",
    "en",
    "es",
    "fa",
    "fi",
    "fr",
    "hi",
    "hu",
    "id",
    "it",
    "ja",
    "ko",
    "nl",
)
LANGUAGES += ("no", "pt", "ru", "sv", "te", "th", "tr", "zh")


class Lucene(IndexedRetriever):
    """Anserini's searcher in a Java virtual machine inside this process, which does not survive a fork.

    Settings:
        k1, b: parameters of BM25, pyserini's defaults.
        threads: queries of a batch that are searched at once.
        language: what Anserini calls the analyzer of passages and queries: "en", or "zh" for Lucene's CJK analyzer.
    """

    SETTINGS = {"k1": 0.9, "b": 0.4, "threads": 1, "language": "en"}  # noqa: RUF012  (as in the base class)
    SEARCH_SETTINGS = frozenset({"k1", "b", "threads"})
    CHOICES = {"language": LANGUAGES}  # noqa: RUF012

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        self._open(folder / "index", settings)

    def _open(self, folder: Path, settings: Mapping[str, Any]) -> None:
        load = java()
        self._list = load("java.util.ArrayList")
        load("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(MOST_WORDS)
        self._searcher: Any = load("io.anserini.search.SimpleSearcher")(str(folder))
        self._searcher.set_language(settings["language"])
        self._searcher.set_bm25(settings["k1"], settings["b"])
        self._threads = settings["threads"]

    @classmethod
    def build(cls, folder: Path, passages: PassageStore, settings: Mapping[str, Any], stage: Stage = silent) -> None:
        """See `IndexedRetriever.build`. An interrupted build starts over."""
        java()  # before anything is written, in case it is not there
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with stage("indexing with Lucene", len(passages)) as advance:
            rows = enumerate(counted(passages, advance))
            write_index(
                folder, ((str(row), printable(passage.contents)) for row, passage in rows), settings["language"]
            )

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`."""
        return [[(int(hit.docid), hit.score) for hit in hits] for hits in self._hits(queries, k)]

    def _hits(self, queries: Sequence[str], k: int) -> list[Any]:
        texts, names = self._list(), self._list()
        for number, query in enumerate(queries):
            texts.add(printable(query))  # the analyzer of the index knows best what its words are
            names.add(str(number))
        found = self._searcher.batch_search(texts, names, k, self._threads)
        return [found.get(str(number)) for number in range(len(queries))]

    def close(self) -> None:
        """See `Retriever.close`."""
        self._searcher.close()
        super().close()


class LuceneFolder(Lucene):
    """An index that pyserini or Anserini made, searched as it is; passages are those that Lucene stored.

    Args:
        folder: what pyserini calls the index.
        settings: of `Lucene`.

    Raises:
        ValueError: Lucene cannot open the folder, or the index stores no texts.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        try:
            self._open(folder, settings)
        except java_exception() as error:
            raise ValueError(f"Lucene cannot open the index in {str(folder)!r}: {str(error).splitlines()[0]}") from None
        stored: Any = _Stored(self._searcher, str(folder))
        IndexedRetriever.__init__(self, folder, stored, settings)
        if len(stored):
            stored[0]

    def __reduce__(self) -> tuple[Any, ...]:
        """See `IndexedRetriever`."""
        return type(self), self._opened

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`; rows are Lucene's own numbers of documents."""
        return [[(hit.lucene_docid, hit.score) for hit in hits] for hits in self._hits(queries, k)]


class _Stored:
    """The passages that Lucene stored, by Lucene's number; as much of a `PassageStore` as searching takes."""

    def __init__(self, searcher: Any, name: str) -> None:
        self._searcher, self._name = searcher, name

    def __len__(self) -> int:
        return int(self._searcher.get_total_num_docs())

    def __getitem__(self, row: int) -> Passage:
        document = self._searcher.doc(row)
        name, raw, contents = (document.get(field) for field in ("id", "raw", "contents"))
        if raw is None and contents is None:
            raise ValueError(
                f"the index in {self._name!r} does not store its texts: build it with pyserini's --storeRaw, or with "
                "`opid-gym index CORPUS --engine lucene`"
            )
        fields = _json_or_none(raw)
        if isinstance(fields, dict):
            with suppress(ValueError):  # a document of another collection than pyserini's JSON: its text will do
                return Passage.from_row(fields, name)
        return Passage.from_contents(name, contents or raw)

    def document(self, row: int) -> bytes:
        """See `PassageStore.document`."""
        passage = self[row]
        return json.dumps({"id": passage.id, "contents": passage.contents}).encode()

    def close(self) -> None:
        """Nothing is open but the searcher."""


def _json_or_none(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None
