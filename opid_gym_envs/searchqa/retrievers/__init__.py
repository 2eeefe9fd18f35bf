"""Retrievers: search engines over a corpus behind one protocol, a batch of queries in, ranked passages out.

>>> import tempfile
>>> from opid_gym_envs.searchqa.corpus import Passage
>>> corpus = [Passage("0", "Aaron", "Aaron was the brother of Moses."), Passage("1", "Babel", "A tower.")]
>>> retriever = make_retriever("bm25", corpus=corpus, cache_dir=tempfile.mkdtemp())
>>> [[hit.passage.title for hit in hits] for hits in retriever.search(["Who was Moses' brother?", "sea"], k=3)]
[['Aaron'], []]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from opid_gym.data import cache_home
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers.base import (
    Hit,
    IndexedRetriever,
    Retriever,
    RetrieverError,
    Stage,
    complete_settings,
    silent,
)
from opid_gym_envs.searchqa.retrievers.foreign import is_lucene_folder, refuse_as_corpus
from opid_gym_envs.searchqa.retrievers.index import (
    ENGINES,
    MANIFEST,
    IndexMismatch,
    build_index,
    corpus_fingerprint,
    engine_class,
    open_index,
)

_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/|,|$)|(\d+\.){3}\d+|localhost\b|\[[0-9a-fA-F:]+\]")

__all__ = [
    "ENGINES",
    "Hit",
    "IndexMismatch",
    "IndexedRetriever",
    "Retriever",
    "RetrieverError",
    "build_index",
    "cached_index",
    "is_address",
    "make_retriever",
    "open_index",
]


def make_retriever(
    retriever: str | Retriever = "bm25",
    *,
    corpus: str | Path | Sequence[Passage] | None = None,
    cache_dir: str | Path | None = None,
    stage: Stage = silent,
    **settings: Any,
) -> Retriever:
    """A retriever by name, address or as it is.

    Args:
        retriever: a name of `ENGINES`; the address of a search server (``http://...``, several separated by commas
            are replicas of one another); or a `Retriever`, which is returned as it is.
        corpus: what to search: a file or folder of passages (see `opid_gym_envs.searchqa.corpus`), a list of
            `Passage`, or an index folder of the engine's (for ``lucene`` also pyserini's). A server has its own.
        cache_dir: where indexes of files and passages are kept and found again; below
            `opid_gym.data.cache_home` if not given.
        stage: shows progress when an index has to be built first.
        settings: of the engine, or of the client.

    Raises:
        ValueError: an unknown name or setting, or a corpus too many or too few.
        IndexMismatch: the index folder is of another engine or other settings.
        ImportError: the engine needs an extra; the message says which.
    """
    if not isinstance(retriever, str):
        if corpus is not None or settings:
            raise ValueError("a ready retriever takes no corpus and no settings")
        return retriever
    if is_address(retriever):
        if corpus is not None:
            raise ValueError(f"the server {retriever} has its own corpus: give none")
        from opid_gym_envs.searchqa.retrievers.http import HTTPRetriever  # takes as long to import as all the rest

        return HTTPRetriever(retriever, **settings)
    if corpus is None:
        raise ValueError(f"retriever {retriever!r} needs a corpus to search")
    if isinstance(corpus, str | Path) and ((Path(corpus) / MANIFEST).is_file() or is_lucene_folder(corpus)):
        return open_index(corpus, engine=retriever, settings=settings)
    return open_index(cached_index(corpus, retriever, settings, cache_dir, stage), settings=settings)


def is_address(retriever: str) -> bool:
    """Whether the name of a retriever is the address of a search server.

    Raises:
        ValueError: it would be, with ``http://`` before it.

    >>> is_address("http://127.0.0.1:8000"), is_address("bm25")
    (True, False)
    """
    if retriever.startswith(("http://", "https://")):
        return True
    if retriever not in ENGINES and _HOST_AND_PORT.match(retriever):
        raise ValueError(
            f"retriever={retriever!r} looks like the address of a search server, which begins with http:// or "
            f"https://: write 'http://{retriever}'"
        )
    return False


def cached_index(
    corpus: str | Path | Sequence[Passage],
    engine: str = "bm25",
    settings: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    stage: Stage = silent,
) -> Path:
    """The folder of an index of this corpus, built now if it has not been before.

    Args, raises: see `make_retriever`.
    """
    refuse_as_corpus(corpus)
    kind = engine_class(engine)
    complete = complete_settings(kind, engine, settings or {})
    fixed = {key: value for key, value in sorted(complete.items()) if key not in kind.SEARCH_SETTINGS}
    key = sha256(repr((corpus_fingerprint(corpus), kind.FORMAT, fixed)).encode()).hexdigest()[:16]
    folder = (Path(cache_dir) if cache_dir is not None else cache_home() / "indexes") / f"{engine}-{key}"
    build_index(corpus, folder, engine, settings, stage)
    return folder
