"""Lucene itself, as pyserini configures it: the original of BM25 retrieval, and the judge of ours. Needs Java."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, counted, silent
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.words import MAX_WORDS, printable
from opid_gym_envs.webshop.search.lucene import java, write_index


class Lucene(IndexedRetriever):
    """Anserini's searcher in a Java virtual machine inside this process, which does not survive a fork.

    Settings:
        k1, b: parameters of BM25, pyserini's defaults.
        threads: queries of a batch that are searched at once.
    """

    SETTINGS = {"k1": 0.9, "b": 0.4, "threads": 1}  # noqa: RUF012  (declared as a ClassVar of a Mapping above)
    SEARCH_SETTINGS = frozenset(SETTINGS)

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        load = java()
        self._list = load("java.util.ArrayList")
        self._searcher: Any = load("io.anserini.search.SimpleSearcher")(str(folder / "index"))
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
            write_index(folder, ((str(row), printable(passage.contents)) for row, passage in rows))

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`."""
        texts, names = self._list(), self._list()
        for number, query in enumerate(queries):
            # Lucene refuses queries of more than 1024 words; what it takes for one word is never more than `\w+`.
            texts.add(" ".join(re.findall(r"\w+", printable(query))[:MAX_WORDS]))
            names.add(str(number))
        found = self._searcher.batch_search(texts, names, k, self._threads)
        return [[(int(hit.docid), hit.score) for hit in found.get(str(number))] for number in range(len(queries))]

    def close(self) -> None:
        """See `Retriever.close`."""
        self._searcher.close()
        super().close()
