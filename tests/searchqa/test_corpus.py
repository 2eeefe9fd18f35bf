"""Corpora in the published form: what is read, what is refused and where, and files that are told apart."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from opid_gym_envs.searchqa.corpus import BLOCK, BLOCKS, CorpusError, Passage, fingerprint, read_corpus, write_corpus

PASSAGES = [
    Passage("0", "Aaron", 'He is "a prophet".\nSecond line.'),
    Passage("1", '"Heroes" (song)', "naïve 🙂 \u2028 line"),
    Passage("2", "", ""),
]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    assert write_corpus(path, PASSAGES) == 3
    assert list(read_corpus(path)) == PASSAGES
    row = json.loads(path.read_text().splitlines()[0])
    assert row == {"id": "0", "contents": '"Aaron"\nHe is "a prophet".\nSecond line.'}
    packed = tmp_path / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_corpus(packed)) == PASSAGES


def test_both_published_row_forms(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": 7, "contents": "Plain title\\ntext"}\n\n{"id": "8", "title": "T", "text": "x"}\n')
    assert list(read_corpus(path)) == [Passage("7", "Plain title", "text"), Passage("8", "T", "x")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "expected a JSON object, got list"),
        (b'{"id": 1.5, "contents": "x"}', "'id' must be a string or a number, got 1.5"),
        (b'{"id": 1, "title": "x"}', "no passage in {id: 1, title: 'x'}: a text is read from 'contents', 'text'"),
        (b'{"id": 1, "title": 2, "text": "x"}', "'title' must be a text, got 2"),
        (b'{"id": 1, "contents": "\xff"}', "can't decode byte 0xff"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"id": 0, "contents": "a\\nb"}\n' + line + b"\n")
    passages = read_corpus(path)
    assert next(passages).id == "0"
    with pytest.raises(CorpusError, match=f"corpus.jsonl:2: not a passage: .*{problem}"):
        next(passages)


def test_a_cut_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": 0, "contents": "a\\nb"}\n' * 1000)[:40])
    with pytest.raises(CorpusError, match=r"corpus.jsonl.gz: the gzip file is damaged"):
        list(read_corpus(path))


@pytest.mark.parametrize("rest", [b"\xff" * 100, b"\x10\x00\x00\x00" + b"\x00" * 20, b""])
@pytest.mark.parametrize("start", [b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"])
def test_damaged_columns_are_named(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "corpus.arrow"
    path.write_bytes(start + rest)
    with pytest.raises(CorpusError, match=r"corpus.arrow is not (a Parquet|an Arrow) file, or is damaged: "):
        list(read_corpus(path))


def test_fingerprints_tell_files_apart(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, PASSAGES)
    first = fingerprint(path)
    assert len(first) == 16
    write_corpus(path, PASSAGES[::-1])
    assert fingerprint(path) != first
    with pytest.raises(FileNotFoundError):
        fingerprint(tmp_path / "none")


def test_a_large_file_is_recognised_by_its_length_and_its_ends(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with open(path, "wb") as file:
        file.truncate(BLOCKS * BLOCK + 1_000_000)  # sparse: takes no room
    seen = {fingerprint(path)}
    for position, length in ((0, 0), (-1, 0), (0, 1)):
        with open(path, "r+b") as file:
            file.truncate(file.seek(0, 2) + length)
            file.seek(position, 2 if position < 0 else 0)
            file.write(b"x")
        seen.add(fingerprint(path))
    assert len(seen) == 4
