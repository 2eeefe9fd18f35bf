"""Indexes that other projects made: FAISS files of vectors (Search-R1, FlashRAG) and folders of Lucene (pyserini)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

# How files of FAISS's indexes begin: "IxFI" is flat with inner products, "IxF2" flat with distances, "IHNf" a graph.
_FLAT = b"IxFI"
_HEADER = struct.Struct("<4siqqq?iq")  # kind, dimension, vectors, two unused, trained, metric, numbers that follow
_OTHERS = (b"Ix", b"IH", b"Iv", b"Iw", b"Il")


@dataclass(frozen=True, slots=True)
class FlatVectors:
    """Where the vectors lie in a FAISS file.

    Attributes:
        file: absolute path.
        offset: bytes before the first vector.
        count: number of vectors.
        dimension: numbers of a vector.
    """

    file: str
    offset: int
    count: int
    dimension: int


def flat_vectors(path: str | Path) -> FlatVectors:
    """The vectors of a FAISS index file of kind ``Flat`` with inner products, such as Search-R1's ``e5_Flat.index``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of another kind, or damaged; the message says what can be done.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"vectors={str(path)!r} is not a file")
    with open(path, "rb") as file:
        head = file.read(_HEADER.size)
    if not head.startswith(_FLAT):
        raise ValueError(
            f"vectors={str(path)!r} is not a FAISS index of kind Flat with inner products (it begins with "
            f"{head[:4]!r}): take the Flat index of the same vectors, or leave vectors= out to encode the passages anew"
        )
    size = path.stat().st_size
    if len(head) < _HEADER.size:
        raise ValueError(f"vectors={str(path)!r} is incomplete: it has {size} bytes")
    _, dimension, count, _, _, _, _, numbers = _HEADER.unpack(head)
    if numbers != count * dimension or size != _HEADER.size + 4 * numbers:
        raise ValueError(
            f"vectors={str(path)!r} is incomplete: {count:,} vectors of {dimension} numbers take "
            f"{_HEADER.size + 4 * count * dimension:,} bytes, the file has {size:,}"
        )
    return FlatVectors(str(path.resolve()), _HEADER.size, count, dimension)


def is_lucene_folder(folder: str | Path) -> bool:
    """Whether Lucene wrote an index into this folder."""
    return Path(folder).is_dir() and any(Path(folder).glob("segments_*"))


def is_faiss_file(path: str | Path) -> bool:
    """Whether this is an index file of FAISS."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(4)[:2] in _OTHERS and path.suffix in (".index", ".faiss", ".bin", "")


def refuse_as_corpus(path: object) -> None:
    """Say what can be done with an index that is given where passages are wanted.

    Raises:
        ValueError: `path` is an index of FAISS or Lucene.
    """
    if not isinstance(path, str | Path):
        return
    if is_faiss_file(path):
        raise ValueError(
            f"{str(path)!r} is a FAISS index, which has vectors and no passages: give the passages as corpus, and "
            f"engine dense with vectors={path} and model=NAME of the encoder that made them (of Search-R1's "
            "e5_Flat.index: intfloat/e5-base-v2)"
        )
    if is_lucene_folder(path):
        raise ValueError(f"{str(path)!r} is an index of Lucene's: it is searched by engine 'lucene', as it is")
