"""A catalogue's folder: products, their ids and the search index, written once and read in place by every process.

A folder is complete or not there at all, see `opid_gym.data.build_once`.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from opid_gym.console import progress_bars
from opid_gym.data import build_once
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.search.bm25 import IndexWriter

FORMAT = 4
"""Raised whenever a folder's form changes: older folders are then left alone and new ones built."""

_FIELDS = tuple(field.name for field in fields(Product))
Build = Callable[[Path, Progress], None]


def built_folder(cache: Path, name: str, build: Build, *, progress: bool | None) -> Path:
    """The folder of this name, built if it is not there yet.

    Args:
        cache: where folders lie; made if missing.
        name: says everything the content depends on.
        build: writes the content into an empty folder.
        progress: show progress on stderr; None: if stderr is a terminal.
    """

    def fill(scratch: Path) -> None:
        with progress_bars(show=progress) as shown:
            build(scratch, shown)

    return build_once(cache / f"v{FORMAT}-{name}", fill)


def write_products(folder: Path, products: Iterable[Product], about: dict[str, Any], progress: Progress) -> None:
    """Write a catalogue's folder; `products` is read once, one product at a time.

    Args:
        about: what else to remember, given back by `Records.about`.
    """
    asins = bytearray()
    ends = array("q", [0])
    with (
        open(folder / "records.jsonl", "wb") as records,
        IndexWriter(_made(folder / "index"), _shown(progress, "Writing the search index")) as index,
    ):
        for product in products:
            line = json.dumps([getattr(product, name) for name in _FIELDS], ensure_ascii=False, separators=(",", ":"))
            ends.append(ends[-1] + records.write(line.encode("utf-8", "surrogatepass") + b"\n"))
            asins += product.asin.ljust(10, "\0").encode("utf-32-le", "surrogatepass")
            index.add(product.search_text)
    names = np.frombuffer(asins, dtype="<U10")
    np.save(folder / "asins.npy", names)
    np.save(folder / "asin_order.npy", np.argsort(names, kind="stable").astype(np.int32))
    np.save(folder / "ends.npy", np.frombuffer(ends, dtype=np.int64))
    (folder / "about.json").write_text(json.dumps(about))


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _shown(progress: Progress, what: str) -> Callable[[int, int], None]:
    bar = progress.add_task(what, total=None, visible=False)
    return lambda done, total: progress.update(bar, completed=done, total=total, visible=total > 1)


def mapped(path: Path) -> NDArray[Any]:
    """An array in a file, read as it is needed; without what `numpy.memmap` adds to every access to an element."""
    return np.asarray(np.load(path, mmap_mode="r"))


class Records:
    """The products of a folder, read one at a time.

    Attributes:
        about: what `write_products` was given.
        asins: the ids in order.
    """

    def __init__(self, folder: Path) -> None:
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text())
        self.asins = mapped(folder / "asins.npy")
        self._order = mapped(folder / "asin_order.npy")
        self._ends = mapped(folder / "ends.npy")
        self._path = folder / "records.jsonl"

    def find(self, asin: str) -> int | None:
        """The number of the product with this id."""
        if len(asin) > self.asins.dtype.itemsize // 4:
            return None
        # Twenty times as fast as numpy.searchsorted, which is slow with texts.
        place = bisect_left(self._order, asin, key=self.asins.__getitem__)
        if place == len(self._order):
            return None
        number = int(self._order[place])
        return number if self.asins[number] == asin else None

    def read(self, number: int) -> Product:
        """The product with this number."""
        start, end = int(self._ends[number]), int(self._ends[number + 1])
        # Opened anew each time: a shared position in an open file would be trouble between threads and after a fork,
        # and pages read through a mapping would count as this process's memory for as long as it runs.
        with open(self._path, "rb", buffering=0) as file:
            file.seek(start)
            return _product(file.read(end - start))

    def __iter__(self) -> Iterator[Product]:
        """All products in order."""
        with open(self._path, "rb") as file:
            yield from map(_product, file)


def _product(line: bytes) -> Product:
    values = dict(zip(_FIELDS, json.loads(line), strict=True))
    for name in ("bullet_points", "attributes", "instruction_attributes", "pricing"):
        values[name] = tuple(values[name])
    values["options"] = {name: tuple(choices) for name, choices in values["options"].items()}
    return Product(**values)
