"""Lucene's BM25 in numpy: the same scores to the last bit, and so the same ranks, from memory-mapped arrays.

An index is a folder of arrays. For each pair of a term and a document it is in there is one entry of `docs`, the
document, and one of `saturations`, the term's frequency in it over BM25's norm; a term's entries stand together,
ordered by document. What makes the ranks Lucene's is its rounding: document lengths have four significant bits
(``SmallFloat.intToByte4``), a term's score is computed in float32, and the sum over terms is exact before it is rounded
to float32. Ties are broken by the documents' keys.

A search of many documents first adds up, for all of them, what each term adds at most, in small integers; only for
those that can still be among the best are the exact scores computed. Each of the most frequent terms has these integers
in an array as long as there are documents, one of `rows`: adding it to the others is faster than to look up where its
many entries belong.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from opid_gym_envs.webshop.search.analyzer import term
from opid_gym_envs.webshop.search.words import split_words

K1 = np.float32(0.9)
B = np.float32(0.4)

CHUNK = 25_000
"""So many documents are sorted at a time when an index is built, which bounds its memory."""

_SMALL = 20_000  # documents; with fewer, all scores are computed
_FREQUENT = 1 / 16  # of the documents have the term; about where a row becomes faster than entries
_UNITS = 64  # of bounds, in a score of 1: so that the score of a frequent term, at most log 17, fits a byte
_SLACK = 1 - 2**-20  # scores that differ by less may be equal once they are rounded

Postings = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float64]
Bounds = npt.NDArray[np.unsignedinteger]


# -------------------------------------------------------------------------------------------- document lengths


def _length_of_code(code: int) -> int:
    """The length that stands for all lengths with this code: exact below 40, then four significant bits."""
    if code < 24:
        return code
    bits, shift = (code - 24) & 7, (code - 24) >> 3
    return 24 + (bits if shift == 0 else (bits | 8) << (shift - 1))


LENGTHS = np.array([_length_of_code(code) for code in range(256)], dtype=np.int64)
"""Code -> document length, as ``SmallFloat.byte4ToInt``."""


def length_codes(lengths: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Codes of document lengths, as ``SmallFloat.intToByte4``: lengths are rounded down.

    >>> LENGTHS[length_codes(np.array([7, 39, 41, 1000]))].tolist()
    [7, 39, 40, 984]
    """
    return (np.searchsorted(LENGTHS, lengths, side="right") - 1).astype(np.uint8)


# --------------------------------------------------------------------------------------------------- building


class _TermIds(dict[str, int]):
    """Word -> number of its term, -1 for stop words; words met for the first time are analysed."""

    def __init__(self) -> None:
        self.terms: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        found = term(word)
        self[word] = number = -1 if found is None else self.terms.setdefault(found, len(self.terms))
        return number


class IndexWriter:
    """Builds an index in a folder from documents added one after the other; memory stays bounded.

    Use as a context: leaving it writes the index, leaving it with an exception writes nothing.

    Args:
        folder: an existing folder.
        progress: called with how many of how many chunks are written, once all documents are there.
    """

    def __init__(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        self._folder, self._progress = folder, progress
        self._ids = _TermIds()
        self._words: array[int] = array("i")  # of the documents of this chunk, one after the other
        self._counts: array[int] = array("i")  # how many of them each document has
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._scratch = tempfile.TemporaryDirectory(dir=folder, prefix="chunks-")
        self._chunks: list[Path] = []

    def add(self, text: str) -> None:
        """The next document."""
        words = split_words(text)
        self._words.extend(map(self._ids.__getitem__, words))
        self._counts.append(len(words))
        if len(self._counts) == CHUNK:
            self._sort_chunk()

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._scratch:
            if kind is None:
                self._sort_chunk()
                self._finish()

    def _sort_chunk(self) -> None:
        words, counts = np.array(self._words, dtype=np.int64), np.array(self._counts, dtype=np.int64)
        docs = np.repeat(np.arange(len(counts)), counts)[words >= 0]
        keys, frequencies = np.unique(words[words >= 0] * CHUNK + docs, return_counts=True)
        path = Path(self._scratch.name) / f"{len(self._chunks)}.npz"
        first = CHUNK * len(self._chunks)
        np.savez(
            path,
            terms=(keys // CHUNK).astype(np.int32),
            docs=(keys % CHUNK + first).astype(np.int32),
            frequencies=frequencies.astype(np.int32),
        )
        self._chunks.append(path)
        self._lengths.append(np.bincount(docs, minlength=len(counts)))
        self._words, self._counts = array("i"), array("i")

    def _finish(self) -> None:
        lengths = np.concatenate(self._lengths)
        with_words = int(np.count_nonzero(lengths))
        norms = _norms(lengths, lengths.sum() / with_words if with_words else 1.0)

        order = sorted(self._ids.terms)
        rank = np.empty(len(order), dtype=np.int64)  # number of a term -> its place in the alphabet
        rank[[self._ids.terms[found] for found in order]] = np.arange(len(order))
        _write_texts(self._folder / "terms", order)

        frequency = np.zeros(len(order), dtype=np.int64)
        for chunk in self._read_chunks():
            frequency += np.bincount(rank[chunk["terms"]], minlength=len(order))
        starts = np.concatenate([[0], np.cumsum(frequency)])
        docs = _create(self._folder / "docs.npy", np.int32, (int(starts[-1]),))
        saturations = _create(self._folder / "saturations.npy", np.float32, (int(starts[-1]),))
        filled = starts[:-1].copy()
        for number, chunk in enumerate(self._read_chunks()):
            # A chunk is sorted by term, then document: each term's part of it goes to where the term's last part ended.
            terms, first, count = np.unique(chunk["terms"], return_index=True, return_counts=True)
            places = rank[terms]
            target = np.repeat(filled[places] - first, count) + np.arange(len(chunk["terms"]))
            docs[target] = chunk["docs"]
            saturations[target] = chunk["frequencies"].astype(np.float32) * norms[chunk["docs"]]
            filled[places] += count
            if self._progress is not None:
                self._progress(number + 1, len(self._chunks))
        docs.flush()
        saturations.flush()
        np.save(self._folder / "starts.npy", starts)
        (frequent,) = np.nonzero(frequency >= (_FREQUENT * len(lengths) if len(lengths) > _SMALL else math.inf))
        rows = _create(self._folder / "rows.npy", np.uint8, (len(frequent), len(lengths)))
        for row, place in enumerate(frequent):
            own = slice(starts[place], starts[place + 1])
            rows[row, docs[own]] = _bounds(_idf(with_words, int(frequency[place])), saturations[own])
        rows.flush()
        np.save(self._folder / "frequent.npy", frequent)
        sizes = {"documents": len(lengths), "documents_with_words": with_words}
        (self._folder / "sizes.json").write_text(json.dumps(sizes))

    def _read_chunks(self) -> Iterator[dict[str, npt.NDArray[np.int32]]]:
        for path in self._chunks:
            with np.load(path) as chunk:
                yield dict(chunk)


def _norms(lengths: npt.NDArray[np.integer], average: float) -> npt.NDArray[np.float32]:
    """What BM25 multiplies a term's frequency with, in float32 step by step as Lucene computes it."""
    one = np.float32(1)
    norms = one / (K1 * ((one - B) + B * LENGTHS.astype(np.float32) / np.float32(average)))
    return norms[length_codes(lengths)]


def _create(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    # An empty file cannot be mapped: an array of nothing gets an element nobody asks for.
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=tuple(max(size, 1) for size in shape))


def _write_texts(stem: Path, texts: Sequence[str]) -> None:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    stem.with_suffix(".txt").write_bytes(b"".join(encoded) or b"\n")
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    np.save(stem.with_suffix(".npy"), ends)


# ---------------------------------------------------------------------------------------------------- searching


class _Terms(Sequence[bytes]):
    """The sorted terms, read from a mapped file."""

    def __init__(self, stem: Path) -> None:
        self._text = np.memmap(stem.with_suffix(".txt"), dtype=np.uint8, mode="r")
        self._ends = np.load(stem.with_suffix(".npy"), mmap_mode="r")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> bytes:  # type: ignore[override]
        return self._text[self._ends[index] : self._ends[index + 1]].tobytes()


class Index:
    """Ranked search over the documents of a folder written by `IndexWriter`; the arrays stay on disk, mapped.

    Args:
        folder: the index.
        keys: one key a document; among equal scores the smaller key comes first.
    """

    def __init__(self, folder: Path, keys: npt.NDArray[np.str_]) -> None:
        sizes = json.loads((folder / "sizes.json").read_text())
        self._size: int = sizes["documents"]
        self._with_words: int = sizes["documents_with_words"]
        self._keys = keys
        self._local = threading.local()
        self._terms = _Terms(folder / "terms")
        self._docs, self._saturations, self._starts, self._rows = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
            for name in ("docs", "saturations", "starts", "rows")
        )
        self._row = {int(number): row for row, number in enumerate(np.load(folder / "frequent.npy"))}
        self._find = lru_cache(maxsize=1 << 14)(self._find_word)
        # For catalogues so small that all postings are no memory to speak of.
        self._kept_scores = lru_cache(maxsize=1 << 14)(self._scores_by_key)
        self._postings = lru_cache(maxsize=1 << 14)(self._read_postings)

    def search(self, query: str, k: int) -> npt.NDArray[np.int64]:
        """The numbers of the `k` best documents, best first; fewer if fewer have a term of the query."""
        counts: dict[int, int] = {}
        for word in split_words(query):
            number = self._find(word)
            if number is not None:
                counts[number] = counts.get(number, 0) + 1
        if not counts or k <= 0:
            return np.zeros(0, dtype=np.int64)
        if self._size <= _SMALL:
            return self._best_of_all(counts, k)
        found = self._promising(counts, k)
        return self._ranked(found, self._scores(found, counts).astype(np.float32), k)

    def _best_of_all(self, counts: dict[int, int], k: int) -> npt.NDArray[np.int64]:
        """`search`, by the scores of all documents."""
        docs, scores = zip(*[self._kept_scores(number, count) for number, count in counts.items()], strict=True)
        sums = np.bincount(np.concatenate(docs), np.concatenate(scores), self._size).astype(np.float32)
        least = np.partition(sums, -k)[-k] if self._size > k else 0
        found = (sums >= least).nonzero()[0] if least > 0 else sums.nonzero()[0]
        # Documents stand in the order of their keys here, and a stable sort leaves equal ones so.
        return self._by_key[found[np.argsort(-sums[found], kind="stable")[:k]]]

    def _promising(self, counts: dict[int, int], k: int) -> Postings:
        """The documents that can be among the `k` best, with few others, in ascending order."""
        bounds = self._upper_bounds(counts)
        likely = _where(bounds >= max(1, _kth_of_groups(bounds, k)))[: 4 * k]
        least = _kth(self._scores(likely, counts), k)
        return _where(bounds >= max(1, int(_UNITS * least * _SLACK)))

    def _upper_bounds(self, counts: dict[int, int]) -> Bounds:
        """For each document, no less than its score, in units, and 0 if it has no term; good until the next search."""
        most = sum(count * math.ceil(_UNITS * self._weight(number, 1) + 1) for number, count in counts.items())
        sums = self._zeros() if most < 2**16 else np.zeros(self._size, np.uint64)
        for number, count in counts.items():
            row = self._row.get(number)
            if row is None:
                docs, saturations = self._postings(number)
                np.add.at(sums, docs, _bounds(self._weight(number, count), saturations).astype(sums.dtype))
            else:
                sums += self._rows[row] if count == 1 else np.multiply(self._rows[row], count, dtype=sums.dtype)
        return sums

    def _zeros(self) -> Bounds:
        # Always the same array, because the system takes its time to give a new one.
        if not hasattr(self._local, "sums"):
            self._local.sums = np.empty(self._size, np.uint16)
        sums: Bounds = self._local.sums
        sums.fill(0)
        return sums

    def _scores(self, wanted: Postings, counts: dict[int, int]) -> Scores:
        """The scores of some documents, ascending."""
        scores = np.zeros(len(wanted))
        for number, count in counts.items():
            docs, saturations = self._postings(number)
            places = np.searchsorted(docs, wanted)
            places[places == len(docs)] = 0
            found = docs[places] == wanted
            scores[found] += _score(self._weight(number, count), saturations[places[found]])
        return scores

    def _ranked(self, found: Postings, scores: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
        if len(found) > k:
            kept = scores >= np.partition(scores, len(scores) - k)[len(scores) - k]
            found, scores = found[kept], scores[kept]
        return found[np.lexsort((self._keys[found], -scores))[:k]].astype(np.int64)

    @cached_property
    def _by_key(self) -> npt.NDArray[np.int64]:
        """The documents in the order of their keys."""
        return np.argsort(self._keys, kind="stable")

    @cached_property
    def _key_ranks(self) -> npt.NDArray[np.int64]:
        """Where each document stands in that order."""
        return np.argsort(self._by_key)

    # -------------------------------------------------------------------------------------------------- terms

    def _find_word(self, word: str) -> int | None:
        """The number of a word's term; None for a stop word and where no document has it."""
        text = term(word)
        if text is None:
            return None
        encoded = text.encode("utf-8", "surrogatepass")
        number = bisect_left(self._terms, encoded)
        return number if number < len(self._terms) and self._terms[number] == encoded else None

    def _frequency(self, number: int) -> int:
        return int(self._starts[number + 1] - self._starts[number])

    def _weight(self, number: int, count: int) -> np.float32:
        """The term's idf, as often as it stands in the query."""
        return _idf(self._with_words, self._frequency(number)) * np.float32(count)

    def _scores_by_key(self, number: int, count: int) -> tuple[npt.NDArray[np.int64], Scores]:
        """The documents of a term, by the place of their key among all keys, and what the term adds to each."""
        docs, saturations = self._postings(number)
        return self._key_ranks[docs], _score(self._weight(number, count), saturations).astype(np.float64)

    def _read_postings(self, number: int) -> tuple[Postings, npt.NDArray[np.float32]]:
        start, end = self._starts[number], self._starts[number + 1]
        return self._docs[start:end], self._saturations[start:end]


def _idf(documents: int, frequency: int) -> np.float32:
    return np.float32(math.log(1 + (documents - frequency + 0.5) / (frequency + 0.5)))


def _score(weight: np.float32, saturations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return weight - weight / (np.float32(1) + saturations)


def _bounds(weight: np.float32, saturations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Whole numbers of units, no less than the scores, nor than any that float32 might make of them."""
    return np.ceil(_UNITS * (_score(weight, saturations) + weight * np.float32(2**-20)))


def _where(wanted: npt.NDArray[np.bool_]) -> Postings:
    return wanted.nonzero()[0].astype(np.int32)


def _kth(values: Scores, k: int) -> float:
    """The k-th largest, 0 if there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0


def _kth_of_groups(values: Bounds, k: int) -> int:
    """At most the k-th largest, and close to it: the k-th largest of the maxima of many more than `k` groups."""
    size = max(1, min(256, len(values) // (16 * k)))
    groups = len(values) // size
    return int(_kth(values[: size * groups].reshape(size, groups).max(axis=0), k))
