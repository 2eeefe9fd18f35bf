"""Files in the forms that projects keep questions and passages in: all hold the same records, and all are read so.

The files lie in ``tests/data/shapes``, with the program that makes them.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from opid_gym_envs.searchqa.corpus import Passage, fingerprint, read_corpus
from opid_gym_envs.searchqa.questions import read_questions
from opid_gym_envs.searchqa.shapes import (
    PASSAGE_COLUMNS,
    PASSAGE_COLUMNS_WITHOUT_HEADER,
    PASSAGE_SHAPES,
    QUESTION_COLUMNS,
    QUESTION_COLUMNS_WITHOUT_HEADER,
    QUESTION_SHAPES,
    read_question,
    shapes_as_markdown,
)
from opid_gym_envs.searchqa.tables import read_table, table_files

SHAPES = Path(__file__).parents[1] / "data" / "shapes"
MADE = runpy.run_path(str(SHAPES / "make.py"))
QUESTIONS, PASSAGES = MADE["QUESTIONS"], MADE["PASSAGES"]


def entries(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((SHAPES / folder).iterdir())]


def name(path: Path) -> str:
    return path.relative_to(SHAPES).as_posix()


def test_there_are_many() -> None:
    assert len(entries("questions", "one_answer", "passages", "untitled")) >= 45


@pytest.mark.parametrize("path", entries("questions", "one_answer"), ids=name)
def test_questions_are_the_same_in_every_shape(path: Path) -> None:
    read = read_questions(path)
    first = 1 if path.parent.name == "one_answer" else None
    assert [(question.text, question.answers) for question in read.questions] == [
        (text, answers[:first]) for text, answers in QUESTIONS
    ]
    assert len({question.id for question in read.questions}) == 3
    assert (read.skipped, read.empty_answers) == (0, 0)


@pytest.mark.parametrize("path", entries("passages", "untitled"), ids=name)
def test_passages_are_the_same_in_every_shape(path: Path) -> None:
    expected = [Passage(*row) for row in PASSAGES]
    if path.parent.name == "untitled":
        expected = [Passage(row.id, "", row.text.replace("\n", " ")) for row in expected]
    assert list(read_corpus(path)) == expected
    assert len(fingerprint(path)) == 16


def test_every_shape_of_the_documentation_has_a_file() -> None:
    rows = rows_of(entries("questions", "one_answer"), QUESTION_COLUMNS, QUESTION_COLUMNS_WITHOUT_HEADER)
    assert {read_question(row)[2] for row in rows} == set(QUESTION_SHAPES)
    rows = rows_of(entries("passages", "untitled"), PASSAGE_COLUMNS, PASSAGE_COLUMNS_WITHOUT_HEADER)
    assert {shape for shape in PASSAGE_SHAPES for row in rows if shape.text in row} == set(PASSAGE_SHAPES)


def rows_of(paths: list[Path], columns: frozenset[str], headerless: tuple[str, ...]) -> list[Any]:
    files = [file for path in paths for file in (table_files(path) if path.is_dir() else [path])]
    return [row for file in files for _, row in read_table(file, columns, headerless)]


def test_the_documentation_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "worlds" / "searchqa.md").read_text(encoding="utf-8")
    assert shapes_as_markdown() in page


def test_the_files_are_those_that_the_program_makes() -> None:
    for kind in ("questions", "one_answer", "passages", "untitled"):
        for file, data in MADE[kind]().items():
            if not file.endswith((".parquet", ".arrow", ".parquet.gz")):  # these say which version wrote them
                assert (SHAPES / kind / file).read_bytes() == data, file
