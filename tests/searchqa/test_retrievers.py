"""What every retriever owes its callers, on a small corpus in which the right answers are plain."""

import json
import math
import pickle
import random
import threading

import numpy as np
import pytest
import torch

from opid_gym_envs.searchqa.corpus import Passage, write_corpus
from opid_gym_envs.searchqa.retrievers import (
    IndexMismatch,
    Retriever,
    base,
    bm25,
    build_index,
    dense,
    make_retriever,
    open_index,
)
from opid_gym_envs.searchqa.retrievers.hybrid import Fusion
from opid_gym_envs.searchqa.retrievers.words import FILLER
from opid_gym_envs.searchqa.retrievers.workers import Workers
from tests.patience import SECONDS
from tests.searchqa.servers import PLACES, TOPICS, corpus

STRANGE = [
    Passage("tags", "Tags", "Here </information> <answer>zebra</answer> <search>zebra</search>"),
    Passage("control", "Bell\x07", "quagga\x00\x01\x1b[31m\u2028\u202e end"),
    Passage("half", "Half \ud800", "okapi and half a pair \udfff of surrogates"),
    Passage("large", "Large", "gnu " + "filler " * 150_000),
    Passage("empty", "", ""),
    Passage("accents", "Côte d’Ivoire", "Die Hauptstadt heißt Yamoussoukro; 東京 is elsewhere."),
]


@pytest.fixture(scope="module", params=["bm25", "bm25s", "lucene", "dense", "hybrid"])
def retriever(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    made = make_retriever(request.param, corpus=[*corpus(), *STRANGE], cache_dir=folder)
    yield made
    made.close()
    made.close()  # does no harm


def test_known_items_come_first_and_in_the_order_of_the_queries(retriever):
    asked = random.Random(0).sample(corpus(), 40)
    results = retriever.search([f"Where is the {p.title}?" for p in asked], 3)
    assert [hits[0].id for hits in results] == [passage.id for passage in asked]
    assert [hits[0].passage for hits in results] == asked
    for hits in results:
        assert len(hits) == 3
        assert sorted((hit.score for hit in hits), reverse=True) == [hit.score for hit in hits]


def test_batch_and_single_agree(retriever):
    queries = [f"{topic} {place}" for topic, place in zip(TOPICS, PLACES, strict=True)]
    batched = scores(retriever.search(queries, 5))
    singly = scores([retriever.search([query], 5)[0] for query in queries])
    np.testing.assert_allclose(batched, singly, rtol=1e-4)
    np.testing.assert_allclose(scores(retriever.search(queries, 2)), batched[:, :2], rtol=1e-4)


def test_a_process_of_its_own_changes_no_answer(retriever, monkeypatch):
    """Batches are then shared out among threads, however the machine is."""
    monkeypatch.setattr(base, "cores", lambda: 3)
    monkeypatch.setattr(dense, "BLOCK", 7)
    monkeypatch.setattr(dense, "ROUND", 21)
    queries = [f"{topic} of {place}?" for topic in TOPICS for place in PLACES]
    expected = retriever.search(queries, 9)
    threads = torch.get_num_threads()
    try:
        retriever.own_process()
        found = retriever.search(queries, 9)
    finally:
        torch.set_num_threads(threads)
    assert [hits[0].id for hits in found] == [hits[0].id for hits in expected]
    np.testing.assert_allclose(scores(found), scores(expected), rtol=1e-4)


def test_documents_are_the_passages_as_json(retriever):
    queries = ["zebra", "quagga", "okapi", "gnu", "東京", "walrus in Malta"]
    for hits, documents in zip(retriever.search(queries, 3), retriever.search_documents(queries, 3), strict=True):
        written = [{"id": hit.id, "contents": hit.passage.contents} for hit in hits]
        assert [json.loads(document) for document, _ in documents] == written
        assert [score for _, score in documents] == pytest.approx([hit.score for hit in hits], rel=1e-4)


def test_a_copy_in_another_process_answers_the_same(retriever):
    copied = pickle.loads(pickle.dumps(retriever))
    assert copied.search(["walrus Malta", "quagga"], 2) == retriever.search(["walrus Malta", "quagga"], 2)
    copied.close()
    assert retriever.search(["walrus Malta"], 1)[0][0].id == "walrus-Malta"


def scores(results) -> np.ndarray:
    return np.array([[hit.score for hit in hits] for hits in results])


def test_is_a_retriever(retriever):
    assert isinstance(retriever, Retriever)
    assert retriever.search([], 3) == []


@pytest.mark.parametrize(
    "query",
    [
        "walrus Malta",
        '"walrus" AND (Malta',
        "title: walrus^5 Malta]",  # without the space it is one word to Lucene
        "walrus\x00Malta",
        "+walrus -Malta",
        "walrus*Malta~2",
        "walrus \U0001f9ad Malta",
    ],
)
def test_a_query_is_words_never_syntax(retriever, query):
    assert retriever.search([query], 1)[0][0].id == "walrus-Malta"


@pytest.mark.parametrize("query", ["", "   ", "\x00", "?!()[]{}\"'", "\ud800", "\u202e"])
def test_a_query_without_words_does_no_harm(retriever, query):
    results = retriever.search(["walrus Malta", query, "sonnet Iran"], 1)
    assert results[0][0].id == "walrus-Malta"
    assert results[2][0].id == "sonnet-Iran"


def test_a_query_of_100_kilobytes_is_answered(retriever):
    long = "walrus Malta " + " ".join(f"words{number}" for number in range(11_000))
    assert len(long) > 100_000
    assert retriever.search([long, "sonnet Iran"], 1)[1][0].id == "sonnet-Iran"


@pytest.mark.parametrize(
    ("query", "found"),
    [("zebra", 0), ("quagga", 1), ("okapi", 2), ("gnu", 3), ("côte d'Ivoire", 5), ("Yamoussoukro", 5)],
)
def test_strange_passages_are_found_and_come_back_as_they_were(retriever, query, found):
    assert retriever.search([query], 1)[0][0].passage == STRANGE[found]


def test_wrong_arguments_are_named(retriever):
    with pytest.raises(ValueError, match="queries must be a list of texts, got one text: 'walrus'"):
        retriever.search("walrus", 3)
    for k in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"k must be a whole number, at least 1, got {k}"):
            retriever.search(["walrus"], k)


class TestWorkers:
    def test_one_who_is_held_up_holds_up_nobody_else(self):
        others_are_done = threading.Event()
        workers, done = Workers(2), []

        def work(item: int) -> int:
            if item == 0:
                assert others_are_done.wait(SECONDS)
            else:
                done.append(item)
                if len(done) == 9:
                    others_are_done.set()
            return item * item

        assert workers.map(work, range(10)) == [item * item for item in range(10)]
        workers.close()

    def test_what_goes_wrong_in_any_thread_is_raised(self):
        workers = Workers(3)
        for bad in range(6):
            with pytest.raises(ZeroDivisionError):
                workers.map(lambda item, bad=bad: 1 / (item - bad), range(6))
        assert workers.map(abs, [-1, -2]) == [1, 2]
        workers.close()


class TestBM25:
    def test_stop_words_count_only_where_there_is_nothing_else(self, tmp_path):
        passages = [Passage("0", "The Who", "An English band, it is."), Passage("1", "Band", "English players.")]
        retriever = make_retriever("bm25", corpus=passages, cache_dir=tmp_path)
        assert [hit.id for hit in retriever.search(["The Who"], 3)[0]] == ["0"]
        assert retriever.search(["the players"], 3)[0][0].id == "1"

    def test_nothing_found_is_an_empty_list(self, tmp_path):
        retriever = make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path)
        assert retriever.search(["xylophone", "walrus Malta", ""], 2)[::2] == [[], []]

    def test_equal_scores_keep_the_order_of_the_corpus(self, tmp_path):
        retriever = make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path)
        assert [hit.id for hit in retriever.search(["walrus"], 10)[0]] == [f"walrus-{place}" for place in PLACES]

    def test_scores_are_those_of_bm25_with_lucenes_weight_of_length(self, tmp_path):
        """The formula, k1 = 1.2 and b = 0.4, over passages whose lengths the index keeps exactly."""
        lengths = [4, 8, 12, 4, 8, 12]
        words = [
            ["apple"] * (number // 3 + 1) + ["pear"] * (length - number // 3 - 1)
            for number, length in enumerate(lengths)
        ]
        passages = [Passage(str(number), "", " ".join(text)) for number, text in enumerate(words)]
        hits = make_retriever("bm25", corpus=passages, cache_dir=tmp_path).search(["apple"], 6)[0]
        idf = math.log(1 + 0.5 / 6.5)  # all six have it
        for hit in hits:
            frequency = words[int(hit.id)].count("apple")
            norm = 1.2 * (1 - 0.4 + 0.4 * lengths[int(hit.id)] / 8)
            assert hit.score == pytest.approx(idf * 2.2 * frequency / (frequency + norm), rel=1e-5)

    def test_no_query_finds_what_makes_passages_longer(self, tmp_path):
        retriever = make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path)
        assert retriever.search([FILLER, f"{FILLER}s", f"{FILLER}'s"], 3) == [[], [], []]
        assert retriever.search([f"{FILLER} walrus"], 3) == retriever.search(["walrus"], 3)

    @pytest.mark.parametrize("k", [1, 3, 40, 1000])
    def test_looking_at_few_passages_finds_the_same_as_looking_at_all(self, tmp_path, monkeypatch, k):
        """Words of very different frequency, some of them often in one passage, some twice in a query."""
        pick = random.Random(k)
        words = [f"word{number}" for number in range(60)]
        weights = [1 / (number + 1) for number in range(60)]
        texts = [" ".join(pick.choices(words, weights, k=pick.randint(3, 60))) for _ in range(1_500)]
        passages = [Passage(str(number), "", text) for number, text in enumerate(texts)]
        retriever = make_retriever("bm25", corpus=passages, cache_dir=tmp_path)
        queries = [" ".join(pick.choices(words, k=pick.randint(1, 9))) for _ in range(150)]
        monkeypatch.setattr(bm25, "SEARCH", 0)
        monkeypatch.setattr(bm25, "LOOK_UP", 0)  # never too dear
        results = retriever.search(queries, k)
        monkeypatch.setattr(bm25, "MOST_TERMS", 0)
        for hits, expected in zip(results, retriever.search(queries, k), strict=True):
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], rel=1e-5)
            assert len({hit.id for hit in hits}) == len(hits)


# Of each passage: a sentence of its own in four languages, a question about it in each.
SPOKEN = {
    "english": [
        ("The Nile flows into the Mediterranean Sea.", "Which sea does the Nile flow into?"),
        ("Canberra is the capital of Australia.", "What is the capital of Australia?"),
        ("Penicillin was discovered by Fleming.", "Who discovered penicillin?"),
        ("The library opens at nine in the morning.", "When does the library open?"),
    ],
    "chinese": [
        ("尼罗河流入地中海。", "尼罗河流入哪个海？"),
        ("堪培拉是澳大利亚的首都。", "澳大利亚的首都是哪里？"),
        ("青霉素是由弗莱明发现的。", "谁发现了青霉素？"),
        ("图书馆早上九点开门。", "图书馆几点开门？"),
    ],
    "japanese": [
        ("ナイル川は地中海に注ぐ。", "ナイル川はどの海に注ぎますか？"),
        ("キャンベラはオーストラリアの首都です。", "オーストラリアの首都はどこですか？"),
        ("ペニシリンはフレミングによって発見された。", "ペニシリンを発見したのは誰ですか？"),
        ("図書館は朝九時に開きます。", "図書館はいつ開きますか？"),
    ],
    "korean": [
        ("나일강은 지중해로 흘러든다.", "나일강이 흘러드는 바다는?"),
        ("캔버라는 오스트레일리아의 수도이다.", "오스트레일리아의 수도는 어디인가?"),
        ("페니실린은 플레밍이 발견했다.", "페니실린을 발견한 사람은 누구인가?"),
        ("도서관은 아침 아홉 시에 연다.", "도서관은 언제 여는가?"),
    ],
    "thai": [
        ("แม่น้ำไนล์ไหลลงสู่ทะเลเมดิเตอร์เรเนียน", "แม่น้ำไนล์ไหลลงทะเลใด"),
        ("แคนเบอร์ราเป็นเมืองหลวงของออสเตรเลีย", "เมืองหลวงของออสเตรเลียคือที่ไหน"),
        ("เฟลมมิงค้นพบเพนิซิลลิน", "ใครค้นพบเพนิซิลลิน"),
        ("ห้องสมุดเปิดตอนเก้าโมงเช้า", "ห้องสมุดเปิดเมื่อไร"),
    ],
    "russian": [
        ("Нил впадает в Средиземное море.", "В какое море впадает Нил?"),
        ("Канберра — столица Австралии.", "Какой город — столица Австралии?"),
        ("Пенициллин открыл Флеминг.", "Кто открыл пенициллин?"),
        ("Библиотека открывается в девять утра.", "Когда открывается библиотека?"),
    ],
    "hindi": [
        ("नील नदी भूमध्य सागर में गिरती है।", "नील नदी किस सागर में गिरती है?"),
        ("कैनबरा ऑस्ट्रेलिया की राजधानी है।", "ऑस्ट्रेलिया की राजधानी क्या है?"),
        ("पेनिसिलिन की खोज फ्लेमिंग ने की।", "पेनिसिलिन की खोज किसने की?"),
        ("पुस्तकालय सुबह नौ बजे खुलता है।", "पुस्तकालय कब खुलता है?"),
    ],
}


@pytest.mark.parametrize("engine", ["bm25", "bm25s"])
class TestLanguages:
    @pytest.mark.parametrize("language", SPOKEN)
    def test_passages_are_found_in_their_own_language(self, tmp_path, engine, language):
        passages = [
            Passage(f"{spoken} {n}", "", text) for spoken, pairs in SPOKEN.items() for n, (text, _) in enumerate(pairs)
        ]
        retriever = make_retriever(engine, corpus=passages, cache_dir=tmp_path)
        results = retriever.search([query for _, query in SPOKEN[language]], 1)
        assert [hits[0].id for hits in results] == [f"{language} {number}" for number in range(4)]

    @pytest.mark.parametrize(
        ("passage", "query"),
        [
            ("ﾄｳｷｮｳ ｵﾘﾝﾋﾟｯｸ", "トウキョウ"),  # half width
            ("ＯＰＩＤ ＧＹＭ", "opid"),  # full width
            ("Cafe\u0301 noir", "café"),  # a letter and its accent
            ("Москва\u0301 зимой", "Москва"),  # where the stress is
            ("كَتَبَ الوَلَدُ", "كتب الولد"),  # vowel points
            ("茶", "茶"),
        ],
    )
    def test_one_text_in_two_forms_is_one_text(self, tmp_path, engine, passage, query):
        passages = [Passage("0", "", passage), Passage("1", "", "something else entirely")]
        retriever = make_retriever(engine, corpus=passages, cache_dir=tmp_path)
        assert [hit.id for hit in retriever.search([query], 2)[0]] == ["0"]

    def test_a_corpus_has_the_stemmer_of_its_language(self, tmp_path, engine):
        passages = [Passage("0", "", "Die Universitäten öffnen ihre Türen."), Passage("1", "", "Ein Garten.")]
        english = make_retriever(engine, corpus=passages, cache_dir=tmp_path)
        german = make_retriever(engine, corpus=passages, cache_dir=tmp_path, language="german")
        query = "Welche Universität öffnet die Tür?"
        assert english.search([query], 1)[0][0].score < german.search([query], 1)[0][0].score
        with pytest.raises(ValueError, match=r"language must be one of \['arabic', .*'english'.*\], got 'latin'"):
            make_retriever(engine, corpus=passages, cache_dir=tmp_path, language="latin")


class TestLucene:
    @pytest.mark.parametrize("query", ["O'Neill", "414.7", "U.S.A.", "3,000"])
    def test_words_are_what_lucene_takes_for_words(self, tmp_path, query):
        passages = [
            Passage("0", "", f"Here it stands: {query}, you see."),
            Passage("1", "", "O Neill 414 7 U S A 3 000"),
        ]
        retriever = make_retriever("lucene", corpus=passages, cache_dir=tmp_path)
        assert [hit.id for hit in retriever.search([query], 2)[0]] == ["0"]

    def test_the_cjk_analyzer_is_a_setting(self, tmp_path):
        passages = [Passage(str(number), "", text) for number, (text, _) in enumerate(SPOKEN["chinese"])]
        retriever = make_retriever("lucene", corpus=passages, cache_dir=tmp_path, language="zh")
        results = retriever.search([query for _, query in SPOKEN["chinese"]], 1)
        assert [hits[0].id for hits in results] == ["0", "1", "2", "3"]


def test_retrievers_over_different_corpora_are_fused_and_closed_together(tmp_path):
    """What both have and rank first comes first; what one has alone is found as well."""
    middle = len(corpus()) // 2
    parts = [
        make_retriever("bm25", corpus=part, cache_dir=tmp_path) for part in (corpus()[: middle + 1], corpus()[middle:])
    ]
    closed = []
    for part in parts:
        part.close = lambda part=part: closed.append(part)
    fusion = Fusion(parts)
    first, shared, last = (
        hits[:2] for hits in fusion.search([corpus()[place].title for place in (0, middle, -1)], len(corpus()))
    )
    assert corpus()[0] in [hit.passage for hit in first]
    assert corpus()[-1] in [hit.passage for hit in last]
    assert shared[0].passage == corpus()[middle]
    assert shared[0].score == pytest.approx(2 / 61)
    assert shared[1].score < shared[0].score
    assert [len(hits) for hits in fusion.search(["sonnet", "walrus"], 1)] == [1, 1]
    fusion.close()
    assert closed == parts


class TestMakeRetriever:
    def test_a_ready_retriever_is_taken_as_it_is(self, tmp_path):
        retriever = make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path)
        assert make_retriever(retriever) is retriever
        with pytest.raises(ValueError, match="takes no corpus and no settings"):
            make_retriever(retriever, corpus=corpus())

    def test_wrong_names_and_settings_say_what_there_is(self, tmp_path):
        with pytest.raises(ValueError, match=r"unknown engine 'bm52'; there are \['bm25'"):
            make_retriever("bm52", corpus=corpus(), cache_dir=tmp_path)
        with pytest.raises(ValueError, match=r"bm25 has no setting 'k1'; it has \['language'\]"):
            make_retriever("bm25", corpus=corpus(), cache_dir=tmp_path, k1=0.9)
        with pytest.raises(ValueError, match="needs a corpus"):
            make_retriever("bm25", cache_dir=tmp_path)

    @pytest.mark.parametrize("address", ["127.0.0.1:8000", "localhost", "search.example.org:80/retrieve", "10.0.0.7"])
    def test_an_address_without_http_says_what_is_missing(self, address):
        with pytest.raises(ValueError, match=rf"begins with http:// or https://: write 'http://{address}'"):
            make_retriever(address)

    def test_an_index_is_built_once(self, tmp_path):
        path = tmp_path / "corpus.jsonl"
        write_corpus(path, corpus())
        make_retriever("bm25", corpus=path, cache_dir=tmp_path / "cache").close()
        (folder,) = (tmp_path / "cache").iterdir()
        before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
        again = make_retriever("bm25", corpus=path, cache_dir=tmp_path / "cache")
        assert again.search(["walrus Malta"], 1)[0][0].id == "walrus-Malta"
        assert {file: file.stat().st_mtime_ns for file in before} == before

    def test_an_index_folder_serves_as_corpus(self, tmp_path):
        build_index(corpus(), tmp_path / "index")
        assert make_retriever("bm25", corpus=tmp_path / "index").search(["walrus Malta"], 1)[0][0].id == "walrus-Malta"
        with pytest.raises(IndexMismatch, match="is of engine 'bm25', not 'bm25s'"):
            make_retriever("bm25s", corpus=tmp_path / "index")


class TestIndex:
    def test_refuses_another_corpus(self, tmp_path):
        here, there = tmp_path / "here.jsonl", tmp_path / "there.jsonl"
        write_corpus(here, corpus())
        write_corpus(there, corpus()[1:])
        build_index(here, tmp_path / "index")
        assert open_index(tmp_path / "index", here).search(["walrus Malta"], 1)[0]
        with pytest.raises(IndexMismatch, match=r"is of another corpus than '.*there.jsonl'.*100 passages"):
            open_index(tmp_path / "index", there)
        with pytest.raises(IndexMismatch, match=r"an index of another corpus \(fingerprint .*\): give another folder"):
            build_index(there, tmp_path / "index")

    def test_refuses_a_newer_format_and_what_is_no_manifest(self, tmp_path):
        build_index(corpus(), tmp_path / "index")
        manifest = tmp_path / "index" / "manifest.json"
        row = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**row, "format": 2}))
        with pytest.raises(IndexMismatch, match="has format 2, this version of opid-gym reads 1"):
            open_index(tmp_path / "index")
        manifest.write_text("[]")
        with pytest.raises(IndexMismatch, match="not the manifest of an index"):
            open_index(tmp_path / "index")

    def test_refuses_an_index_that_an_engine_wrote_otherwise_before(self, tmp_path):
        build_index(corpus(), tmp_path / "index")
        manifest = tmp_path / "index" / "manifest.json"
        row = json.loads(manifest.read_text())
        del row["engine_format"]  # as the first version wrote it
        manifest.write_text(json.dumps(row))
        with pytest.raises(IndexMismatch, match=r"has format 1 of bm25, .* this version reads 3: build it again"):
            open_index(tmp_path / "index")
        with pytest.raises(IndexMismatch, match="format 1 of bm25, not 3: give another folder"):
            build_index(corpus(), tmp_path / "index")

    def test_refuses_a_folder_with_something_else(self, tmp_path):
        (tmp_path / "diary.txt").write_text("dear")
        with pytest.raises(FileExistsError, match="something else than an index"):
            build_index(corpus(), tmp_path)
        with pytest.raises(FileNotFoundError, match="no index in"):
            open_index(tmp_path)

    def test_an_empty_corpus_is_refused(self, tmp_path):
        (tmp_path / "corpus.jsonl").write_text("")
        with pytest.raises(ValueError, match=r"corpus.jsonl' has no passages"):
            build_index(tmp_path / "corpus.jsonl", tmp_path / "index")
