"""Questions with their accepted answers, and the files they come in.

Files and folders are read in every format of `opid_gym_envs.searchqa.tables`, and rows in every shape of
`opid_gym_envs.searchqa.shapes`.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opid_gym_envs.searchqa.shapes import (
    QUESTION_COLUMNS,
    QUESTION_COLUMNS_WITHOUT_HEADER,
    QUESTION_IDS,
    QUESTION_SHAPES,
    read_question,
    row_id,
)
from opid_gym_envs.searchqa.tables import SUFFIXES, TableError, read_table, stem, table_files

PUBLISHED = {
    ("nq", "train"): 79_168,
    ("nq", "test"): 3_610,
    ("triviaqa", "test"): 11_313,
    ("popqa", "test"): 14_267,
    ("hotpotqa", "train"): 90_447,
    ("hotpotqa", "dev"): 7_405,
    ("2wikimultihopqa", "dev"): 12_576,
    ("musique", "dev"): 2_417,
    ("bamboogle", "test"): 125,
}
"""How many questions a published set has, by source and split. What Search-R1 calls the test set of a source that
publishes none is its dev set."""

BAD_ROWS = ("error", "skip")

# What else a split is called.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "valid", "val"),
    "test": ("test", "testing"),
}
# Folders that do not say which data set is in them.
_NAMELESS = frozenset(("data", "default", *(name for names in _SPLIT_NAMES.values() for name in names)))
# A name that claims to be a whole split, or a numbered part of one.
_WHOLE = re.compile(r"(train|dev|test|validation)(-\d+-of-\d+)?")


class QuestionFileError(ValueError):
    """A row is not a question, or a file is damaged; the message names file, place and what is wrong."""


class EmptyAnswers(UserWarning):
    """Golden answers without any text were left out: every answer that is an article alone would have matched them."""


class IncompleteSet(UserWarning):
    """A file that is called like a published set has another number of questions."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: stable name, ``source:split:number`` or ``source:ROW ID``.
        source: the data set it comes from; results are reported by it.
        text: the question.
        answers: every accepted answer, the best first.
        supports: ids of the passages that the answer takes, in the order of the reasoning, where they are known.
        queries: for each of them, queries that find it: first what a reasoning person would search for, then
            what is more certain to find it.
    """

    id: str
    source: str
    text: str
    answers: tuple[str, ...]
    supports: tuple[str, ...] = ()
    queries: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """What a file or folder holds.

    Attributes:
        questions: in the order of the files.
        skipped: how many bad rows were left out.
        empty_answers: how many golden answers without any text were left out.
        whole: it holds published sets (`PUBLISHED`), each of them completely, and nothing else.
    """

    questions: tuple[Question, ...]
    skipped: int = 0
    empty_answers: int = 0
    whole: bool = False


def find_questions(path: str | Path, split: str | None = None) -> list[Path]:
    """The file itself, or the files of a split in a folder.

    In a folder, files of a split are called after it (``test.parquet``, ``test-00000-of-00002.arrow``,
    ``test/part-1.jsonl.gz``); where there is a file of just its name, it alone is taken. Without `split`, ``train`` is
    meant, or all files where none is called after any split.

    Raises:
        FileNotFoundError: there is none; the message says what is there.
        ValueError: a file is given together with a split that it is not called after.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"dataset={str(path)!r} is neither 'factbook' nor a file or folder")
        if split is not None and not _claims(Path(path.name), split):
            raise ValueError(
                f"dataset={str(path)!r} is one file, and split={split!r} is not in its name: leave split out"
            )
        return [path]
    files = table_files(path)
    wanted = split or "train"
    exact = [file for file in files if file.parent == path and stem(file) == wanted]
    if exact:
        formats = {suffix: number for number, suffix in enumerate(SUFFIXES)}
        return [min(exact, key=lambda file: formats[Path(file.name.removesuffix(".gz")).suffix])]
    found = [file for file in files if _claims(file.relative_to(path), wanted)]
    if (
        not found
        and split is None
        and not any(_claims(file.relative_to(path), name) for file in files for name in _SPLIT_NAMES)
    ):
        found = files
    if not found:
        there = ", ".join(file.relative_to(path).as_posix() for file in files[:10]) or "nothing to read"
        raise FileNotFoundError(f"no questions of split {wanted!r} in {str(path)!r}: there is {there}")
    return found


def read_questions(
    path: str | Path, split: str | None = None, *, source: str | None = None, bad_rows: str = "error"
) -> QuestionFile:
    """Read the questions of a file, or of a split in a folder (see `find_questions`).

    The split of a row is what its ``extra_info`` says, or the name of the file. Files called ``train``, ``dev`` or
    ``test`` claim to be the whole set, and a published set that is not complete in them warns (`IncompleteSet`).

    Args:
        path: a file or folder; Parquet and Arrow need ``pip install 'opid-gym[search]'``.
        split: of a folder.
        source: data set of rows that do not say; None: the name of the folder that the file lies in.
        bad_rows: ``"error"``, or ``"skip"`` to leave them out and count them.

    Raises:
        QuestionFileError: a row has no question, no answer, or the id of an earlier one; or a file is damaged.
        ValueError: `bad_rows` is not one of the two.
        FileNotFoundError: see `find_questions`.
    """
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"bad_rows must be one of {BAD_ROWS}, got {bad_rows!r}")
    files = find_questions(path, split)
    reading = _Reading(skip=bad_rows == "skip")
    for file in files:
        reading.read(file, source or _source(file))
    if reading.empty_answers:
        warnings.warn(
            f"{path}: {reading.empty_answers:,} golden answers without any text were left out, the first at "
            f"{reading.first_empty}",
            EmptyAnswers,
            stacklevel=2,
        )
    whole = all(count == _published(*kind) for kind, count in reading.counts.items())
    if all(_WHOLE.fullmatch(stem(file)) for file in files):
        _check_complete(path, reading.counts)
    return QuestionFile(tuple(reading.questions.values()), reading.skipped, reading.empty_answers, whole)


class _Reading:
    """Questions read so far, from one file after the other."""

    def __init__(self, *, skip: bool) -> None:
        self.questions: dict[str, Question] = {}
        self.counts: Counter[tuple[str, str]] = Counter()
        self.skipped = self.empty_answers = 0
        self.first_empty = ""
        self._skip = skip
        self._shape = QUESTION_SHAPES[0]
        self._rows = 0

    def read(self, file: Path, source: str) -> None:
        split = stem(file)
        if match := _WHOLE.fullmatch(split):
            split = match.group(1)
        try:
            for place, row in read_table(file, QUESTION_COLUMNS, QUESTION_COLUMNS_WITHOUT_HEADER):
                try:
                    if isinstance(row, Exception):
                        raise row
                    self._add(row, source, split, file, place)
                except ValueError as error:
                    if not self._skip:
                        raise QuestionFileError(f"{file}:{place}: not a question: {error}") from None
                    self.skipped += 1
                self._rows += 1
        except TableError as error:
            raise QuestionFileError(str(error)) from None

    def _add(self, row: dict[str, Any], source: str, split: str, file: Path, place: int) -> None:
        text, found, self._shape = read_question(row, self._shape)
        answers = tuple(dict.fromkeys(found))
        for answer in answers:
            if not answer or answer.isspace():
                answers = self._filled(answers, file, place)
                break
        source = str(row.get("data_source") or source)
        extra = row.get("extra_info")
        index = None
        if isinstance(extra, dict):
            index = extra.get("index") if "split" in extra else None
            split = str(extra.get("split") or split)
        if index is not None:
            id = f"{source}:{split}:{index}"
        elif (name := row_id(row, QUESTION_IDS)) is not None:
            id = f"{source}:{name}"
        else:
            id = f"{source}:{split}:{self._rows}"
        if id in self.questions:
            raise ValueError(f"an earlier row has the same id {id!r}")
        self.questions[id] = Question(id, source, text, answers)
        self.counts[source, split] += 1

    def _filled(self, answers: tuple[str, ...], file: Path, place: int) -> tuple[str, ...]:
        filled = tuple(filter(str.strip, answers))
        if not filled:
            raise ValueError("every golden answer is empty")
        self.empty_answers += len(answers) - len(filled)
        self.first_empty = self.first_empty or f"{file}:{place}"
        return filled


def _claims(path: Path, split: str) -> bool:
    """Whether a file or one of its folders is called after a split."""
    words = re.split(r"[^a-z0-9]+", path.as_posix().lower())
    return split in path.stem or not set(words).isdisjoint(_SPLIT_NAMES.get(split, (split,)))


def _source(file: Path) -> str:
    """The data set that the folders of a file are called after."""
    names = [folder.name for folder in file.resolve().parents if folder.name]
    return next((name for name in names if name not in _NAMELESS), "questions")


def _published(source: str, split: str) -> int | None:
    """How many questions a published set has; a source without a test set has its dev set for one, as in Search-R1."""
    name = "dev" if split == "validation" else split
    return PUBLISHED.get((source, name)) or (PUBLISHED.get((source, "dev")) if name == "test" else None)


def _check_complete(path: str | Path, counts: Mapping[tuple[str, str], int]) -> None:
    for (source, split), count in sorted(counts.items()):
        expected = _published(source, split)
        if expected and count != expected:
            warnings.warn(
                f"{path} has {count:,} questions of {source} ({split}) and the published set {expected:,}: "
                "results are not comparable with those on the whole set",
                IncompleteSet,
                stacklevel=3,
            )
