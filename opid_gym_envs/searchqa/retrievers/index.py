"""Index folders: an engine's files, the passages, and a manifest that says what they are.

    DIR/manifest.json   engine, settings, corpus (fingerprint and count), versions
    DIR/passages/       the passages, memory-mapped (see `PassageStore`)
    DIR/<engine>/       the engine's own files
    DIR/sealed.json     the hashes of all files, when it is complete (see `opid_gym.files`)

An index can be moved and copied as a folder, and needs neither the corpus file nor the network.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import opid_gym
from opid_gym.files import SEAL, damage, hold, seal, write_file
from opid_gym.json_text import parse_json
from opid_gym.named import load_named, missing_extra
from opid_gym_envs.searchqa.corpus import Passage, fingerprint, read_corpus
from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, complete_settings, counted, silent
from opid_gym_envs.searchqa.retrievers.foreign import is_faiss_file, is_lucene_folder, refuse_as_corpus
from opid_gym_envs.searchqa.retrievers.store import PassageStore, write_store

# Name -> module and class. Imported when used: some take seconds, and need an extra.
ENGINES = {
    "bm25": "opid_gym_envs.searchqa.retrievers.bm25:BM25",
    "bm25s": "opid_gym_envs.searchqa.retrievers.bm25s:BM25S",
    "dense": "opid_gym_envs.searchqa.retrievers.dense:Dense",
    "lucene": "opid_gym_envs.searchqa.retrievers.lucene:Lucene",
    "hybrid": "opid_gym_envs.searchqa.retrievers.hybrid:Hybrid",
}
# Of the folder; raised when older indexes can no longer be read, whatever their engine.
FORMAT = 1
MANIFEST = "manifest.json"
# Stands for the engine of a folder that pyserini made.
LUCENE_FOLDER = "lucene (an index of pyserini's)"


class RepeatedIds(UserWarning):
    """Passages of a corpus share an id."""


class IndexMismatch(ValueError):
    """An index is not the one asked for: of another corpus, another engine, other settings, or incomplete."""


class TornManifest(IndexMismatch):
    """A manifest that cannot be read."""


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
    *,
    thorough: bool = False,
) -> Manifest:
    """Build an index, or go on with an interrupted build; a complete one is left as it is.

    A build that failed, because of the corpus or a setting, is started over when it is called again. One that was
    damaged since, for example by a power cut, is built again as well, with a warning that names the damage.

    Args:
        corpus: a file or folder (see `opid_gym_envs.searchqa.corpus`), or passages.
        folder: where to; made if it is not there. Other processes that build in it wait for each other.
        engine: a name of `ENGINES`.
        settings: of the engine, where they differ from its defaults.
        stage: shows progress.
        thorough: look for damage in every byte of a complete index; otherwise at samples of its files.

    Raises:
        ValueError: an unknown engine or setting, or a corpus without any text.
        IndexMismatch: the folder holds a complete index of another corpus, engine or settings.
        FileExistsError: the folder holds something else.
        CorpusError: a line of the corpus is not a passage; the message names it.
    """
    folder = Path(folder)
    refuse_as_corpus(corpus)
    kind = engine_class(engine)
    complete = complete_settings(kind, engine, settings or {})
    wanted = Manifest(engine, complete, corpus_fingerprint(corpus), engine_format=kind.FORMAT)
    with hold(folder, wait=True):
        _clear_if_damaged(folder, thorough)
        found = _agreeing(folder, wanted, kind)
        if found is None and not all(path.name.startswith(".") for path in folder.iterdir()):
            raise FileExistsError(f"{str(folder)!r} holds something else than an index: give another folder")
        if found is not None and found.complete and found.settings == wanted.settings:
            return found
        (folder / SEAL).unlink(missing_ok=True)
        _write(folder, wanted)
        passages = read_corpus(corpus) if isinstance(corpus, str | Path) else iter(corpus)
        if found is None or found.count is None:
            with stage("reading passages", None) as advance:
                census = Census(counted(passages, advance))
                count = write_store(folder / "passages", census)
            if not census.texts:
                raise ValueError(
                    f"the corpus {_name(corpus)} has no passages{' with any text' if census.names else ''}"
                )
            if repeated := census.repeated(PassageStore(folder / "passages")):
                warnings.warn(
                    f"the corpus {_name(corpus)} has {repeated[0]:,} passages with the id of an earlier one, the first "
                    f"is {repeated[1]!r}: results name passages by their ids",
                    RepeatedIds,
                    stacklevel=2,
                )
            wanted = _write(folder, wanted, count=count)
        else:
            wanted = _write(folder, wanted, count=found.count)
        store = PassageStore(folder / "passages")
        try:
            kind.build(folder / engine, store, wanted.settings, stage)
        finally:
            store.close()
        seal(folder, skip={MANIFEST})
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
        settings: where they differ from those it was built with; only settings of searching can.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatch: it is incomplete, of something else than is asked for, or of a newer version of this package.
        ValueError: a setting the engine does not have.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest.engine == LUCENE_FOLDER:
        return _open_lucene_folder(folder, engine, settings or {})
    if (folder / SEAL).exists() and (wrong := damage(folder)) is not None:
        raise IndexMismatch(f"the index in {str(folder)!r} is damaged ({wrong}): run the command that builds it again")
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
    kept = {**kind.SETTINGS, **manifest.settings}  # settings that are newer than the index had their default
    for key in sorted(set(wanted) - kind.SEARCH_SETTINGS):
        if wanted[key] != kept[key]:
            raise IndexMismatch(f"the index in {str(folder)!r} has {key}={kept[key]!r}, not {wanted[key]!r}")
    return kind(folder / manifest.engine, PassageStore(folder / "passages"), wanted)


def read_manifest(folder: str | Path) -> Manifest:
    """What an index folder says it holds.

    Raises:
        FileNotFoundError: there is no index.
        IndexMismatch: the manifest is not one, or of a newer version.
        ValueError: `folder` is a FAISS file; the message says what to do with it.
    """
    if is_lucene_folder(folder):
        return Manifest(LUCENE_FOLDER, {}, "", complete=True)
    if is_faiss_file(folder):
        refuse_as_corpus(folder)
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no index in {str(folder)!r}: build one with `opid-gym index CORPUS --out {folder}`")
    try:
        manifest = Manifest(**parse_json(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise TornManifest(f"{path}: not the manifest of an index ({error})") from None
    if manifest.engine not in (*ENGINES, LUCENE_FOLDER):  # its name is that of a folder, which may be removed
        raise IndexMismatch(f"{path}: there is no engine {manifest.engine!r:.80}")
    if manifest.format != FORMAT:
        raise IndexMismatch(
            f"the index in {str(folder)!r} has format {manifest.format}, this version of opid-gym reads {FORMAT}"
        )
    return manifest


def _open_lucene_folder(folder: Path, engine: str | None, settings: Mapping[str, Any]) -> IndexedRetriever:
    if engine not in (None, "lucene"):
        raise IndexMismatch(f"{str(folder)!r} is an index of Lucene's: engine 'lucene' searches it, not {engine!r}")
    complete = complete_settings(engine_class("lucene"), "lucene", settings)
    kind = load_named("opid_gym_envs.searchqa.retrievers.lucene:LuceneFolder", "engine")
    opened: IndexedRetriever = kind(folder, complete)
    return opened


def engine_class(name: str) -> type[IndexedRetriever]:
    """The class of an engine.

    Raises:
        ValueError: there is none of this name.
        ImportError: it needs something that is not installed; the message says which extra has it.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; there are {sorted(ENGINES)}")
    try:
        engine: type[IndexedRetriever] = load_named(ENGINES[name], "engine")
    except ModuleNotFoundError as error:
        raise missing_extra(f"engine {name!r}", error.name or name, "search") from None
    return engine


def corpus_fingerprint(corpus: str | Path | Sequence[Passage]) -> str:
    """Sixteen hexadecimal digits that change with the corpus."""
    if isinstance(corpus, str | Path):
        return fingerprint(corpus)
    digest = hashlib.sha256()
    for passage in corpus:
        digest.update(json.dumps([passage.id, passage.title, passage.text]).encode() + b"\n")
    return digest.hexdigest()[:16]


def _clear_if_damaged(folder: Path, thorough: bool) -> None:
    """Empty an index folder whose files are not what they were, or whose manifest cannot be read."""
    wrong = None
    if not (folder / MANIFEST).is_file():
        return
    try:
        manifest = read_manifest(folder)
        if manifest.complete and (folder / SEAL).exists():
            wrong = damage(folder, thorough=thorough)
        if wrong is None and manifest.count is not None:
            wrong = _damage_of_passages(folder / "passages", manifest.count)
    except TornManifest as error:
        wrong = str(error)
    if wrong is None:
        return
    warnings.warn(f"the index in {str(folder)!r} is built again: {wrong}", stacklevel=3)
    for name in (MANIFEST, SEAL):  # first, so that an interruption leaves nothing that looks complete
        (folder / name).unlink(missing_ok=True)
    for name in ("passages", *ENGINES):
        shutil.rmtree(folder / name, ignore_errors=True)


def _damage_of_passages(folder: Path, count: int) -> str | None:
    try:
        store = PassageStore(folder)
    except (ValueError, OSError) as error:
        return str(error)
    try:
        return None if len(store) == count else f"there are {len(store)} passages and not {count}"
    finally:
        store.close()


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
    if not differences:
        return found
    if found.complete:
        raise IndexMismatch(f"{str(folder)!r} holds an index of {'; '.join(differences)}: give another folder")
    for left in (folder / "passages", folder / found.engine):  # of a build that failed
        shutil.rmtree(left, ignore_errors=True)
    (folder / MANIFEST).unlink()
    return None


class Census(Iterable[Passage]):
    """Passages, and what was learnt of them on their way.

    Attributes:
        texts: how many have any text.
        names: a hash of each one's id.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        self._passages = passages
        self.texts = 0
        self.names = array("q")

    def __iter__(self) -> Iterator[Passage]:
        note = self.names.append
        for passage in self._passages:
            note(hash(passage.id))
            if passage.text or passage.title:
                self.texts += 1
            yield passage

    def repeated(self, store: Sequence[Passage]) -> tuple[int, str] | None:
        """How many passages have the id of an earlier one, and the first such id; None if all ids differ."""
        hashes = np.frombuffer(self.names, np.int64)
        _, firsts = np.unique(hashes, return_index=True)
        later = np.setdiff1d(np.arange(len(hashes)), firsts)
        return (len(later), store[int(later[0])].id) if len(later) else None


def _write(folder: Path, manifest: Manifest, **changes: Any) -> Manifest:
    manifest = Manifest(**{**asdict(manifest), **changes})
    write_file(folder / MANIFEST, json.dumps(asdict(manifest), indent=1) + "\n")
    return manifest


def _name(corpus: str | Path | Sequence[Passage]) -> str:
    return repr(str(corpus)) if isinstance(corpus, str | Path) else "given"
