"""Rows of files and folders, recognised by what is in them and not by what they are called.

JSON Lines, a JSON array, objects one after another however they are indented, an object with its rows under ``Data``
or ``data``, CSV and TSV with or without a header, Parquet, and Arrow (files, streams, `datasets`' folders); any of them
may be compressed with gzip. Rows come one at a time: a corpus can be far larger than memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import IO, Any, cast

from opid_gym.json_text import parse_json
from opid_gym.named import missing_extra
from opid_gym_envs.json_stream import JSONStream

FORMATS = "JSON Lines, a JSON array, indented JSON, CSV, TSV, Parquet or Arrow, each also gzipped"
SUFFIXES = (".parquet", ".arrow", ".feather", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Names that files of a folder must end with to be read, ``.gz`` behind them or not."""

# Files beside the data in folders that `datasets` saves.
_NOT_DATA = frozenset({"dataset_info.json", "state.json", "dataset_dict.json", "dataset_infos.json", "config.json"})
# Where an object of a whole file keeps its rows.
_ENVELOPES = ("Data", "data", "questions", "examples", "rows")
_BATCH = 1_000
# Characters of a cell; the csv module refuses more than 131,072 if it is not told.
_LONGEST_CELL = 1 << 30
_GZIP, _PARQUET, _ARROW_FILE, _ARROW_STREAM = b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_BOM = b"\xef\xbb\xbf"

# A row and its place, counted from 1: the line of a text, the number of an element or row elsewhere. What is no row
# comes as the error that says why.
Row = tuple[int, Any]


class TableError(ValueError):
    """A file cannot be read any further; the message names the file, the place and what is wrong."""


def table_files(folder: Path) -> list[Path]:
    """The data files below a folder, shards in the order of their numbers.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("part-10.csv.gz", "part-9.csv.gz", "README.md"):
    ...     _ = (folder / name).write_text("")
    >>> [path.name for path in table_files(folder)]
    ['part-9.csv.gz', 'part-10.csv.gz']
    """
    found = (path for path in folder.rglob("*") if _is_data(path.relative_to(folder)) and path.is_file())
    return sorted(found, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def stem(path: Path) -> str:
    """The name of a file without the endings that say its format.

    >>> stem(Path("nq/test-00000-of-00002.jsonl.gz")), stem(Path("psgs_w100.tsv"))
    ('test-00000-of-00002', 'psgs_w100')
    """
    name = path.name.removesuffix(".gz")
    return name.removesuffix(Path(name).suffix) if Path(name).suffix in SUFFIXES else name


def read_table(path: Path, columns: Set[str], headerless: Sequence[str]) -> Iterator[Row]:
    """The rows of a file, in order, each with its place. Empty lines are skipped.

    Args:
        path: of any of the formats.
        columns: names of columns that mean something; others may be left out of Parquet and Arrow. A first line of CSV
            or TSV without any of them is taken for the first row.
        headerless: names of the columns of CSV and TSV without a header.

    Raises:
        TableError: the file is damaged, or of no format that is known.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: Parquet and Arrow need ``pip install 'opid-gym[search]'``.
    """
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == _GZIP
        file = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw))) if packed else raw
        try:
            head = file.peek(8)
            if head.startswith((_PARQUET, _ARROW_FILE, _ARROW_STREAM)):
                yield from _columnar(path, file.read() if packed else None, head, columns)
            else:
                yield from _text(path, file, columns, headerless)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TableError(f"{path}: the gzip file is damaged: {error}") from None


def _text(path: Path, file: IO[bytes], columns: Set[str], headerless: Sequence[str]) -> Iterator[Row]:
    first = next((line for line in file if not line.isspace()), b"").removeprefix(_BOM)
    file.seek(0)
    start = first.lstrip()[:1]
    if start == b"[":
        return _elements(path, file, array=True)
    if start == b"{":
        # What goes on behind the first line is indented, and an envelope is a file of its own.
        row = _json_or_none(first)
        return _elements(path, file, array=False) if row is None or _envelope(row) else _lines(file)
    return _cells(path, first.decode("utf-8", "replace"), file, columns, headerless)


def _lines(file: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(file, 1):
        try:
            yield number, parse_json((line.removeprefix(_BOM) if number == 1 else line).decode())
        except ValueError as error:
            if not line.isspace():
                yield number, error


def _elements(path: Path, file: IO[bytes], *, array: bool) -> Iterator[Row]:
    stream = JSONStream(io.TextIOWrapper(file, "utf-8-sig"), str(path))
    place = 0
    try:
        for element in stream.array() if array else stream.values():
            for row in _envelope(element) or (element,):
                place += 1
                yield place, row
    except ValueError as error:
        raise TableError(str(error)) from None


def _envelope(value: Any) -> Sequence[Any]:
    """The rows inside an object that is a whole file; none if it is a row itself."""
    for key in _ENVELOPES if isinstance(value, dict) else ():
        rows = value.get(key)
        if isinstance(rows, list) and rows and isinstance(rows[0], dict):
            return rows
    return ()


def _json_or_none(line: bytes) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _cells(path: Path, first: str, file: IO[bytes], columns: Set[str], headerless: Sequence[str]) -> Iterator[Row]:
    delimiter = "\t" if "\t" in first else ","
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter)
    header: Sequence[str] | None = None
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{path}:{reader.line_num + 1}: not {FORMATS}: {error}") from None
        if not cells:
            continue
        if header is None:
            names = [cell.strip() for cell in cells]
            if not columns.isdisjoint(names):
                header = names
                continue
            if len(cells) < 2:
                raise TableError(f"{path}:{reader.line_num}: not {FORMATS}; it begins with {first.strip()[:60]!r}")
            header = headerless[: len(cells)]
        if len(cells) != len(header):
            yield reader.line_num, ValueError(f"{len(cells)} columns, where there are {list(header)}")
        else:
            yield reader.line_num, dict(zip(header, cells, strict=True))


def _columnar(path: Path, unpacked: bytes | None, head: bytes, columns: Set[str]) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import ipc, parquet
    except ModuleNotFoundError:
        raise missing_extra(f"reading {str(path)!r}", "pyarrow", "search") from None
    try:
        source = pyarrow.memory_map(str(path)) if unpacked is None else pyarrow.BufferReader(unpacked)
        with source:
            if head.startswith(_PARQUET):
                table = parquet.ParquetFile(source)
                wanted = [name for name in table.schema_arrow.names if name in columns]
                batches = table.iter_batches(_BATCH, columns=wanted or None)
            elif head.startswith(_ARROW_FILE):
                opened = ipc.open_file(source)
                batches = (opened.get_batch(number) for number in range(opened.num_record_batches))
            else:
                batches = iter(ipc.open_stream(source))
            place = 0
            for batch in batches:
                wanted = [name for name in batch.schema.names if name in columns]
                for start in range(0, len(batch), _BATCH):
                    for row in (batch.select(wanted) if wanted else batch).slice(start, _BATCH).to_pylist():
                        place += 1
                        yield place, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the disk's; those that pyarrow raises for nonsense in a file have no number
        kind = "a Parquet" if head.startswith(_PARQUET) else "an Arrow"
        raise TableError(f"{path} is not {kind} file, or is damaged: {str(error).splitlines()[0]}") from None


def _is_data(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    return (
        Path(name).suffix in SUFFIXES
        and name not in _NOT_DATA
        and not any(part.startswith((".", "_")) for part in path.parts)
    )


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their values."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]
