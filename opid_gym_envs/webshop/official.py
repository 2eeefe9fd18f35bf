"""The official files, read one record at a time: the largest is far larger than what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from opid_gym_envs.webshop.product import MalformedProductError, Product, is_listed, read_product

T = TypeVar("T")

_CHUNK = 1 << 20
_LONGEST_RECORD = 1 << 24  # characters; text that is no record by then is taken for broken
_HASHED_WHOLE = 1 << 26  # bytes


@dataclass(frozen=True, slots=True)
class OfficialFiles:
    """The files of a data folder.

    Attributes:
        items: the products, ``items_shuffle.json`` or ``items_shuffle_1000.json``.
        attributes: their attributes and synthetic instructions, ``items_ins_v2.json`` or ``items_ins_v2_1000.json``.
        human: instructions written by people, ``items_human_ins.json``; None if not there.
    """

    items: Path
    attributes: Path
    human: Path | None

    @classmethod
    def of(cls, data_dir: str | Path) -> OfficialFiles:
        """The files in a folder; where there are the full set and the small one, the full one.

        Raises:
            FileNotFoundError: the folder, or a file it needs, is not there; the message names what was expected.
        """
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder")
        items = _first(folder, "items_shuffle.json", "items_shuffle_1000.json", "items_shuffle*.json")
        suffix = items.name.removeprefix("items_shuffle")
        attributes = _first(folder, f"items_ins_v2{suffix}", "items_ins_v2.json", "items_ins_v2*.json")
        human = folder / "items_human_ins.json"
        return cls(items, attributes, human if human.is_file() else None)

    @property
    def fingerprint(self) -> str:
        """A text that changes when the files' content does. Of very large files, samples are looked at."""
        digest = hashlib.blake2b(digest_size=12)
        for path in (self.items, self.attributes, self.human):
            if path is None:
                continue
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode())
            with open(path, "rb") as file:
                if size <= _HASHED_WHOLE:
                    digest.update(file.read())
                else:
                    digest.update(str(path.stat().st_mtime_ns).encode())
                    for start in range(0, size, size // 64):
                        file.seek(start)
                        digest.update(file.read(1 << 16))
        return digest.hexdigest()


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        for path in sorted(folder.glob(name)):
            return path
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(
        f"no {names[-1]} in {folder} (there: {there}); WebShop's data are items_shuffle.json, items_ins_v2.json and "
        f"items_human_ins.json, or items_shuffle_1000.json, items_ins_v2_1000.json and items_human_ins.json"
    )


@dataclass(slots=True)
class Skipped:
    """How many records were passed over, as stock does."""

    unlisted: int = 0
    repeated: int = 0


def read_products(files: OfficialFiles, skipped: Skipped) -> Iterator[Product]:
    """The products in the order of the file, without those stock passes over, which are counted in `skipped`.

    Raises:
        ValueError: a file is not JSON of the official form, or a record is malformed; the message names the file,
            the record's place in it (from 0) and its id.
    """
    attributes = {
        asin: json.dumps(entry).encode() for asin, entry in iterate_object(files.attributes) if isinstance(entry, dict)
    }
    seen = set()
    for number, record in enumerate(iterate_array(files.items)):
        asin = record.get("asin") if isinstance(record, dict) else None
        try:
            if not isinstance(record, dict):
                raise MalformedProductError(f"is {type(record).__name__}, not an object")
            if not is_listed(asin):
                skipped.unlisted += 1
                continue
            if asin in seen:
                skipped.repeated += 1
                continue
            seen.add(asin)
            entry = attributes.get(str(asin))
            yield read_product(record, json.loads(entry) if entry else None)
        except MalformedProductError as error:
            raise ValueError(f"{files.items}: product {number} (asin {asin!r}): {error}") from error


def read_human(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What ``items_human_ins.json`` says: asin -> instructions by people.

    Raises:
        ValueError: not JSON of that form; the message names the file.
    """
    found = dict(iterate_object(path))
    for asin, goals in found.items():
        if not isinstance(goals, list) or not all(isinstance(goal, dict) for goal in goals):
            raise ValueError(f"{path}: the instructions of {asin!r} are not a list of objects")
    return found


def iterate_array(path: Path) -> Iterator[Any]:
    """The elements of a JSON array, read bit by bit.

    Raises:
        ValueError: not a JSON array; the message names the file and the element.
    """
    return _elements(path, "[]", _Scanner.value)


def iterate_object(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON object, read bit by bit.

    Raises:
        ValueError: not a JSON object; the message names the file and the entry.
    """
    return _elements(path, "{}", _Scanner.entry)


def _elements(path: Path, brackets: str, take: Callable[[_Scanner], T]) -> Iterator[T]:
    with _Scanner(path) as scan:
        scan.expect(brackets[0])
        over = scan.accept(brackets[1])
        while not over:
            scan.number += 1
            yield take(scan)
            over = scan.accept(brackets[1])
            if not over:
                scan.expect(",")
        scan.end()


class _Scanner:
    """Takes JSON off a file with the decoder of the standard library, which is what stock reads it with.

    Attributes:
        number: of the element that is being taken, or was taken last; from 0, which it is for errors before it too.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = JSONDecoder().raw_decode
        self._text, self._place, self.number = "", 0, -1

    def __enter__(self) -> _Scanner:
        self._file: IO[str] = open(self._path, encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def accept(self, sign: str) -> bool:
        self._skip_space()
        if self._text.startswith(sign, self._place):
            self._place += 1
            return True
        return False

    def expect(self, sign: str) -> None:
        if not self.accept(sign):
            self._fail(f"expected {sign!r}, found {self._text[self._place : self._place + 20]!r}")

    def entry(self) -> tuple[str, Any]:
        key = self.value()
        if not isinstance(key, str):
            self._fail(f"expected a key, found {key!r}")
        self.expect(":")
        return key, self.value()

    def end(self) -> None:
        self._skip_space()
        if self._place < len(self._text):
            self._fail(f"there is more after the end: {self._text[self._place : self._place + 20]!r}")

    def value(self) -> Any:
        self._skip_space()
        while True:
            try:
                value, end = self._decode(self._text, self._place)
            except JSONDecodeError as error:
                if len(self._text) - self._place > _LONGEST_RECORD or not self._more():
                    self._fail(error.msg)
            except RecursionError:
                self._fail("nested too deeply")
            else:
                if end < len(self._text) or not self._more():  # a number could go on
                    self._place = end
                    return value

    def _skip_space(self) -> None:
        while True:
            while self._place < len(self._text) and self._text[self._place] in " \t\r\n":
                self._place += 1
            if self._place < len(self._text) or not self._more():
                return

    def _more(self) -> bool:
        # As much again as there is, so that a long record is not looked at over and over.
        read = self._read(max(_CHUNK, len(self._text) - self._place))
        self._text, self._place = self._text[self._place :] + read, 0
        return bool(read)

    def _read(self, size: int) -> str:
        try:
            return self._file.read(size)
        except UnicodeDecodeError as error:
            self._fail(f"not UTF-8: {error.reason}")

    def _fail(self, what: str) -> NoReturn:
        raise ValueError(f"{self._path}: not JSON of the official form near element {max(self.number, 0)}: {what}")
