"""The official files, read one record at a time: the largest is far larger than what it holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opid_gym_envs.json_stream import JSONStream
from opid_gym_envs.webshop.product import MalformedProductError, Product, is_listed, read_product

_FORM = "JSON of the official form"
_HASHED_WHOLE = 1 << 26  # bytes

CATALOGUES = {
    "full": ("items_shuffle.json", "items_ins_v2.json"),
    "small": ("items_shuffle_1000.json", "items_ins_v2_1000.json"),
}
"""Catalogues that stock publishes: their files of products and of attributes."""

_NEEDED = (
    "WebShop's data are items_shuffle.json, items_ins_v2.json and items_human_ins.json, or items_shuffle_1000.json, "
    "items_ins_v2_1000.json and items_human_ins.json"
)


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
    def of(cls, data_dir: str | Path, catalogue: str | None = None) -> OfficialFiles:
        """The files of one catalogue in a folder.

        Args:
            data_dir: the folder.
            catalogue: ``full`` (``items_shuffle.json`` with ``items_ins_v2.json``), ``small`` (the same with
                ``_1000``), or two files of the folder as ``ITEMS.json+ATTRIBUTES.json``, which may be of different
                catalogues. None: the only one that is there.

        Raises:
            FileNotFoundError: the folder, or a file of the catalogue, is not there; the message names what is.
            ValueError: there are several catalogues, or files of different ones, and none is chosen.
        """
        folder = Path(data_dir).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir={str(data_dir)!r} is not a folder")
        items, attributes = CATALOGUES.get(catalogue or "", (catalogue or "").partition("+")[::2])
        if catalogue is None:
            items, attributes = _only(folder)
        elif not (items and attributes):
            raise ValueError(
                f"catalogue must be one of {tuple(CATALOGUES)} or ITEMS.json+ATTRIBUTES.json, got {catalogue!r}"
            )
        for name in (items, attributes):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"no {name} in {folder} (there: {_there(folder)}); {_NEEDED}")
        human = folder / "items_human_ins.json"
        return cls(folder / items, folder / attributes, human if human.is_file() else None)

    @property
    def name(self) -> str:
        """The catalogue, as `of` takes it."""
        pair = self.items.name, self.attributes.name
        return next((name for name, files in CATALOGUES.items() if files == pair), "+".join(pair))

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


def _only(folder: Path) -> tuple[str, str]:
    """The items and attributes of the only catalogue in a folder."""
    items = sorted(path.name for path in folder.glob("items_shuffle*.json"))
    attributes = sorted(path.name for path in folder.glob("items_ins_v2*.json"))
    if not items or not attributes:
        missing = "items_ins_v2*.json" if items else "items_shuffle*.json"
        raise FileNotFoundError(f"no {missing} in {folder} (there: {_there(folder)}); {_NEEDED}")
    pairs = [(name, name.replace("items_shuffle", "items_ins_v2")) for name in items]
    whole = [pair for pair in pairs if pair[1] in attributes]
    if len(whole) == len(items) == 1:
        return whole[0]
    names = [next((name for name, files in CATALOGUES.items() if files == pair), "+".join(pair)) for pair in whole]
    choices = names or [f"{one}+{other}" for one in items for other in attributes]
    raise ValueError(
        f"{folder} has {', '.join((*items, *attributes))}, more than one catalogue or parts of several: choose with "
        f"catalogue={' or catalogue='.join(map(repr, choices))}"
    )


def _there(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"


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
    with open(path, encoding="utf-8") as file:
        yield from JSONStream(file, str(path), _FORM).array()


def iterate_object(path: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a JSON object, read bit by bit.

    Raises:
        ValueError: not a JSON object; the message names the file and the entry.
    """
    with open(path, encoding="utf-8") as file:
        yield from JSONStream(file, str(path), _FORM).object()
