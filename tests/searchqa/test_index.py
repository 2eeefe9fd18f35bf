"""Index folders: built, interrupted, gone on with, and refused; as a library and as users type it."""

import json
import random
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module

import numpy as np
import pytest

from opid_gym_envs.searchqa.corpus import CorpusError, Passage, read_corpus, write_corpus
from opid_gym_envs.searchqa.retrievers import IndexMismatch, bm25, build_index, make_retriever, open_index, store
from opid_gym_envs.searchqa.retrievers.index import read_manifest
from tests.searchqa.servers import corpus


class Interrupted(Exception):
    """Stands for Ctrl-C at a chosen moment."""


def interrupted_at(name, count):
    """A stage in which so many passages of the named stage are done before the interruption."""

    @contextmanager
    def stage(this, total):
        done = 0

        def advance(number):
            nonlocal done
            done += number
            if this == name and done >= count:
                raise Interrupted

        yield advance

    return stage


def many(count: int) -> list[Passage]:
    return [Passage(str(n), f"Item {n}", f"number{n} of a long list, colour{n % 7}") for n in range(count)]


@pytest.fixture(params=[("reading passages", 2_000), ("reading passages", 4_000), ("indexing words", 3_000)])
def interruption(request):
    return request.param


class TestResuming:
    def test_an_interrupted_build_goes_on_and_ends_as_an_uninterrupted_one(self, tmp_path, monkeypatch, interruption):
        monkeypatch.setattr(bm25, "COMMIT_EVERY", 1_000)
        monkeypatch.setattr(store, "FLUSH_EVERY", 1_500)
        write_corpus(tmp_path / "corpus.jsonl", many(5_000))
        with pytest.raises(Interrupted):
            build_index(tmp_path / "corpus.jsonl", tmp_path / "index", stage=interrupted_at(*interruption))
        with pytest.raises(IndexMismatch, match="incomplete: run the command that builds it again"):
            open_index(tmp_path / "index")
        build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
        build_index(tmp_path / "corpus.jsonl", tmp_path / "whole")
        queries = [f"number{n}" for n in range(0, 5_000, 50)] + ["colour3", "list"]
        resumed, whole = open_index(tmp_path / "index"), open_index(tmp_path / "whole")
        assert [[hit.id for hit in hits] for hits in resumed.search(queries, 1)][:100] == [
            [str(n)] for n in range(0, 5_000, 50)
        ]
        for one, other in zip(resumed.search(queries, 5), whole.search(queries, 5), strict=True):
            assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-3)
        assert list(resumed.passages) == list(read_corpus(tmp_path / "corpus.jsonl"))

    def test_an_interrupted_build_keeps_what_it_had(self, tmp_path, monkeypatch):
        monkeypatch.setattr(bm25, "COMMIT_EVERY", 1_000)
        with pytest.raises(Interrupted):
            build_index(many(5_000), tmp_path / "index", stage=interrupted_at("indexing words", 3_000))
        done = []

        @contextmanager
        def stage(name, total):
            yield lambda count: done.append((name, count))

        build_index(many(5_000), tmp_path / "index", stage=stage)
        assert done[0][0] == "indexing words"  # the passages are not read again
        assert done[0][1] >= 2_000

    def test_a_half_written_passage_is_cut_off(self, tmp_path):
        passages = many(10)
        store.write_store(tmp_path, passages[:6])
        for name, left in (("passages.jsonl", b'["6", "Item'), ("ends.u64", b"\x01\x02\x03")):
            with open(tmp_path / name, "ab") as file:
                file.write(left)
        with pytest.raises(ValueError, match="incomplete"):
            store.PassageStore(tmp_path)
        assert store.write_store(tmp_path, passages) == 10
        assert list(store.PassageStore(tmp_path)) == passages

    def test_a_broken_line_is_named_and_costs_nothing_of_before(self, tmp_path):
        path = tmp_path / "corpus.jsonl"
        write_corpus(path, many(5))
        whole = path.read_text()
        path.write_text(whole + "{broken\n")
        with pytest.raises(CorpusError, match=r"corpus.jsonl:6: not a passage"):
            build_index(path, tmp_path / "index")
        path.write_text(whole)
        with pytest.raises(IndexMismatch, match="another corpus"):
            build_index(path, tmp_path / "index")


class TestStore:
    def test_a_document_is_json_whatever_the_passage_says(self, tmp_path):
        """Above all, what looks like the end of a field."""
        pieces = ['"', ", ", '", "', "\\", "\\\\", '["', '"]', "\n", "\x00", "\u2028", "\ud800", "é", "東京", "", "a"]
        pick = random.Random(0)
        texts = ["".join(pick.choices(pieces, k=pick.randint(0, 5))) for _ in range(3_000)]
        passages = [Passage(*texts[start : start + 3]) for start in range(0, 3_000, 3)]
        store.write_store(tmp_path, passages)
        opened = store.PassageStore(tmp_path)
        for row, passage in enumerate(passages):
            document = {"id": passage.id, "contents": passage.contents}
            assert json.loads(opened.document(row)) == document

    def test_is_a_sequence(self, tmp_path):
        passages = many(20)
        store.write_store(tmp_path, passages)
        opened = store.PassageStore(tmp_path)
        assert (len(opened), opened[-1], opened[3:5], list(opened.read_from(18))) == (
            20,
            passages[-1],
            passages[3:5],
            passages[18:],
        )
        with pytest.raises(IndexError, match="row 20 of 20 passages"):
            opened[20]
        opened.close()
        opened.close()
        assert len(opened) == 0

    def test_processes_that_build_the_same_index_wait_for_each_other(self, tmp_path):
        write_corpus(tmp_path / "corpus.jsonl", many(3_000))
        code = (
            "import sys; from opid_gym_envs.searchqa.retrievers import make_retriever\n"
            "retriever = make_retriever('bm25', corpus=sys.argv[1], cache_dir=sys.argv[2])\n"
            "print(retriever.search(['number77'], 1)[0][0].id)"
        )
        command = [sys.executable, "-c", code, str(tmp_path / "corpus.jsonl"), str(tmp_path / "cache")]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        assert [process.communicate(timeout=60)[0] for process in processes] == ["77\n"] * 3
        assert len(list((tmp_path / "cache").iterdir())) == 1


class TestDenseIndex:
    def test_the_graph_is_built_from_vectors_that_are_there(self, tmp_path):
        build_index(corpus(), tmp_path / "index", "dense")
        vectors = tmp_path / "index" / "dense" / "vectors.f32"
        made = vectors.stat().st_mtime_ns
        exact = open_index(tmp_path / "index").search(["walrus of Malta", "a string instrument in Japan"], 5)
        with pytest.raises(ValueError, match="has vectors but no graph"):
            open_index(tmp_path / "index", settings={"index": "hnsw"})
        build_index(corpus(), tmp_path / "index", "dense", {"index": "hnsw"})
        assert vectors.stat().st_mtime_ns == made
        assert read_manifest(tmp_path / "index").settings["index"] == "hnsw"
        graph = open_index(tmp_path / "index").search(["walrus of Malta", "a string instrument in Japan"], 5)
        assert [[hit.id for hit in hits] for hits in graph] == [[hit.id for hit in hits] for hits in exact]
        assert exact[1][0].id == "violin-Japan"
        with pytest.raises(IndexMismatch, match="max_length=256, not 128: give another folder"):
            build_index(corpus(), tmp_path / "index", "dense", {"max_length": 128})
        with pytest.raises(IndexMismatch, match="has max_length=256, not 128"):
            open_index(tmp_path / "index", settings={"max_length": 128})

    @pytest.mark.parametrize("k", [1, 7, 50])
    def test_comparing_in_blocks_is_comparing_all(self, monkeypatch, k):
        dense = import_module("opid_gym_envs.searchqa.retrievers.dense")
        rng = np.random.default_rng(k)
        queries, vectors = rng.normal(size=(5, 8)).astype("f4"), rng.normal(size=(50, 8)).astype("f4")
        monkeypatch.setattr(dense, "BLOCK", 16)
        scores, rows = dense.nearest(dense.torch.from_numpy(queries), dense.torch.from_numpy(vectors), k)
        products = queries @ vectors.T
        assert rows.tolist() == np.argsort(-products, axis=1)[:, :k].tolist()
        np.testing.assert_allclose(scores.numpy(), -np.sort(-products, axis=1)[:, :k], rtol=1e-5)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"index": "ivf"}, "index must be 'exact' or 'hnsw', got 'ivf'"),
            ({"model": "/nowhere/model"}, "no sentence-transformers model '/nowhere/model'"),
            ({"max_length": "long"}, "max_length must be of type int, got 'long'"),
            ({"colour": "red"}, r"dense has no setting 'colour'; it has \['candidates', 'index'"),
        ],
    )
    def test_wrong_settings_are_named(self, tmp_path, settings, message):
        with pytest.raises(ValueError, match=message):
            make_retriever("dense", corpus=corpus(), cache_dir=tmp_path, **settings)


class TestCommand:
    def run(self, *arguments):
        command = [sys.executable, "-m", "opid_gym.cli", "index", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_builds_and_says_what_next(self, tmp_path):
        write_corpus(tmp_path / "corpus.jsonl", corpus())
        code, out, said = self.run(tmp_path / "corpus.jsonl", "--out", tmp_path / "index", "--json")
        assert code == 0, said
        row = json.loads(out)
        assert (row["engine"], row["passages"], row["settings"]) == ("bm25", 100, {})
        code, out, said = self.run(tmp_path / "corpus.jsonl", "--out", tmp_path / "index")
        assert (code, out) == (0, "")
        assert re.search(r"100 passages for bm25 in .*opid-gym serve search --index", said, re.DOTALL)

    def test_errors_are_one_line(self, tmp_path):
        write_corpus(tmp_path / "corpus.jsonl", corpus())
        code, _, said = self.run(tmp_path / "corpus.jsonl", "--out", tmp_path / "index", "--engine", "altavista")
        assert (code, said.count("\n")) == (2, 1)
        assert "unknown engine 'altavista'; there are ['bm25'" in said
        code, _, said = self.run(tmp_path / "none.jsonl", "--out", tmp_path / "index")
        assert (code, said.count("\n")) == (2, 1)
        assert "none.jsonl" in said
