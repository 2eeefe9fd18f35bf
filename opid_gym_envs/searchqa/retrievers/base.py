"""What a retriever is: a batch of queries in, ranked passages for each out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.workers import Workers, cores

Item = TypeVar("Item")


class RetrieverError(OSError):
    """A search could not be done; the message says where and why. The queries themselves are never at fault.

    An `OSError`, as everything is that a machine or a file out of reach raises: the command line explains those in a
    line.
    """


@dataclass(frozen=True, slots=True)
class Hit:
    """One passage that a search returned.

    Attributes:
        id: of the passage in its corpus.
        score: how well it matches; higher is better, comparable only within one engine.
        passage: what was found.
    """

    id: str
    score: float
    passage: Passage


# A passage as JSON, an object with ``id`` and ``contents``, and its score.
Document = tuple[bytes, float]


@runtime_checkable
class Retriever(Protocol):
    """Anything that answers a batch of queries. Yours needs no base class, only these two methods.

    >>> class FirstOnly:
    ...     def search(self, queries, k):
    ...         passage = Passage("0", "Aaron", "Aaron is a prophet.")
    ...         return [[Hit("0", 1.0, passage)][:k] for _ in queries]
    ...     def close(self):
    ...         pass
    >>> isinstance(FirstOnly(), Retriever)
    True
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The best `k` passages for each query, best first.

        Args:
            queries: any texts at all; they are words to look for, never syntax.
            k: maximum number of passages for each query, 1 or more.

        Returns:
            One list a query, in the order of the queries; empty where nothing matches.

        Raises:
            ValueError: `queries` is one string, or `k` is below 1.
            RetrieverError: the search could not be done.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. May be called twice."""
        ...


# Called with the name of what is being done and its total amount (None if unknown); the context yields a function that
# is called with each amount done.
Stage = Callable[[str, "int | None"], AbstractContextManager[Callable[[int], None]]]


def silent(name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A `Stage` that shows nothing."""
    return nullcontext(lambda count: None)


def counted(items: Iterable[Item], advance: Callable[[int], None], every: int = 1_000) -> Iterator[Item]:
    """The items, with their number told to `advance` now and then, for the speed of it."""
    number = 0
    for number, item in enumerate(items, 1):
        yield item
        if number % every == 0:
            advance(every)
    advance(number % every)


def check_search(queries: Sequence[str], k: int) -> None:
    """Refuse what no retriever can answer.

    Raises:
        ValueError: see `Retriever.search`.
    """
    if isinstance(queries, str):
        raise ValueError(f"queries must be a list of texts, got one text: {queries!r:.80}")
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a whole number, at least 1, got {k!r}")


class IndexedRetriever(ABC):
    """A retriever over an index in a folder, made by `build` and opened by its constructor.

    An engine subclasses it, and is found by name through `opid_gym_envs.searchqa.retrievers.index.ENGINES`.

    Args:
        folder: what `build` filled.
        passages: the corpus; row numbers that `rank` returns refer to it.
        settings: values for `SETTINGS`, completed by `complete_settings`.
    """

    # Raised when the engine can no longer read what `build` wrote before.
    FORMAT: ClassVar[int] = 1
    # The engine's settings and their defaults. Those in SEARCH_SETTINGS can differ from search to search; the others
    # are part of what the index is.
    SETTINGS: ClassVar[Mapping[str, Any]] = {}
    SEARCH_SETTINGS: ClassVar[frozenset[str]] = frozenset()
    # What settings can be that have few values.
    CHOICES: ClassVar[Mapping[str, Collection[str]]] = {}

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        self.passages = passages
        self._opened = folder, dict(settings)
        self._workers = Workers(1)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, here and in other processes, open the same files."""
        folder, settings = self._opened
        return _open, (type(self), folder, self.passages.folder, settings)

    @classmethod
    @abstractmethod
    def build(cls, folder: Path, passages: PassageStore, settings: Mapping[str, Any], stage: Stage = silent) -> None:
        """Fill a folder, going on with what an interrupted call left there."""

    @abstractmethod
    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """Rows of `passages` and their scores, best first, at most `k` for each query."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        check_search(queries, k)
        passages = self.passages
        results = []
        for ranked in self.rank(queries, k) if queries else ():
            found = [(passages[row], score) for row, score in ranked]
            results.append([Hit(passage.id, score, passage) for passage, score in found])
        return results

    def search_documents(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """As `search`, but passages are JSON, for a server to send."""
        check_search(queries, k)
        document = self.passages.document
        ranked = self.rank(queries, k) if queries else ()
        return [[(document(row), score) for row, score in rows] for rows in ranked]

    def own_process(self) -> None:
        """Take it that this process does nothing but search, with this retriever.

        An engine can then share out a batch among threads of its own, `_workers`, where libraries would start theirs
        for each step of it.
        """
        self._workers = Workers(cores())

    def close(self) -> None:
        """See `Retriever.close`."""
        self._workers.close()
        self.passages.close()


def _open(
    engine: type[IndexedRetriever], folder: Path, passages: Path, settings: Mapping[str, Any]
) -> IndexedRetriever:
    return engine(folder, PassageStore(passages), settings)


def complete_settings(engine: type[IndexedRetriever], name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an engine: those given, and its defaults.

    Raises:
        ValueError: a setting the engine does not have, or a value that it cannot have.
    """
    for key, value in given.items():
        if key not in engine.SETTINGS:
            raise ValueError(f"{name} has no setting {key!r}; it has {sorted(engine.SETTINGS) or 'none'}")
        default = engine.SETTINGS[key]
        if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            continue
        if default is not None and type(value) is not type(default):
            raise ValueError(f"{name}: {key} must be of type {type(default).__name__}, got {value!r}")
        if key in engine.CHOICES and value not in engine.CHOICES[key]:
            raise ValueError(f"{name}: {key} must be one of {list(engine.CHOICES[key])}, got {value!r}")
    return {**engine.SETTINGS, **given}
