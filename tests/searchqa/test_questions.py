"""Files of questions as Search-R1, OPID and FlashRAG publish them: both row forms, both formats, and what is wrong with
them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from opid_gym_envs.searchqa.questions import (
    EmptyAnswers,
    IncompleteSet,
    Question,
    QuestionFileError,
    find_questions,
    read_questions,
)
from opid_gym_envs.searchqa.scoring import exact_match

PROMPT = (
    "Answer the given question. You must reason first. For example, <answer> Beijing </answer>. Question: {question}\n"
)


def search_r1_row(source: str, index: int, question: str, *golds: str, split: str = "test") -> dict[str, Any]:
    return {
        "id": f"{split}_{index}",
        "question": question,
        "golden_answers": list(golds),
        "data_source": source,
        "prompt": [{"role": "user", "content": PROMPT.format(question=question)}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": list(golds)}},
        "extra_info": {"split": split, "index": index},
    }


ROWS = [
    search_r1_row("nq", 0, "who wrote hamlet?", "Shakespeare", "William Shakespeare"),
    search_r1_row("nq", 1, "capital of kenya?", "Nairobi"),
    search_r1_row("bamboogle", 0, "Who was president when superconductivity was discovered?", "Taft"),
]
QUESTIONS = (
    Question("nq:test:0", "nq", "who wrote hamlet?", ("Shakespeare", "William Shakespeare")),
    Question("nq:test:1", "nq", "capital of kenya?", ("Nairobi",)),
    Question("bamboogle:test:0", "bamboogle", "Who was president when superconductivity was discovered?", ("Taft",)),
)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["part.parquet", "part.jsonl"])
@pytest.mark.parametrize("left_out", [(), ("question", "golden_answers", "id"), ("reward_model", "prompt")])
def test_search_r1_rows(tmp_path: Path, name: str, left_out: tuple[str, ...]) -> None:
    rows = [{key: value for key, value in row.items() if key not in left_out} for row in ROWS]
    read = read_questions(write(tmp_path / name, rows))
    assert read.questions == QUESTIONS
    assert read.skipped == 0


@pytest.mark.parametrize("name", ["dev_part.parquet", "dev_part.jsonl"])
def test_flashrag_rows_are_named_after_their_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "musique"
    folder.mkdir()
    rows = [{"id": "dev_7", "question": "Who?", "golden_answers": ["He"], "metadata": {"hops": 2}}]
    [question] = read_questions(write(folder / name, rows)).questions
    assert question == Question("musique:dev_7", "musique", "Who?", ("He",))
    [question] = read_questions(folder / name, source="mine").questions
    assert question.id == "mine:dev_7"


def test_rows_without_any_id_are_numbered(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "golden_answers": ["He"]}, {"question": "Where?", "golden_answers": "Here"}]
    read = read_questions(write(tmp_path / "part.jsonl", rows), source="x")
    assert [question.id for question in read.questions] == ["x:part:0", "x:part:1"]
    assert read.questions[1].answers == ("Here",)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected an object, got list"),
        (
            '{"golden_answers": ["a"]}',
            r"no question with golden answers in {golden_answers: \['a'\]}: a question is read",
        ),
        ('{"question": " ", "golden_answers": ["a"]}', "no question with golden answers"),
        (
            '{"question": "Who?"}',
            "in {question: 'Who\\?'}: .* and golden answers .* from 'golden_answers', 'reward_model",
        ),
        ('{"question": "Who?", "golden_answers": []}', r"no question with golden answers .* golden_answers: \[\]"),
        ('{"question": "Who?", "golden_answers": [1]}', r"no question with golden answers .* golden_answers: \[1\]"),
        ('{"question": "Who?", "golden_answers": ["", " "]}', "every golden answer is empty"),
        ('{"question": "Who?", "golden_answers": "a", "id": 1.5}', "'id' must be a string or a number, got 1.5"),
        ('{"question": "Who?", "golden_answers": ["a"], "id": "0"}', "an earlier row has the same id 'x:0'"),
    ],
)
def test_a_bad_row_is_named_or_skipped_and_counted(tmp_path: Path, row: str, problem: str) -> None:
    path = tmp_path / "part.jsonl"
    good = '{"id": "0", "question": "Q?", "golden_answers": ["A"]}'
    path.write_text(f"{good}\n{row}\n" + good.replace('"0"', '"1"') + "\n")
    with pytest.raises(QuestionFileError, match=f"part.jsonl:2: not a question: .*{problem}"):
        read_questions(path, source="x")
    read = read_questions(path, source="x", bad_rows="skip")
    assert [question.id for question in read.questions] == ["x:0", "x:1"]
    assert read.skipped == 1


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad_rows must be one of \('error', 'skip'\), got 'ignore'"):
        read_questions(tmp_path / "x.jsonl", bad_rows="ignore")
    broken = tmp_path / "test.parquet"
    broken.write_bytes(b"PAR1 and nothing of the kind")
    with pytest.raises(QuestionFileError, match=r"test.parquet is not a Parquet file, or is damaged"):
        read_questions(broken)
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(QuestionFileError, match=r"test.parquet:1: not JSON Lines, .*; it begins with 'nothing of the"):
        read_questions(broken)
    assert find_questions(tmp_path, "test") == [broken]
    with pytest.raises(FileNotFoundError, match=r"no questions of split 'train' in .*: there is test.parquet"):
        find_questions(tmp_path, "train")
    with pytest.raises(FileNotFoundError, match="neither 'factbook' nor a file or folder"):
        find_questions(tmp_path / "none")
    with pytest.raises(ValueError, match="leave split out"):
        find_questions(broken, "train")


def test_a_set_that_claims_to_be_whole_and_is_not_warns(tmp_path: Path) -> None:
    path = write(tmp_path / "test.jsonl", ROWS)
    with pytest.warns(IncompleteSet) as caught:
        read_questions(path)
    messages = [str(warning.message) for warning in caught]
    assert ["bamboogle (test)" in messages[0], "nq (test)" in messages[1]] == [True, True]
    assert "has 2 questions of nq (test) and the published set 3,610: results are not comparable" in messages[1]


def test_a_whole_set_and_an_honest_part_do_not_warn(tmp_path: Path) -> None:
    whole = [search_r1_row("bamboogle", index, f"Question {index}?", "A") for index in range(125)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_questions(write(tmp_path / "test.jsonl", whole)).questions) == 125
        read_questions(write(tmp_path / "first_rows.jsonl", ROWS))
        read_questions(write(tmp_path / "train.jsonl", [{"id": 0, "question": "Q?", "golden_answers": ["A"]}]))


def test_empty_golden_answers_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        {"question": "Capital of Italy?", "golden_answers": ["", "Rome"]},
        {"question": "Capital of Kenya?", "golden_answers": ["Nairobi", " "]},
    ]
    path = write(tmp_path / "part.jsonl", rows)
    with pytest.warns(EmptyAnswers, match=r"part.jsonl: 2 golden answers without any text .* first at .*part.jsonl:1"):
        read = read_questions(path)
    assert [question.answers for question in read.questions] == [("Rome",), ("Nairobi",)]
    assert read.empty_answers == 2
    assert not any(exact_match("the", question.answers) for question in read.questions)


class TestFolders:
    def test_shards_of_a_split_are_read_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        for split, shards in (("train", 11), ("test", 2)):
            for shard in range(shards):
                row = {"question": f"{split} {shard}?", "golden_answers": ["a"]}
                write(tmp_path / f"{split}-{shard}.jsonl", [row])
        assert [q.text for q in read_questions(tmp_path).questions] == [f"train {shard}?" for shard in range(11)]
        assert [q.text for q in read_questions(tmp_path, "test").questions] == ["test 0?", "test 1?"]
        assert len({q.id for q in read_questions(tmp_path).questions}) == 11

    def test_a_file_of_just_the_name_goes_before_others_and_parquet_before_text(self, tmp_path: Path) -> None:
        for name, text in (("test.jsonl", "a?"), ("test.parquet", "b?"), ("test_top100.jsonl", "c?")):
            write(tmp_path / name, [{"question": text, "golden_answers": ["a"]}])
        assert [q.text for q in read_questions(tmp_path, "test").questions] == ["b?"]

    def test_folders_of_splits_and_other_names_of_them(self, tmp_path: Path) -> None:
        folder = tmp_path / "musique"
        for name in ("train/0.jsonl", "validation/0.jsonl"):
            (folder / name).parent.mkdir(parents=True)
            write(folder / name, [{"question": f"{name}?", "golden_answers": ["a"]}])
        [question] = read_questions(folder, "dev").questions
        assert (question.text, question.source) == ("validation/0.jsonl?", "musique")

    def test_files_that_are_called_after_no_split_are_the_training_set(self, tmp_path: Path) -> None:
        write(tmp_path / "one.jsonl", [{"question": "a?", "golden_answers": ["a"]}])
        assert len(read_questions(tmp_path).questions) == 1
        with pytest.raises(FileNotFoundError, match=r"no questions of split 'test'.*there is one.jsonl"):
            read_questions(tmp_path, "test")


def test_a_whole_published_set_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "bamboogle"
    folder.mkdir()
    rows = [{"Question": f"Question {index}?", "Answer": "A"} for index in range(125)]
    assert read_questions(write(folder / "test.jsonl", rows)).whole
    with pytest.warns(IncompleteSet):
        assert not read_questions(write(folder / "test.jsonl", rows[:100])).whole
