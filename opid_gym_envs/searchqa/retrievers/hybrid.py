"""Several rankings made one by reciprocal-rank fusion (Cormack, Clarke and Büttcher, 2009)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from opid_gym_envs.searchqa.retrievers.base import (
    Hit,
    IndexedRetriever,
    Retriever,
    Stage,
    check_search,
    complete_settings,
    silent,
)
from opid_gym_envs.searchqa.retrievers.index import engine_class
from opid_gym_envs.searchqa.retrievers.store import PassageStore

Item = TypeVar("Item", bound=Hashable)

# Number of hits of each part that are fused (more if more are asked for), and the constant of the paper.
DEPTH = 100
CONSTANT = 60


def fuse(rankings: Sequence[Sequence[Item]], constant: int = CONSTANT) -> list[tuple[Item, float]]:
    """Items by the sum of ``1 / (constant + rank)`` over the rankings they are in, best first.

    >>> fuse([["a", "b", "c"], ["b", "c"]], constant=1)
    [('b', 0.8333333333333333), ('c', 0.5833333333333333), ('a', 0.5)]
    """
    scores: defaultdict[Item, float] = defaultdict(float)
    for ranking in rankings:
        for rank, item in enumerate(ranking, 1):
            scores[item] += 1 / (constant + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


class Hybrid(IndexedRetriever):
    """Engines over one corpus, fused.

    Settings:
        parts: engines and their settings, e.g. ``{"bm25": {}, "dense": {"model": "intfloat/e5-base-v2"}}``.
    """

    FORMAT = 3  # raised with those of its parts
    SETTINGS = {"parts": {"bm25": {}, "dense": {}}}  # noqa: RUF012  (declared as a ClassVar of a Mapping above)

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        self._parts = [kind(folder / name, passages, part) for name, (kind, part) in _parts(settings["parts"]).items()]

    @classmethod
    def build(cls, folder: Path, passages: PassageStore, settings: Mapping[str, Any], stage: Stage = silent) -> None:
        """See `IndexedRetriever.build`."""
        for name, (kind, part) in _parts(settings["parts"]).items():
            kind.build(folder / name, passages, part, stage)

    def own_process(self) -> None:
        """See `IndexedRetriever.own_process`."""
        for part in self._parts:
            part.own_process()

    def close(self) -> None:
        """See `Retriever.close`."""
        for part in self._parts:
            part.close()

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`."""
        ranked = [part.rank(queries, max(k, DEPTH)) for part in self._parts]
        return [fuse([[row for row, _ in rows] for rows in of_query])[:k] for of_query in zip(*ranked, strict=True)]


class Fusion:
    """Any retrievers fused, servers too; passages are the same if their ids are.

    >>> Fusion([])
    Traceback (most recent call last):
    ...
    ValueError: nothing to fuse: give two retrievers or more
    """

    def __init__(self, retrievers: Sequence[Retriever]) -> None:
        if len(retrievers) < 2:
            raise ValueError("nothing to fuse: give two retrievers or more")
        self._retrievers = list(retrievers)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        check_search(queries, k)
        results = []
        for of_query in zip(*(part.search(queries, max(k, DEPTH)) for part in self._retrievers), strict=True):
            passages = {hit.id: hit.passage for hits in of_query for hit in hits}
            ranked = fuse([[hit.id for hit in hits] for hits in of_query])[:k]
            results.append([Hit(name, score, passages[name]) for name, score in ranked])
        return results

    def close(self) -> None:
        """See `Retriever.close`."""
        for part in self._retrievers:
            part.close()


def _parts(given: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[type[IndexedRetriever], dict[str, Any]]]:
    if len(given) < 2 or "hybrid" in given:
        raise ValueError(f"hybrid: parts must be two other engines or more, got {list(given)}")
    kinds = {name: engine_class(name) for name in given}
    return {name: (kind, complete_settings(kind, name, given[name])) for name, kind in kinds.items()}
