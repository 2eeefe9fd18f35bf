"""What shoppers are sent for: stock WebShop's goals, in stock's order, drawn once for every process.

Stock draws the price of each product with a price range, then each goal's price limit, and only then seeds its random
numbers to shuffle the goals; so no two runs of stock agree on the limits. Here the same draws are made in the same
order from a generator seeded first: the goals are those of a stock process that called ``random.seed(233)`` before it
loaded its products.

A million products make millions of goals, so a goal is made when it is asked for. What cannot be made on demand
(prices, limits, weights and the shuffled order) lies in the catalogue's folder as arrays, built once and mapped.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from opid_gym.console import talk
from opid_gym.data import build_once
from opid_gym_envs.webshop.catalogue import Catalogue
from opid_gym_envs.webshop.product import MalformedProductError, Product, text_field, text_list
from opid_gym_envs.webshop.store import mapped

SEED = 233
LIMITS = tuple(10.0 * i for i in range(1, 100))
"""The price limits a goal can have, in dollars."""
NO_LIMIT = 1_000_000.0

GOAL_SETS = ("synthetic", "human")
SPLITS = ("train", "eval", "test")
SPLIT_BY = ("goal", "product")
_FIFTHS = {"test": (0,), "eval": (1,), "train": (2, 3, 4)}  # of the products
MOST_GOALS = 10_000_000
"""Maximum number of goals of one product."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted; all but the instruction is hidden from the shopper.

    Attributes:
        asin: the product the goal was made from.
        category: its department, e.g. ``garden``.
        query: the search it was collected under.
        name: its title.
        product_category: its path of categories.
        instruction: what the shopper reads.
        attributes: what the product must have; at least one.
        price_upper: the most it may cost.
        options: what must be chosen: pairs (name, value) in a synthetic goal, values alone in a human one.
        weight: how often stock draws the goal, relative to others.
    """

    asin: str
    category: str
    query: str
    name: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    price_upper: float
    options: tuple[str | tuple[str, str], ...]
    weight: float = 1.0

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Goal:
        """The goal in a record of stock's shape (``server.goals[i]``).

        Raises:
            ValueError: a field is missing or of the wrong form; the message names it.
        """
        if not isinstance(record, Mapping):
            raise ValueError(f"a goal must be a mapping of stock's shape, got {type(record).__name__}: {record!r}")
        for name in _TEXT_FIELDS:
            if not isinstance(record.get(name), str):
                raise ValueError(f"goal[{name!r}] must be text, got {record.get(name)!r}")
        attributes: Any = record.get("attributes")
        options: Any = record.get("goal_options")
        if not _is_texts(attributes) or not attributes:
            raise ValueError(f"goal['attributes'] must be a list of at least one text, got {attributes!r}")
        pairs = isinstance(options, Mapping)
        if not _is_texts([*options, *options.values()] if pairs else options):
            raise ValueError(f"goal['goal_options'] must be {{name: value}} or a list of values, got {options!r}")
        numbers = {"weight": 1.0, **record}
        for name in ("price_upper", "weight"):
            if not _number(numbers.get(name)) > 0:
                raise ValueError(f"goal[{name!r}] must be a number above 0, got {numbers.get(name)!r}")
        return cls(
            asin=record["asin"],
            category=record["category"],
            query=record["query"],
            name=record["name"],
            product_category=record["product_category"],
            instruction=record["instruction_text"],
            attributes=tuple(attributes),
            price_upper=_number(numbers["price_upper"]),
            options=tuple(options.items() if pairs else options),
            weight=_number(numbers["weight"]),
        )


_TEXT_FIELDS = ("asin", "category", "query", "name", "product_category", "instruction_text")


def _is_texts(values: Any) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(v, str) for v in values)


def _number(value: Any) -> float:
    """A number, as it was given or as a float can hold it; nan if it is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


class Goals(Sequence[Goal]):
    """The goals of a catalogue, in stock's shuffled order: number i is what stock plays as session i.

    Args:
        catalogue: the products.
        goal_set: ``synthetic`` (made of attributes and options) or ``human`` (written by people; official files only).
        prices: asin -> price in dollars, instead of the prices drawn; the draws are made all the same. It may name
            products that are not here, but not only such.

    Raises:
        ValueError: there are no such goals, or `prices` is for other products.

    >>> goals = Goals(Catalogue.generated(count=20), "synthetic")
    >>> goals[0].instruction.startswith("Find me"), goals[0].price_upper > goals.price(goals[0].asin)
    (True, True)
    """

    def __init__(self, catalogue: Catalogue, goal_set: str, prices: Mapping[str, float] | None = None) -> None:
        if goal_set not in GOAL_SETS:
            raise ValueError(f"goals must be one of {GOAL_SETS}, got {goal_set!r}")
        self.catalogue = catalogue
        self.goal_set = goal_set
        self._given_prices = prices
        if goal_set == "human" and not self._human:
            raise ValueError(
                "goals='human' needs a data_dir with items_human_ins.json: this catalogue has no such goals"
            )
        name = f"goals-{goal_set}-{_VERSION}"
        if prices:
            if not any(asin in catalogue for asin in prices):
                raise ValueError(f"prices: not one of its products is in this shop, e.g. {next(iter(prices))!r}")
            name += "-" + hashlib.blake2b(json.dumps(sorted(prices.items())).encode(), digest_size=8).hexdigest()
        folder = build_once(catalogue.folder / name, lambda folder: self._build(folder, prices or {}))
        arrays = {name: mapped(folder / f"{name}.npy") for name in _ARRAYS}
        self._prices, self._order, self._ends = arrays["prices"], arrays["order"], arrays["ends"]
        self._product, self._entry = arrays["product"], arrays["entry"]
        self._limit, self._weight = arrays["limit"], arrays["weight"]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, here and in other processes, map the same files."""
        return type(self), (self.catalogue, self.goal_set, self._given_prices)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Goal: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Goal]: ...
    def __getitem__(self, index: int | slice) -> Goal | Sequence[Goal]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        source, way = self._source(index)
        product = self.catalogue.by_index(int(self._product[source]))
        limit = float(self._limit[source])
        limit_text = f", and price lower than {limit:.2f} dollars" if limit < NO_LIMIT else ""
        options: tuple[str | tuple[str, str], ...]
        if self.goal_set == "synthetic":
            options = pairs = _combination(product, way)
            wanted = ", and ".join(f"{name}: {value}" for name, value in pairs)
            instruction = f"{product.instruction}{' with ' if wanted else ''}{wanted}"
            attributes = product.instruction_attributes
        else:
            entry = self._human[product.asin][int(self._entry[source])]
            options, attributes = tuple(entry["instruction_options"]), tuple(entry["instruction_attributes"])
            instruction = entry["instruction"].strip(".")
        return Goal(
            asin=product.asin,
            category=product.category,
            query=product.query,
            name=product.title,
            product_category=product.product_category,
            instruction=instruction + limit_text,
            attributes=attributes,
            price_upper=limit,
            options=options,
            weight=float(self._weight[source]),
        )

    def asin(self, index: int) -> str:
        """The id of a goal's product, without making the goal."""
        return self.catalogue.asins[int(self._product[self._source(index)[0]])]

    def price(self, asin: str) -> float:
        """What a product costs.

        Raises:
            KeyError: there is no such product.
        """
        return float(self._prices[self.catalogue.number(asin)])

    def split(self, name: str, by: str = "goal") -> Sequence[int]:
        """The numbers of the goals of a split, in order.

        By goal, from 2,000 goals on, these are stock's: 0-499 test, 500-1499 eval, the rest train. With fewer goals,
        the first fifth is test and the second eval. Goals of one product differ in their options only and fall into
        different splits, so that nearly every product of the test goals is seen in training.

        By product, all goals of a product are in one split. In the order of their first goals, every fifth product is
        test, beginning with the first, the one after it eval, and the other three are train, so that a split has as
        many products as the catalogue allows and the goals of one are spread over all of it.

        Args:
            name: one of `SPLITS`.
            by: one of `SPLIT_BY`.

        Raises:
            ValueError: no such split, or too few goals to have it.
        """
        if name not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {name!r}")
        if by not in SPLIT_BY:
            raise ValueError(f"split_by must be one of {SPLIT_BY}, got {by!r}")
        count = len(self)
        test, evaluation = (500, 1500) if count >= 2000 else (count // 5, 2 * (count // 5))
        ends = {"test": (0, test), "eval": (test, evaluation), "train": (evaluation, count)}
        chosen = range(*ends[name]) if by == "goal" else self._of_products(_FIFTHS[name])
        if not len(chosen):
            raise ValueError(f"split {name!r} is empty: the catalogue has only {count} {self.goal_set} goals")
        return chosen

    def _of_products(self, fifths: Sequence[int]) -> Sequence[int]:
        """Numbers of the goals of products whose place, in the order of first goals, is one of `fifths` modulo 5."""
        sources = np.searchsorted(self._ends, self._order, side="right") - 1
        _, first, product = np.unique(self._product[sources], return_index=True, return_inverse=True)
        place = np.empty_like(first)
        place[np.argsort(first)] = np.arange(len(first))
        return array("q", np.flatnonzero(np.isin(place[product] % 5, fifths)).tolist())

    def _source(self, index: int) -> tuple[int, int]:
        """Which line of the arrays a goal comes from, and which of that line's combinations of options it is."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"goal {index} of {len(self)}")
        raw = int(self._order[index])
        source = int(np.searchsorted(self._ends, raw, side="right")) - 1
        return source, raw - int(self._ends[source])

    @cached_property
    def _human(self) -> Mapping[str, Sequence[Mapping[str, Any]]]:
        return self.catalogue.human_goals

    def _build(self, folder: Path, given_prices: Mapping[str, float]) -> None:
        rng = random.Random(SEED)
        prices, sources = array("d"), []
        for number, product in enumerate(_shown(self.catalogue, "Drawing prices")):
            price = product.pricing[0] if len(product.pricing) == 1 else rng.uniform(*product.pricing)
            prices.append(given_prices.get(product.asin, price))
            for entry, ways, attributes in self._wishes(product):
                sources.append((number, entry, ways, attributes))
        counts: Counter[str] = Counter()
        for _, _, ways, attributes in sources:
            for attribute in attributes:
                counts[attribute] += ways
        limits, weights, ends = array("d"), array("d"), array("q", [0])
        for number, _, ways, attributes in sources:
            above = [limit for limit in LIMITS if limit > prices[number]][:4]
            limits.append(max(rng.sample(above, 2)) if len(above) >= 2 else NO_LIMIT)
            synthetic = self.goal_set == "synthetic"
            weights.append(sum(1.0 / counts[a] for a in attributes) / len(attributes) if synthetic and ways else 1.0)
            ends.append(ends[-1] + ways)
        if not ends[-1]:
            raise ValueError(
                f"no product of the catalogue has {self.goal_set} goals"
                + ("" if self.goal_set == "human" else "; they come with an 'instruction' in items_ins_v2*.json")
            )
        order = array("q", range(ends[-1]))
        random.Random(SEED).shuffle(order)
        arrays: dict[str, NDArray[Any]] = {
            "prices": np.frombuffer(prices),
            "product": np.array([source[0] for source in sources], np.int32),
            "entry": np.array([source[1] for source in sources], np.int32),
            "limit": np.frombuffer(limits),
            "weight": np.frombuffer(weights),
            "ends": np.frombuffer(ends, np.int64),
            "order": np.frombuffer(order, np.int64),
        }
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", arrays[name])

    def _wishes(self, product: Product) -> Iterator[tuple[int, int, Sequence[str]]]:
        """What is asked of a product: (which instruction, in how many combinations of options, attributes)."""
        if self.goal_set == "human":
            for number, entry in enumerate(self._human.get(product.asin, ())):
                _check_human(product.asin, entry)
                if entry["instruction_attributes"]:
                    yield number, 1, entry["instruction_attributes"]
        elif product.instruction is not None:
            if not product.instruction_attributes:
                raise ValueError(f"product {product.asin!r} has an instruction without instruction_attributes")
            ways = 1
            for values in product.options.values():
                ways *= len(values)
            if ways > MOST_GOALS:
                raise ValueError(
                    f"product {product.asin!r} has {ways:,} combinations of options, each of which would be a goal; "
                    f"{MOST_GOALS:,} at most"
                )
            yield 0, ways, product.instruction_attributes


_ARRAYS = ("prices", "product", "entry", "limit", "weight", "ends", "order")


def _shown(catalogue: Catalogue, what: str) -> Iterator[Product]:
    hidden = len(catalogue) < 50_000 or not talk.is_terminal
    yield from track(catalogue, what, total=len(catalogue), console=talk, transient=True, disable=hidden)


def _combination(product: Product, way: int) -> tuple[tuple[str, str], ...]:
    """Combination number `way` of a product's options: names sorted, the last one's values running fastest."""
    chosen = []
    for name in sorted(product.options, reverse=True):
        way, place = divmod(way, len(product.options[name]))
        chosen.append((name, product.options[name][place]))
    return tuple(reversed(chosen))


def _check_human(asin: str, entry: Mapping[str, Any]) -> None:
    try:
        text_field("instruction", entry.get("instruction"))
        for name in ("instruction_attributes", "instruction_options"):
            text_list(name, entry.get(name))
    except MalformedProductError as error:
        raise ValueError(f"items_human_ins.json: an entry of {asin!r}: {error}") from None


def read_prices(prices: Mapping[str, float] | str | Path) -> dict[str, float]:
    """Prices given as a mapping, or as the path of a JSON file with one.

    Raises:
        TypeError: neither a mapping nor a path.
        ValueError: not JSON, not an object, or a price is not a number of 0 or more; the message names it.
        FileNotFoundError: there is no such file.
    """
    where = "prices"
    if isinstance(prices, (str, Path)):
        where = f"prices={str(prices)!r}"
        path = Path(prices).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"{where} is no file")
        try:
            prices = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON: {error}") from None
        if not isinstance(prices, dict):
            raise ValueError(f"{where} must hold a JSON object {{asin: price}}, got {type(prices).__name__}")
    elif not isinstance(prices, Mapping):
        raise TypeError(f"prices must be {{asin: price}} or the path of a JSON file with that, got {prices!r}")
    for asin, price in prices.items():
        if not isinstance(asin, str) or not 0 <= _number(price) < math.inf:
            raise ValueError(f"{where}: the price of {asin!r} must be a number of 0 or more, got {price!r}")
    return {asin: _number(price) for asin, price in prices.items()}
