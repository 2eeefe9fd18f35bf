"""The shop's products and the search over them, from the official files or made up from a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from rich.progress import Progress

from opid_gym.data import cache_home
from opid_gym_envs.webshop import generator, nouns
from opid_gym_envs.webshop.official import OfficialFiles, Skipped, read_human, read_products
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.search.bm25 import Index
from opid_gym_envs.webshop.store import Records, built_folder, write_products

_KEPT_PRODUCTS = 4096
_KEPT_SEARCHES = 1024
_TAGGED_WHEN_BUILT = 20_000  # titles; 20 seconds


class Catalogue:
    """Products in a fixed order, found by id, by number or by search.

    A catalogue is built once, into a folder that every process reads in place, so that opening it again takes
    milliseconds and little memory, however many products there are. Use `load` or `generated` to get one.

    >>> shop = Catalogue.generated(count=20)
    >>> len(shop)
    20
    >>> product = shop.by_index(3)
    >>> product == shop.product(product.asin)
    True
    >>> product.asin in shop.search(product.title)
    True

    Args:
        folder: a folder written by this package.
        files: the official files it was made of; None: it was generated.

    Attributes:
        folder: that folder.
        files: those files.
        by_index: the product with a number, from 0 to ``len(catalogue) - 1``; others raise IndexError.
        skipped: how many records of the official files were passed over, as stock does: ``unlisted`` (id 'nan' or
            longer than ten characters) and ``repeated``.
    """

    def __init__(self, folder: Path, files: OfficialFiles | None = None) -> None:
        self.folder = folder
        self.files = files
        self._records = Records(folder)
        self._index = Index(folder / "index", keys=self._records.asins)
        self.skipped: Mapping[str, int] = self._records.about.get("skipped", {})
        self.by_index = lru_cache(maxsize=_KEPT_PRODUCTS)(self._by_index)
        self._named = lru_cache(maxsize=_KEPT_PRODUCTS)(lambda asin: self.by_index(self.number(asin)))
        self._search = lru_cache(maxsize=_KEPT_SEARCHES)(self._ranked_asins)
        self._tag = lru_cache(maxsize=_KEPT_PRODUCTS)(self._tag_title)

    @classmethod
    def load(
        cls,
        data_dir: str | Path,
        catalogue: str | None = None,
        *,
        cache_dir: str | Path | None = None,
        progress: bool | None = None,
    ) -> Catalogue:
        """A catalogue of a folder with the official files.

        Args:
            data_dir: holds ``items_shuffle*.json``, ``items_ins_v2*.json`` and ``items_human_ins.json`` (the last is
                needed for human goals only).
            catalogue: which one; see `OfficialFiles.of`.
            cache_dir: where the built catalogue is kept; by default below `opid_gym.data.cache_home`.
            progress: show the building's progress on stderr; by default if stderr is a terminal.

        Raises:
            FileNotFoundError: the folder or a file is missing; the message names them.
            ValueError: a file is broken or a product malformed, and the message names the file and the record; or there
                are several catalogues and none is chosen.
        """
        files = OfficialFiles.of(data_dir, catalogue)

        def build(folder: Path, shown: Progress) -> None:
            skipped = Skipped()
            products = shown.track(read_products(files, skipped), description=f"Reading {files.items.name}", total=None)
            about: dict[str, Any] = {"data_dir": str(Path(data_dir).resolve())}
            write_products(folder, products, about, shown)
            if not len(Records(folder).asins):
                passed_over = f", of {skipped.unlisted} records none that is listed" if skipped.unlisted else ""
                raise ValueError(f"{files.items}: no products in it{passed_over}")
            about["skipped"] = asdict(skipped)
            (folder / "about.json").write_text(json.dumps(about))
            if files.human is not None:
                (folder / "human.json").write_text(json.dumps(read_human(files.human)))
            _tag_titles(folder, shown)

        return cls(built_folder(_cache(cache_dir), f"official-{files.fingerprint}", build, progress=progress), files)

    @classmethod
    def generated(
        cls, count: int = 1000, seed: int = 0, *, cache_dir: str | Path | None = None, progress: bool | None = None
    ) -> Catalogue:
        """A made-up catalogue: the same for the same arguments, everywhere. A larger one begins with the smaller one.

        Args:
            count: how many products.
            seed: which catalogue.
            cache_dir: where the built catalogue is kept; by default below `opid_gym.data.cache_home`.
            progress: show the building's progress on stderr; by default if stderr is a terminal.

        Raises:
            ValueError: `count` is not an integer of 1 or more.
        """
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count must be 1 or more, got {count!r}")

        def build(folder: Path, shown: Progress) -> None:
            products: Iterable[Product] = generator.generate(count, seed)
            write_products(folder, shown.track(products, total=count, description="Making products"), {}, shown)
            if seed == 0:
                _keep_nouns(folder, nouns.tagged_beforehand(product.title for product in Records(folder)))

        name = f"generated-{generator.VERSION}-{count}-{seed}"
        return cls(built_folder(_cache(cache_dir), name, build, progress=progress))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, here and in other processes, open the same folder."""
        return type(self), (self.folder, self.files)

    def __len__(self) -> int:
        return len(self._records.asins)

    def __contains__(self, asin: object) -> bool:
        return isinstance(asin, str) and self._records.find(asin) is not None

    def __iter__(self) -> Iterator[Product]:
        """The products in order, read from start to end; much faster than one by one."""
        return iter(self._records)

    @property
    def asins(self) -> Sequence[str]:
        """The ids in order; a view that keeps nothing in memory."""
        return _Asins(self._records.asins)

    def product(self, asin: str) -> Product:
        """The product with this id.

        Raises:
            KeyError: there is none; the message names the id.
        """
        return self._named(asin)

    def number(self, asin: str) -> int:
        """The place of a product in the catalogue's order, from 0.

        Raises:
            KeyError: there is none; the message names the id.
        """
        number = self._records.find(asin)
        if number is None:
            raise KeyError(f"no product {asin!r} among the {len(self)} of this catalogue")
        return number

    def search(self, query: str, k: int = 50) -> list[str]:
        """Ids of the `k` products that match best, best first, exactly as Lucene's BM25 ranks them in stock WebShop.

        Args:
            query: any text; no text, or none that means anything, finds nothing.
            k: maximum number of products.
        """
        return list(self._search(query, k))

    @property
    def human_goals(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        """Asin -> what ``items_human_ins.json`` says of it; empty where there is no such file."""
        path = self.folder / "human.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def title_nouns(self, asin: str) -> tuple[str, ...] | None:
        """The nouns of a product's title: its tokens that spaCy tags NOUN or PROPN, lower-cased, repetitions kept.

        Stock divides by their number, so that a repeated noun counts twice there.

        Returns:
            The nouns, or None if they are not known because spaCy and its model are not installed.

        Raises:
            KeyError: there is no such product.
        """
        number = self.number(asin)
        if number < len(self._tagged):
            return tuple(json.loads(self._tagged[number]))
        return self._tag(number)

    @cached_property
    def _tagged(self) -> list[str]:
        path = self.folder / "nouns.jsonl"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def _tag_title(self, number: int) -> tuple[str, ...] | None:
        try:
            return next(nouns.tag([self.by_index(number).title]))
        except ImportError:
            return None

    def close(self) -> None:
        """Forget what is cached; files are mapped and need no closing."""
        self.by_index.cache_clear()
        self._named.cache_clear()
        self._search.cache_clear()
        self._tag.cache_clear()

    def _by_index(self, number: int) -> Product:
        """The product with this number, from 0.

        Raises:
            IndexError: there is none.
        """
        if not -len(self) <= number < len(self):
            raise IndexError(f"product {number} of a catalogue of {len(self)}")
        return self._records.read(number % len(self))

    def _ranked_asins(self, query: str, k: int) -> tuple[str, ...]:
        return tuple(self._records.asins[self._index.search(query, k)].tolist())


class _Asins(Sequence[str]):
    def __init__(self, names: npt.NDArray[np.str_]) -> None:
        self._names = names

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return _Asins(self._names[index]) if isinstance(index, slice) else str(self._names[index])

    def __iter__(self) -> Iterator[str]:
        return (str(name) for name in self._names)


def _tag_titles(folder: Path, shown: Progress) -> None:
    """Keep the nouns of every title, if spaCy is installed and there are few enough to be quick."""
    records = Records(folder)
    count = len(records.asins)
    if count > _TAGGED_WHEN_BUILT:
        return
    try:
        tagged = nouns.tag(product.title for product in records)
    except ImportError:
        return
    _keep_nouns(folder, shown.track(tagged, total=count, description="Tagging titles"))


def _keep_nouns(folder: Path, tagged: Iterable[nouns.Nouns]) -> None:
    (folder / "nouns.jsonl").write_text("\n".join(map(json.dumps, tagged)), encoding="utf-8")


def _cache(cache_dir: str | Path | None) -> Path:
    named = cache_home() / "webshop" if cache_dir is None else Path(cache_dir)
    return named.expanduser()
