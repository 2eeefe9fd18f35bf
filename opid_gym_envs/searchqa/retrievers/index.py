"""Index folders: an engine's files, the passages, and a manifest that says what they are.

    DIR/manifest.json   engine, settings, corpus (fingerprint and count), versions
    DIR/passages/       the passages, memory-mapped (see `PassageStore`)
    DIR/<engine>/       the engine's own files

An index can be moved and copied as a folder, and needs neither the corpus file nor the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from filelock import FileLock

import opid_gym
from opid_gym_envs.searchqa.corpus import Passage, fingerprint, read_corpus
from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, complete_settings, counted, silent
from opid_gym_envs.searchqa.retrievers.store import PassageStore, write_store

# Name -> module and class. Imported when used: some take seconds, and need an extra.
ENGINES = {
    "bm25": "opid_gym_envs.searchqa.retrievers.bm25:BM25",
    "bm25s": "opid_gym_envs.searchqa.retrievers.bm25s:BM25S",
    "dense": "opid_gym_envs.searchqa.retrievers.dense:Dense",
    "lucene": "opid_gym_envs.searchqa.retrievers.lucene:Lucene",
    "hybrid": "opid_gym_envs.searchqa.retrievers.hybrid:Hybrid",
}
# Of the folder; raised when an index of before can no longer be read, whatever its engine.
FORMAT = 1
MANIFEST = "manifest.json"


class IndexMismatch(ValueError):
    """An index is not the one asked for: of another corpus, another engine, other settings, or incomplete."""


@dataclass(frozen=True)
class Manifest:
    """What an index folder holds.

    Attributes:
        engine: its name in `ENGINES`.
        settings: of the engine, all of them.
        corpus: `fingerprint` of the corpus.
        count: number of passages.
        complete: whether the build has come to its end.
        opid_gym: version that built it.
        format: version of the folder's layout.
        engine_format: version of the engine's files, `IndexedRetriever.FORMAT`.
    """

    engine: str
    settings: dict[str, Any]
    corpus: str
    count: int | None = None
    complete: bool = False
    opid_gym: str = opid_gym.__version__
    format: int = FORMAT
    engine_format: int = 1


def build_index(
    corpus: str | Path | Sequence[Passage],
    folder: str | Path,
    engine: str = "bm25",
    settings: Mapping[str, Any] | None = None,
    stage: Stage = silent,
) -> Manifest:
    """Build an index, or go on with an interrupted build; a complete one is left as it is.

    Args:
        corpus: a JSON Lines file (see `opid_gym_envs.searchqa.corpus`), or passages.
        folder: where to; made if it is not there. Other processes that build in it wait for each other.
        engine: a name of `ENGINES`.
        settings: those of the engine that shall differ from its defaults.
        stage: shows progress.

    Raises:
        ValueError: an unknown engine or setting.
        IndexMismatch: the folder holds an index of another corpus, engine or settings.
        FileExistsError: the folder holds something else.
        CorpusError: a line of the corpus is not a passage; the message names it.
    """
    folder = Path(folder)
    kind = engine_class(engine)
    complete = complete_settings(kind, engine, settings or {})
    wanted = Manifest(engine, complete, corpus_fingerprint(corpus), engine_format=kind.FORMAT)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        found = _agreeing(folder, wanted, kind)
        if found is None and any(path.name != ".lock" for path in folder.iterdir()):
            raise FileExistsError(f"{str(folder)!r} holds something else than an index: give another folder")
        if found is not None and found.complete and found.settings == wanted.settings:
            return found
        _write(folder, wanted)
        passages = read_corpus(corpus) if isinstance(corpus, str | Path) else iter(corpus)
        if found is None or found.count is None:
            with stage("reading passages", None) as advance:
                count = write_store(folder / "passages", counted(passages, advance))
            if not count:
                raise ValueError(f"the corpus {_name(corpus)} has no passages")
            wanted = _write(folder, wanted, count=count)
        else:
            wanted = _write(folder, wanted, count=found.count)
        store = PassageStore(folder / "passages")
        try:
            kind.build(folder / engine, store, wanted.settings, stage)
        finally:
            store.close()
        return _write(folder, wanted, count=wanted.count, complete=True)


def open_index(
    folder: str | Path,
    corpus: str | Path | Sequence[Passage] | None = None,
    engine: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> IndexedRetriever:
    """The retriever over an index folder.

    Args:
        folder: what `build_index` made.
        corpus, engine: if given, the index must be of this corpus and engine.
        settings: those that shall differ from how it was built; only settings of searching can.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatch: it is incomplete, of something else than is asked for, or of a newer version of this package.
        ValueError: a setting the engine does not have.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not manifest.complete:
        raise IndexMismatch(f"the index in {str(folder)!r} is incomplete: run the command that builds it again")
    if corpus is not None and corpus_fingerprint(corpus) != manifest.corpus:
        raise IndexMismatch(
            f"the index in {str(folder)!r} is of another corpus than {_name(corpus)}: "
            f"fingerprint {manifest.corpus}, {manifest.count} passages"
        )
    if engine is not None and engine != manifest.engine:
        raise IndexMismatch(f"the index in {str(folder)!r} is of engine {manifest.engine!r}, not {engine!r}")
    kind = engine_class(manifest.engine)
    if manifest.engine_format != kind.FORMAT:
        raise IndexMismatch(
            f"the index in {str(folder)!r} has format {manifest.engine_format} of {manifest.engine}, which opid-gym "
            f"{manifest.opid_gym} wrote; this version reads {kind.FORMAT}: build it again, in another folder"
        )
    wanted = complete_settings(kind, manifest.engine, {**manifest.settings, **(settings or {})})
    for key in sorted(set(wanted) - kind.SEARCH_SETTINGS):
        if wanted[key] != manifest.settings[key]:
            raise IndexMismatch(
                f"the index in {str(folder)!r} has {key}={manifest.settings[key]!r}, not {wanted[key]!r}"
            )
    return kind(folder / manifest.engine, PassageStore(folder / "passages"), wanted)


def read_manifest(folder: str | Path) -> Manifest:
    """What an index folder says it holds.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatch: the manifest is not one, or of a newer version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no index in {str(folder)!r}: build one with `opid-gym index CORPUS --out {folder}`")
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise IndexMismatch(f"{path}: not the manifest of an index ({error})") from None
    if manifest.format != FORMAT:
        raise IndexMismatch(
            f"the index in {str(folder)!r} has format {manifest.format}, this version of opid-gym reads {FORMAT}"
        )
    return manifest


def engine_class(name: str) -> type[IndexedRetriever]:
    """The class of an engine.

    Raises:
        ValueError: there is none of this name.
        ImportError: it needs something that is not installed; the message says which extra has it.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; there are {sorted(ENGINES)}")
    module, _, attribute = ENGINES[name].partition(":")
    try:
        engine: type[IndexedRetriever] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"engine {name!r} needs {error.name}, which is not installed: pip install 'opid-gym[search]'"
        ) from None
    return engine


def corpus_fingerprint(corpus: str | Path | Sequence[Passage]) -> str:
    """Sixteen hexadecimal digits that change with the corpus."""
    if isinstance(corpus, str | Path):
        return fingerprint(corpus)
    digest = hashlib.sha256()
    for passage in corpus:
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _agreeing(folder: Path, wanted: Manifest, kind: type[IndexedRetriever]) -> Manifest | None:
    """The manifest that is there, if it is of what is wanted; None if there is none."""
    if not (folder / MANIFEST).is_file():
        return None
    found = read_manifest(folder)
    fixed = set(wanted.settings) - kind.SEARCH_SETTINGS
    differences = []
    if found.corpus != wanted.corpus:
        differences.append(f"another corpus (fingerprint {found.corpus}, this one has {wanted.corpus})")
    if found.engine != wanted.engine:
        differences.append(f"engine {found.engine}, not {wanted.engine}")
    else:
        changed = [key for key in sorted(fixed) if found.settings.get(key) != wanted.settings[key]]
        differences += [f"{key}={found.settings.get(key)!r}, not {wanted.settings[key]!r}" for key in changed]
        if found.engine_format != wanted.engine_format:
            differences.append(f"format {found.engine_format} of {found.engine}, not {wanted.engine_format}")
    if differences:
        raise IndexMismatch(f"{str(folder)!r} holds an index of {'; '.join(differences)}: give another folder")
    return found


def _write(folder: Path, manifest: Manifest, **changes: Any) -> Manifest:
    manifest = Manifest(**{**asdict(manifest), **changes})
    scratch = folder / (MANIFEST + ".new")
    scratch.write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    scratch.replace(folder / MANIFEST)
    return manifest


def _name(corpus: str | Path | Sequence[Passage]) -> str:
    return repr(str(corpus)) if isinstance(corpus, str | Path) else "given"
