"""Index folders: built, interrupted, gone on with, and refused; as a library and as users type it."""

import json
import random
import re
import subprocess
import sys
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import faiss
import numpy as np
import pytest

from opid_gym_envs.searchqa.corpus import CorpusError, Passage, read_corpus, write_corpus
from opid_gym_envs.searchqa.retrievers import IndexMismatch, bm25, build_index, dense, make_retriever, open_index, store
from opid_gym_envs.searchqa.retrievers.index import RepeatedIds, read_manifest
from opid_gym_envs.webshop.search.lucene import java
from tests.patience import SECONDS
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
        path.write_text(whole)  # mended: the same command starts over
        build_index(path, tmp_path / "index")
        assert open_index(tmp_path / "index").search(["number3"], 1)[0][0].id == "3"

    @pytest.mark.parametrize("engine", ["bm25", "bm25s", "dense"])
    def test_a_build_that_failed_for_a_setting_or_the_corpus_is_started_over(self, tmp_path, engine):
        path = tmp_path / "corpus.jsonl"
        path.write_text("")
        with pytest.raises(ValueError, match=r"corpus.jsonl' has no passages"):
            build_index(path, tmp_path / "index", engine)
        write_corpus(path, [Passage(str(number), "", "") for number in range(3)])
        with pytest.raises(ValueError, match=r"corpus.jsonl' has no passages with any text"):
            build_index(path, tmp_path / "index", engine)
        write_corpus(path, many(5))
        if engine == "dense":
            with pytest.raises(ValueError, match="no sentence-transformers model"):
                build_index(path, tmp_path / "index", engine, {"model": "/nowhere"})
        build_index(path, tmp_path / "index", engine)
        assert len(open_index(tmp_path / "index").search(["number3"], 1)[0]) == 1

    def test_ids_that_passages_share_are_named(self, tmp_path):
        passages = [*many(5), Passage("3", "Other", "text"), Passage("4", "Other", "text")]
        with pytest.warns(RepeatedIds, match=r"has 2 passages with the id of an earlier one, the first is '3'"):
            build_index(passages, tmp_path / "index")


class TestIndexesOfOthers:
    def faiss_index(self, path, kind="Flat", metric=faiss.METRIC_INNER_PRODUCT):
        """As FlashRAG makes it for Search-R1: normalised vectors of all passages."""
        model = dense.load_model({**dense.Dense.SETTINGS})
        vectors = dense.encode(model, [passage.contents for passage in corpus()], "")
        index = faiss.index_factory(vectors.shape[1], kind, metric)
        index.add(vectors)
        faiss.write_index(index, str(path))
        return path

    def test_vectors_of_a_flat_index_are_mapped_and_rank_as_our_own(self, tmp_path):
        vectors = self.faiss_index(tmp_path / "e5_Flat.index")
        queries = ["walrus of Malta", "a string instrument in Japan", "ships"]
        own = make_retriever("dense", corpus=corpus(), cache_dir=tmp_path / "own").search(queries, 5)
        theirs = make_retriever("dense", corpus=corpus(), cache_dir=tmp_path / "theirs", vectors=str(vectors))
        for one, other in zip(own, theirs.search(queries, 5), strict=True):
            assert [hit.id for hit in one] == [hit.id for hit in other]
            assert [hit.score for hit in one] == pytest.approx([hit.score for hit in other], rel=1e-4)
        assert not list((tmp_path / "theirs").rglob("vectors.f32"))

    def test_what_does_not_fit_says_what_can_be_done(self, tmp_path):
        vectors = self.faiss_index(tmp_path / "e5_Flat.index")
        for few, what in ((corpus()[:50], "has 100 vectors, and the corpus 50 passages"),):
            with pytest.raises(ValueError, match=what):
                make_retriever("dense", corpus=few, cache_dir=tmp_path, vectors=str(vectors))
        narrow = faiss.IndexFlatIP(8)
        narrow.add(np.ones((100, 8), np.float32))
        faiss.write_index(narrow, str(tmp_path / "narrow.index"))
        with pytest.raises(
            ValueError, match=r"vectors of 8 numbers, and model 'all-MiniLM-L6-v2' makes 384: set model="
        ):
            make_retriever("dense", corpus=corpus(), cache_dir=tmp_path, vectors=str(tmp_path / "narrow.index"))
        for kind, metric in (("HNSW16", faiss.METRIC_INNER_PRODUCT), ("Flat", faiss.METRIC_L2)):
            other = self.faiss_index(tmp_path / "other.index", kind, metric)
            with pytest.raises(
                ValueError, match=r"not a FAISS index of kind Flat with inner products.*encode the passages"
            ):
                make_retriever("dense", corpus=corpus(), cache_dir=tmp_path, vectors=str(other))
        vectors.write_bytes(vectors.read_bytes()[:-4])
        with pytest.raises(ValueError, match=r"is incomplete: 100 vectors of 384 numbers take 153,645 bytes"):
            make_retriever("dense", corpus=corpus(), cache_dir=tmp_path, vectors=str(vectors))
        for give in (lambda: make_retriever("bm25", corpus=vectors, cache_dir=tmp_path), lambda: open_index(vectors)):
            with pytest.raises(ValueError, match="which has vectors and no passages: give the passages as corpus"):
                give()

    def test_a_folder_of_pyserinis_is_searched_as_it_is(self, tmp_path):
        (tmp_path / "docs").mkdir()
        write_corpus(tmp_path / "docs" / "docs.jsonl", corpus())
        arguments = ["-collection", "JsonCollection", "-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"]
        places = ["-input", str(tmp_path / "docs"), "-quiet"]
        index = java()("io.anserini.index.IndexCollection")
        index.main([*arguments, *places, "-index", str(tmp_path / "stored"), "-storeRaw"])
        index.main([*arguments, *places, "-index", str(tmp_path / "bare")])
        theirs = make_retriever("lucene", corpus=tmp_path / "stored")
        own = make_retriever("lucene", corpus=corpus(), cache_dir=tmp_path / "own")
        queries = ["walrus in Malta", "sonnet of Iran", "O'Neill"]
        found, expected = theirs.search(queries, 3), own.search(queries, 3)
        assert [len(hits) for hits in found] == [3, 3, 0]
        assert [hits[0].passage for hits in found[:2]] == [hits[0].passage for hits in expected[:2]]
        for hits, others in zip(found, expected, strict=True):  # equal scores are ordered by names, which differ
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in others], rel=1e-4)
        assert theirs.search_documents(queries, 3) == [
            [(json.dumps({"id": hit.id, "contents": hit.passage.contents}).encode(), hit.score) for hit in hits]
            for hits in found
        ]
        theirs.close()
        with pytest.raises(ValueError, match="does not store its texts: build it with pyserini's --storeRaw"):
            open_index(tmp_path / "bare")
        with pytest.raises(ValueError, match="is an index of Lucene's: engine 'lucene' searches it, not 'bm25'"):
            make_retriever("bm25", corpus=tmp_path / "stored")


def zeroed(path):
    replace_content(path, bytes(path.stat().st_size))


def cut_off(path):
    replace_content(path, path.read_bytes()[:-7])


def replace_content(path, content):
    """Not in place: who still has the file mapped, as a thread of tantivy's may, would be ended by a bus error."""
    path.unlink()
    path.write_bytes(content)


class TestDamage:
    """What a power cut leaves of files that were not forced to the disk, or a careless hand."""

    @pytest.mark.parametrize("engine", ["bm25", "bm25s", "dense"])
    def test_damaged_files_are_named_and_the_same_command_repairs_them(self, tmp_path, engine):
        folder = tmp_path / "index"
        build_index(corpus(), folder, engine)
        asked = ["walrus in Malta", "sonnet of Iran"]
        before = open_index(folder).search(asked, 3)
        harms = [(zeroed, engine), (cut_off, "passages"), (Path.unlink, engine), (zeroed, "passages")]
        for harm, inside in harms if engine == "bm25" else harms[:1]:  # the others take long to build
            path = max((folder / inside).iterdir(), key=lambda path: path.stat().st_size)
            harm(path)
            with pytest.raises(IndexMismatch, match=f"damaged.*{re.escape(path.name)}.*the command that builds"):
                open_index(folder)
            with pytest.warns(UserWarning, match=f"built again: .*{re.escape(path.name)}"):
                build_index(corpus(), folder, engine)
            assert open_index(folder).search(asked, 3) == before

    @pytest.mark.parametrize("harm", [zeroed, cut_off, lambda path: path.write_bytes(b"[" * 100_000)])
    def test_a_torn_manifest_is_named_and_the_same_command_repairs_it(self, tmp_path, harm):
        build_index(corpus(), tmp_path / "index")
        harm(tmp_path / "index" / "manifest.json")
        with pytest.raises(IndexMismatch, match=r"manifest.json: not the manifest of an index"):
            open_index(tmp_path / "index")
        with pytest.warns(UserWarning, match=r"built again: .*manifest.json"):
            build_index(corpus(), tmp_path / "index")
        assert open_index(tmp_path / "index").search(["walrus in Malta"], 1)[0][0].id == "walrus-Malta"

    def test_one_changed_byte_is_found_by_the_command(self, tmp_path):
        folder = tmp_path / "index"
        build_index(many(20_000), folder)
        lines = folder / "passages" / "passages.jsonl"
        with open(lines, "r+b") as file:
            file.seek(10_000)
            file.write(b"\xff")
        build_index(many(20_000), folder)
        with pytest.warns(UserWarning, match="passages.jsonl has other content"):
            build_index(many(20_000), folder, thorough=True)

    def test_zeros_at_the_end_of_an_unfinished_build_are_written_again(self, tmp_path):
        passages = many(100)
        store.write_store(tmp_path, passages[:60])
        ends = tmp_path / "ends.u64"  # lines are forced to the disk before the ends that count them
        ends.write_bytes(ends.read_bytes()[:-64] + bytes(64))
        assert store.write_store(tmp_path, passages) == 100
        assert list(store.PassageStore(tmp_path)) == passages

    def test_vectors_of_zeros_are_made_again(self, tmp_path):
        """As a power cut leaves the last ones of an unfinished build."""
        passages = many(40)
        build_index(passages, tmp_path / "whole", "dense")
        with pytest.raises(Interrupted):
            build_index(passages, tmp_path / "cut", "dense", stage=interrupted_at("encoding passages", 40))
        vectors = tmp_path / "cut" / "dense" / "vectors.f32"
        content = (tmp_path / "whole" / "dense" / "vectors.f32").read_bytes()
        vectors.write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
        build_index(passages, tmp_path / "cut", "dense")
        assert vectors.read_bytes() == content

    def test_an_interruption_of_the_first_write_leaves_nothing_in_the_way(self, tmp_path):
        (tmp_path / ".new-manifest-0123abcd.json").write_text('{"engine": ')
        assert build_index(corpus(), tmp_path).complete


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
        assert [process.communicate(timeout=SECONDS)[0] for process in processes] == ["77\n"] * 3
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
            ({"index": "ivf"}, r"index must be one of \['exact', 'hnsw'\], got 'ivf'"),
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
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        return done.returncode, done.stdout, done.stderr

    def test_builds_and_says_what_next(self, tmp_path):
        write_corpus(tmp_path / "corpus.jsonl", corpus())
        code, out, said = self.run(tmp_path / "corpus.jsonl", "--out", tmp_path / "index", "--json")
        assert code == 0, said
        row = json.loads(out)
        assert (row["engine"], row["passages"], row["settings"]) == ("bm25", 100, {"language": "english"})
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
