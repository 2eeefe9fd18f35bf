"""Questions with their accepted answers, and the files they come in.

Two kinds of rows are read, from Parquet and from JSON Lines, whichever way round:

- FlashRAG's: ``{"id", "question", "golden_answers"}``;
- Search-R1's (and OPID's): ``{"data_source", "prompt", "reward_model": {"ground_truth": {"target": [...]}},
  "extra_info": {"split", "index"}}``, with or without FlashRAG's columns beside them.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

SUFFIXES = (".parquet", ".jsonl", ".json")
BAD_ROWS = ("error", "skip")

# What Search-R1 writes before the question in a prompt.
_PROMPT = re.compile(r".*Question:\s*(.+?)\s*", re.DOTALL)


class QuestionFileError(ValueError):
    """A row is no question; the message names file, row and what is wrong."""


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
        queries: for each of them, searches that shall find it: what somebody who reasons would search for, then what is
            more certain to.
    """

    id: str
    source: str
    text: str
    answers: tuple[str, ...]
    supports: tuple[str, ...] = ()
    queries: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionFile:
    """What a file holds.

    Attributes:
        questions: in the order of the file.
        skipped: how many bad rows were left out.
    """

    questions: tuple[Question, ...]
    skipped: int = 0


def find_questions(path: str | Path, split: str | None = None) -> Path:
    """The file itself, or that of a split in a folder (``test.parquet``, ``test.jsonl``).

    Raises:
        FileNotFoundError: there is none; the message says what was looked for.
        ValueError: a file is given together with a split that it is not called after.
    """
    path = Path(path)
    if path.is_dir():
        names = [f"{split or 'train'}{suffix}" for suffix in SUFFIXES]
        for name in names:
            if (path / name).is_file():
                return path / name
        raise FileNotFoundError(f"no questions in {str(path)!r}: none of {names} is there")
    if not path.is_file():
        raise FileNotFoundError(f"dataset={str(path)!r} is neither 'factbook' nor a file or folder")
    if split is not None and split not in path.stem:
        raise ValueError(f"dataset={str(path)!r} is one file, and split={split!r} is not in its name: leave split out")
    return path


def read_questions(path: str | Path, *, source: str | None = None, bad_rows: str = "error") -> QuestionFile:
    """Read a file of questions.

    The split of a row is what its ``extra_info`` says, or the name of the file. A file called ``train``, ``dev`` or
    ``test`` claims to be the whole set, and a published set that is not complete in it warns (`IncompleteSet`).

    Args:
        path: a ``.parquet`` file (needs ``pip install 'opid-gym[search]'``) or JSON Lines.
        source: data set of rows that do not say; None: the name of the folder that the file lies in.
        bad_rows: ``"error"``, or ``"skip"`` to leave them out and count them.

    Raises:
        QuestionFileError: a row has no question, no answer, or the id of an earlier one.
        ValueError: `bad_rows` is not one of the two.
    """
    path = Path(path)
    if bad_rows not in BAD_ROWS:
        raise ValueError(f"bad_rows must be one of {BAD_ROWS}, got {bad_rows!r}")
    questions: dict[str, Question] = {}
    splits: Counter[tuple[str, str]] = Counter()
    skipped = 0
    for number, row in _rows(path):
        try:
            if isinstance(row, Exception):
                raise row
            question, split = _question(row, number, path, source or path.resolve().parent.name)
            if question.id in questions:
                raise ValueError(f"an earlier row has the same id {question.id!r}")
        except ValueError as error:
            if bad_rows == "error":
                raise QuestionFileError(f"{path}:{number + 1}: not a question: {error}") from None
            skipped += 1
            continue
        questions[question.id] = question
        splits[question.source, split] += 1
    if path.stem in ("train", "dev", "test"):
        _check_complete(path, splits)
    return QuestionFile(tuple(questions.values()), skipped)


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers from 0; a line that is not JSON comes as its error."""
    if path.suffix == ".parquet":
        yield from enumerate(_parquet_rows(path))
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                yield number, error


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"reading {str(path)!r} needs pyarrow: pip install 'opid-gym[search]'", name="pyarrow"
        ) from None
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1_000):
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise QuestionFileError(f"{path} is not a Parquet file: {error}") from None


def _question(row: object, number: int, path: Path, default_source: str) -> tuple[Question, str]:
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, got {type(row).__name__}")
    extra = _mapping(row, "extra_info")
    source = row.get("data_source") or default_source
    split = extra.get("split") or path.stem
    text = row.get("question") or _question_in(row.get("prompt"))
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no question under 'question' or in 'prompt'; the keys are {list(row)}")
    answers = row.get("golden_answers")
    if answers is None:
        answers = _mapping(_mapping(row, "reward_model"), "ground_truth").get("target")
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, Sequence) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"no list of texts under 'golden_answers' or 'reward_model', got {answers!r:.80}")
    if "index" in extra and "split" in extra:
        id = f"{source}:{split}:{extra['index']}"
    elif row.get("id") is not None:
        id = f"{source}:{row['id']}"
    else:
        id = f"{source}:{split}:{number}"
    return Question(id, str(source), text.strip(), tuple(answers)), str(split)


def _mapping(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = row.get(key)
    return value if isinstance(value, Mapping) else {}


def _question_in(prompt: object) -> str | None:
    if not isinstance(prompt, Sequence) or not prompt or not isinstance(prompt[-1], Mapping):
        return None
    match = _PROMPT.fullmatch(str(prompt[-1].get("content")))
    return match.group(1) if match else None


def _check_complete(path: Path, counts: Mapping[tuple[str, str], int]) -> None:
    for (source, split), count in sorted(counts.items()):
        expected = PUBLISHED.get((source, split)) or (split == "test" and PUBLISHED.get((source, "dev")))
        if expected and count != expected:
            warnings.warn(
                f"{path} has {count:,} questions of {source} ({split}) and the published set {expected:,}: "
                "results are not comparable with those on the whole set",
                IncompleteSet,
                stacklevel=3,
            )
