r"""Passages, and the files they come in.

A corpus is a file, or a folder of files, in any of the forms that `opid_gym_envs.searchqa.tables` and
`opid_gym_envs.searchqa.shapes` know; first of all JSON Lines as Search-R1 publishes them (wiki-18 has 21 million):

    {"id": "0", "contents": "\"Aaron\"\nAaron is a prophet ..."}

Nothing here loads a whole corpus: it is read as a stream, and `fingerprint` recognises one of any size at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opid_gym_envs.searchqa.shapes import (
    PASSAGE_COLUMNS,
    PASSAGE_COLUMNS_WITHOUT_HEADER,
    PASSAGE_IDS,
    read_passage,
)
from opid_gym_envs.searchqa.tables import SUFFIXES, TableError, read_table, table_files

# `fingerprint` reads files of up to BLOCKS * BLOCK bytes completely, and that many bytes of larger ones.
BLOCKS = 256
BLOCK = 65_536


class CorpusError(ValueError):
    """A row of a corpus is not a passage, or a file is damaged; the message names file, place and what is wrong."""


@dataclass(frozen=True, slots=True)
class Passage:
    r"""A piece of text that a search can return.

    Attributes:
        id: its name in the corpus.
        title: of the article it comes from.
        text: what it says.

    >>> passage = Passage.from_contents("7", '"Aaron"\nAaron is a prophet.')
    >>> passage.title, passage.text, passage.contents
    ('Aaron', 'Aaron is a prophet.', '"Aaron"\nAaron is a prophet.')
    """

    id: str
    title: str
    text: str

    @property
    def contents(self) -> str:
        """Title in quotation marks, line end, text: the form of the published corpora and of retrieval servers."""
        return f'"{self.title}"\n{self.text}'

    @classmethod
    def from_contents(cls, id: str, contents: str) -> Passage:
        """The other way round: the first line is the title, with or without its quotation marks.

        Contents of one line are text without a title.
        """
        title, line_end, text = contents.partition("\n")
        if not line_end:
            return cls(id, "", contents)
        title = title.strip()
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        return cls(id, title, text)

    @classmethod
    def from_row(cls, row: object, default_id: str | None = None) -> Passage:
        """A passage from a row of any shape in `opid_gym_envs.searchqa.shapes.PASSAGE_SHAPES`; ids may be numbers.

        Args:
            row: of a corpus file, or a document of a search server.
            default_id: the id where the row has none.

        Raises:
            ValueError: the row has none of the shapes, or no id; the message says what it has.
        """
        id, title, text = read_passage(row)
        if id is None:
            if default_id is None:
                raise ValueError(f"the passage has no id; ids are under {', '.join(map(repr, PASSAGE_IDS))}")
            id = default_id
        return cls.from_contents(id, text) if title is None else cls(id, title, text)


def read_corpus(path: str | Path) -> Iterator[Passage]:
    """The passages of a file, or of all files of a folder, one at a time, in order.

    Formats are those of `opid_gym_envs.searchqa.tables`, shapes of rows those of `opid_gym_envs.searchqa.shapes`.
    Passages without ids are numbered from 0 through all files.

    Raises:
        FileNotFoundError: there is no such file, or nothing to read in the folder.
        CorpusError: a row is not a passage, or a file is damaged.
    """
    count = 0
    for file in corpus_files(path):
        try:
            for place, row in read_table(file, PASSAGE_COLUMNS, PASSAGE_COLUMNS_WITHOUT_HEADER):
                try:
                    if isinstance(row, Exception):
                        raise row
                    passage = Passage.from_row(row, str(count))
                except ValueError as error:
                    raise CorpusError(f"{file}:{place}: not a passage: {error}") from None
                count += 1
                yield passage
        except TableError as error:
            raise CorpusError(str(error)) from None


def corpus_files(path: str | Path) -> list[Path]:
    """The file itself, or the data files of a folder.

    Raises:
        FileNotFoundError: there is no such file, or nothing to read in the folder.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"there is no corpus {str(path)!r}")
        return [path]
    files = table_files(path)
    if not files:
        raise FileNotFoundError(f"no corpus in {str(path)!r}: no file there ends with one of {', '.join(SUFFIXES)}")
    return files


def write_corpus(path: str | Path, passages: Iterable[Passage]) -> int:
    """Write passages in the published form; returns how many."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for passage in passages:
            row = {"id": passage.id, "contents": passage.contents}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def fingerprint(path: str | Path) -> str:
    """Sixteen hexadecimal digits that change when the corpus does, at the same small cost for files of any size.

    Covers the size and, of files above 16 MiB, 256 evenly spaced blocks: enough to tell a corpus from another one or
    from a newer version of itself, which is what an index has to know. It is not a checksum.

    Raises:
        FileNotFoundError: there is no such file, or nothing to read in the folder.
    """
    digest = hashlib.sha256()
    for part in corpus_files(path):
        with open(part, "rb") as file:
            size = file.seek(0, 2)
            digest.update(str(size).encode())
            starts: Iterable[int] = range(0, size, BLOCK)
            if size > BLOCKS * BLOCK:
                starts = (number * (size - BLOCK) // (BLOCKS - 1) for number in range(BLOCKS))
            for start in starts:
                file.seek(start)
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]
