"""Passages on disk: as many as there are, none of them in memory until asked for."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, overload

import numpy as np

from opid_gym_envs.searchqa.corpus import Passage

LINES = "passages.jsonl"
ENDS = "ends.u64"
# Passages between two flushes: what an interruption can lose.
FLUSH_EVERY = 10_000
# Stops at the end of the line, and takes a third of the time of `json.loads`.
_decode = json.JSONDecoder().raw_decode


class PassageStore(Sequence[Passage]):
    """A sequence of passages, memory-mapped.

    Two files: JSON Lines with one ``[id, title, text]`` a passage, and where each line ends, as 64-bit numbers. Opening
    maps them; 21 million passages are open as fast as ten, and take no memory of their own.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_store(folder, [Passage("a", "Aaron", "A prophet."), Passage("b", "Babel", "A tower.")])
    2
    >>> store = PassageStore(folder)
    >>> len(store), store[1].title
    (2, 'Babel')

    Raises:
        FileNotFoundError: the folder has no store.
        ValueError: its files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        size = (folder / LINES).stat().st_size
        count, rest = divmod((folder / ENDS).stat().st_size, 8)
        # As a plain array: a memmap takes five times as long to give a number.
        self._ends = np.asarray(np.memmap(folder / ENDS, "<u8", "r", shape=count)) if count else np.empty(0, "<u8")
        if rest or size != (int(self._ends[-1]) if count else 0):
            raise ValueError(f"the passages in {str(folder)!r} are incomplete: build the index again")
        self._lines: mmap.mmap | bytes = b""
        if size:
            with open(folder / LINES, "rb") as file:
                self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> Passage: ...
    @overload
    def __getitem__(self, row: slice) -> list[Passage]: ...
    def __getitem__(self, row: int | slice) -> Passage | list[Passage]:
        if isinstance(row, slice):
            return [self[number] for number in range(*row.indices(len(self)))]
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} passages")
        fields, _ = _decode(self._line(row).decode())
        return Passage(*fields)

    def __iter__(self) -> Iterator[Passage]:
        return self.read_from(0)

    def read_from(self, row: int) -> Iterator[Passage]:
        """The passages from this row on."""
        return (self[number] for number in range(row, len(self)))

    def document(self, row: int) -> bytes:
        r"""A passage as search servers send it, put together from its line, which is JSON already.

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_store(folder, [Passage("a", "Aaron", 'A "prophet".')])
        1
        >>> print(PassageStore(folder).document(0).decode())
        {"id":"a","contents":"\"Aaron\"\nA \"prophet\"."}
        """
        # A quotation mark without a backslash ends a field.
        name, title, text = self._line(row)[2:-3].split(b'", "', 2)
        if name.endswith(b"\\") or title.endswith(b"\\"):  # it has a backslash, or one is the field's last character
            passage = self[row]
            return json.dumps({"id": passage.id, "contents": passage.contents}).encode()
        return b'{"id":"%b","contents":"\\"%b\\"\\n%b"}' % (name, title, text)

    def _line(self, row: int) -> bytes:
        return self._lines[int(self._ends[row - 1]) if row else 0 : int(self._ends[row])]

    def close(self) -> None:
        """Unmap the files. The store then has no passages."""
        self._ends = np.empty(0, "<u8")
        if isinstance(self._lines, mmap.mmap):
            self._lines.close()


def write_store(folder: Path, passages: Iterable[Passage]) -> int:
    """Write passages to a folder, going on where an interrupted call with the same passages stopped.

    Returns:
        How many there are now.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LINES, "ab") as lines, open(folder / ENDS, "ab") as ends:
        count, end = _whole(folder, lines, ends)
        waiting: list[bytes] = []
        for passage in islice(passages, count, None):
            # Escaped only where it must be: lone surrogates cannot be written as UTF-8.
            line = json.dumps([passage.id, passage.title, passage.text], ensure_ascii=False)
            try:
                data = line.encode()
            except UnicodeEncodeError:
                data = json.dumps([passage.id, passage.title, passage.text]).encode()
            lines.write(data + b"\n")
            end += len(data) + 1
            waiting.append(end.to_bytes(8, "little"))
            count += 1
            if len(waiting) == FLUSH_EVERY:
                _flush(lines, ends, waiting)
        _flush(lines, ends, waiting)
    return count


def _flush(lines: IO[bytes], ends: IO[bytes], waiting: list[bytes]) -> None:
    lines.flush()  # first, and to the disk, so that an end never points behind what is there
    os.fsync(lines.fileno())
    ends.write(b"".join(waiting))
    ends.flush()
    os.fsync(ends.fileno())
    waiting.clear()


def _whole(folder: Path, lines: IO[bytes], ends: IO[bytes]) -> tuple[int, int]:
    """Cut off what an interruption left half written; returns how many passages remain, and where the last ends."""
    ends.truncate(ends.tell() // 8 * 8)
    known = np.fromfile(folder / ENDS, "<u8")
    rising = np.diff(known, prepend=np.uint64(0)).astype(np.int64) > 0  # a power cut can leave zeros
    count = len(known) if rising.all() else int(np.argmin(rising))
    count = int(np.searchsorted(known[:count], lines.tell(), side="right"))
    end = int(known[count - 1]) if count else 0
    lines.truncate(end)
    ends.truncate(count * 8)
    return count, end
