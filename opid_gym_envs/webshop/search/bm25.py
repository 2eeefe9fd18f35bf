"""Lucene's BM25 in numpy: the same scores to the last bit, and so the same ranks, from memory-mapped arrays.

An index is a folder of arrays. For each pair of a term and a document it is in there is one entry of `docs`, the
document, and one of `saturations`, the term's frequency in it over BM25's norm; a term's entries stand together,
ordered by document. What makes the ranks Lucene's is its rounding: document lengths have four significant bits
(``SmallFloat.intToByte4``), a term's score is computed in float32, and the sum over terms is exact before it is rounded
to float32. Ties are broken by the documents' keys.
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

_SMALL = 50_000  # documents; with fewer, pruning costs more than it saves
_FIRST_LOOK = 1_000  # postings
_SLACK = 1 - 2**-22  # scores that differ by less may be equal once they are rounded

Postings = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float64]


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
        docs = _create(self._folder / "docs.npy", np.int32, int(starts[-1]))
        saturations = _create(self._folder / "saturations.npy", np.float32, int(starts[-1]))
        best = np.zeros(len(order), dtype=np.float32)
        filled = starts[:-1].copy()
        for number, chunk in enumerate(self._read_chunks()):
            # A chunk is sorted by term, then document: each term's part of it goes to where the term's last part ended.
            terms, first, count = np.unique(chunk["terms"], return_index=True, return_counts=True)
            places = rank[terms]
            target = np.repeat(filled[places] - first, count) + np.arange(len(chunk["terms"]))
            values = chunk["frequencies"].astype(np.float32) * norms[chunk["docs"]]
            docs[target], saturations[target] = chunk["docs"], values
            if len(terms):
                best[places] = np.maximum(best[places], np.maximum.reduceat(values, first))
            filled[places] += count
            if self._progress is not None:
                self._progress(number + 1, len(self._chunks))
        docs.flush()
        saturations.flush()
        np.save(self._folder / "starts.npy", starts)
        np.save(self._folder / "best.npy", best)
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


def _create(path: Path, dtype: type[np.generic], size: int) -> np.memmap[Any, Any]:
    # An empty file cannot be mapped: an index of nothing gets an entry nobody asks for.
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(max(size, 1),))


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
        self._docs, self._saturations, self._starts, self._best = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r"))
            for name in ("docs", "saturations", "starts", "best")
        )
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
        terms = [(number, self._weight(number, count)) for number, count in counts.items()]
        found, scores = self._best_scores(terms, k)
        return self._ranked(found, scores.astype(np.float32), k)

    def _best_of_all(self, counts: dict[int, int], k: int) -> npt.NDArray[np.int64]:
        """`search`, by the scores of all documents."""
        docs, scores = zip(*[self._kept_scores(number, count) for number, count in counts.items()], strict=True)
        sums = np.bincount(np.concatenate(docs), np.concatenate(scores), self._size).astype(np.float32)
        least = np.partition(sums, -k)[-k] if self._size > k else 0
        found = (sums >= least).nonzero()[0] if least > 0 else sums.nonzero()[0]
        # Documents stand in the order of their keys here, and a stable sort leaves equal ones so.
        return self._by_key[found[np.argsort(-sums[found], kind="stable")[:k]]]

    def _best_scores(self, terms: list[tuple[int, np.float32]], k: int) -> tuple[Postings, Scores]:
        """At least the documents that are among the `k` best, and their scores.

        The terms that can add most come first (MaxScore, Turtle and Flood 1995). As soon as what the others could add
        together is less than the k-th best of some scores already known, documents with none of the first terms are
        out, and for those with some the others are looked up, one term at a time, for as long as a document can still
        make it. The scores known are those of the documents that look best after the first few terms, and again
        whenever there are many more to choose from.
        """
        bounded = sorted(((self._bound(number, weight), number, weight) for number, weight in terms), reverse=True)
        terms = [(number, weight) for _, number, weight in bounded]
        # What the terms from each on could add together; a little more, as the bounds are rounded.
        rests = np.cumsum([0.0, *(bound for bound, _, _ in reversed(bounded))])[::-1] * (1 + 1e-9)
        sums = self._sums()
        least, seen, looked_at = 0.0, 0, _FIRST_LOOK
        fresh: list[Postings] = []  # for each of the first terms, the documents with it and with none before it
        try:
            while len(fresh) < len(terms) and least <= rests[len(fresh)]:
                docs, scores = self._scored(*terms[len(fresh)])
                before = sums[docs]
                reached = before + scores
                sums[docs] = reached
                fresh.append(docs[before == 0])
                seen += len(docs)
                if seen >= looked_at and len(fresh) < len(terms):
                    looked_at = 8 * seen
                    promising = np.sort(docs[_largest(reached, k)])
                    least = max(least, _SLACK * _kth(self._full_scores(promising, terms), k))
            found = np.concatenate(fresh)
            found = np.sort(found[sums[found] >= least - rests[len(fresh)]])  # sorted, they are looked up faster
            reached = sums[found]
        finally:
            for docs in fresh:
                sums[docs] = 0
        for place in range(len(fresh), len(terms)):
            few = self._frequency(terms[place][0]) < 4 * len(found)
            reached += (self._laid_out if few else self._looked_up)(*terms[place], found)
            least = max(least, _SLACK * _kth(reached, k))
            kept = reached >= least - rests[place + 1]
            found, reached = found[kept], reached[kept]
        return found, reached

    def _sums(self) -> Scores:
        """This thread's zeros, one a document; whoever changes them puts the zeros back."""
        if not hasattr(self._local, "sums"):
            self._local.sums = np.zeros(self._size)
        sums: Scores = self._local.sums
        return sums

    def _full_scores(self, wanted: Postings, terms: list[tuple[int, np.float32]]) -> Scores:
        return np.sum([self._looked_up(number, weight, wanted) for number, weight in terms], axis=0)

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
        frequency = self._frequency(number)
        return np.float32(math.log(1 + (self._with_words - frequency + 0.5) / (frequency + 0.5))) * np.float32(count)

    def _bound(self, number: int, weight: np.float32) -> float:
        return float(_score(weight, self._best[number]))

    def _scored(self, number: int, weight: np.float32) -> tuple[Postings, npt.NDArray[np.float32]]:
        """The documents of a term, ascending, and what the term adds to each."""
        docs, saturations = self._postings(number)
        return docs, _score(weight, saturations)

    def _scores_by_key(self, number: int, count: int) -> tuple[npt.NDArray[np.int64], Scores]:
        """As `_scored`, where the place of a document's key among all keys stands for the document."""
        docs, scores = self._scored(number, self._weight(number, count))
        return self._key_ranks[docs], scores.astype(np.float64)

    def _looked_up(self, number: int, weight: np.float32, wanted: Postings) -> Scores:
        """What a term adds to each of some documents."""
        docs, saturations = self._postings(number)
        places = np.searchsorted(docs, wanted)
        places[places == len(docs)] = 0
        return np.where(docs[places] == wanted, _score(weight, saturations[places]), np.float64(0))

    def _laid_out(self, number: int, weight: np.float32, wanted: Postings) -> Scores:
        """As `_looked_up`, and faster where the documents of the term are not many times those wanted."""
        sums = self._sums()
        docs, scores = self._scored(number, weight)
        sums[docs] = scores
        found = sums[wanted]
        sums[docs] = 0
        return found

    def _read_postings(self, number: int) -> tuple[Postings, npt.NDArray[np.float32]]:
        start, end = self._starts[number], self._starts[number + 1]
        return self._docs[start:end], self._saturations[start:end]


def _score(weight: np.float32, saturations: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return weight - weight / (np.float32(1) + saturations)


def _largest(values: Scores, count: int) -> npt.NDArray[np.int64]:
    """Where the `count` largest are, in any order; all if there are not as many."""
    return (
        np.argpartition(values, len(values) - count)[len(values) - count :]
        if len(values) > count
        else np.arange(len(values))
    )


def _kth(values: Scores, k: int) -> float:
    """The k-th largest, 0 if there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if len(values) >= k else 0.0
