"""Passages, and the files they come in.

A corpus is a JSON Lines file, one passage a line, as Search-R1 and FlashRAG publish them (wiki-18 has 21 million):

    {"id": "0", "contents": "\\"Aaron\\"\\nAaron is a prophet ..."}

Nothing here loads a whole corpus: it is read as a stream, and `fingerprint` recognises a file of any size at once.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# `fingerprint` reads files up to BLOCKS * BLOCK bytes completely, and so much of larger ones.
BLOCKS = 256
BLOCK = 65_536


class CorpusError(ValueError):
    """A corpus file has a line that is no passage; the message names file, line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text that a search can return.

    Attributes:
        id: its name in the corpus.
        title: of the article it comes from.
        text: what it says.

    >>> passage = Passage.from_contents("7", '"Aaron"\\nAaron is a prophet.')
    >>> passage.title, passage.text, passage.contents
    ('Aaron', 'Aaron is a prophet.', '"Aaron"\\nAaron is a prophet.')
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
        """The other way round: the first line is the title, with or without its quotation marks."""
        title, _, text = contents.partition("\n")
        title = title.strip()
        if len(title) >= 2 and title[0] == title[-1] == '"':
            title = title[1:-1]
        return cls(id, title, text)

    @classmethod
    def from_row(cls, row: object) -> Passage:
        """A passage from a row ``{"id", "contents"}`` or ``{"id", "title", "text"}``; ids may be numbers.

        Raises:
            ValueError: the row has neither form; the message says what is missing.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"expected a JSON object, got {type(row).__name__}")
        id = row.get("id")
        if isinstance(id, bool) or not isinstance(id, str | int):
            raise ValueError(f"'id' must be a string or a number, got {id!r:.80}")
        if isinstance(row.get("contents"), str):
            return cls.from_contents(str(id), row["contents"])
        if isinstance(row.get("title"), str) and isinstance(row.get("text"), str):
            return cls(str(id), row["title"], row["text"])
        raise ValueError(f"expected a text under 'contents', or under 'title' and 'text'; the keys are {list(row)}")


def read_corpus(path: str | Path) -> Iterator[Passage]:
    """The passages of a JSON Lines file (``.gz`` too), one at a time, in order. Empty lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        CorpusError: a line is not a passage.
    """
    number = 0
    with _open(path) as file:
        while True:
            number += 1
            try:
                line = file.readline()
                if not line:
                    return
                if not line.strip():
                    continue
                passage = Passage.from_row(json.loads(line))
            except (ValueError, EOFError, gzip.BadGzipFile) as error:
                raise CorpusError(f"{path}:{number}: not a passage: {error}") from None
            yield passage


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
    """Sixteen hexadecimal digits that change when the file does, at the same small cost for a file of any size.

    Covers the size and, of files above 16 MiB, 256 evenly spaced blocks: enough to tell a corpus from another one or
    from a newer version of itself, which is what an index has to know. It is not a checksum.

    Raises:
        FileNotFoundError: there is no such file.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        digest.update(str(size).encode())
        starts: Iterable[int] = range(0, size, BLOCK)
        if size > BLOCKS * BLOCK:
            starts = (number * (size - BLOCK) // (BLOCKS - 1) for number in range(BLOCKS))
        for start in starts:
            file.seek(start)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _open(path: str | Path) -> gzip.GzipFile | BinaryIO:
    if str(path).endswith(".gz"):
        return gzip.open(path, "rb")
    return open(path, "rb")
