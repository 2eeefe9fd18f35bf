"""One product, and how a record of the official files becomes one.

The rules are those of stock WebShop's ``load_products``: what it shows, searches and rewards depends on every
one of them, so they are kept to the letter. Where stock would stop with a traceback, `read_product` raises
`MalformedProductError`, which names the field.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Any, TypeVar

DEFAULT_PRICE = 100.0
"""The price of a product that has none."""

NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""The attributes of a product that the attribute file says nothing about."""

LONGEST_ASIN = 10

T = TypeVar("T")


class MalformedProductError(ValueError):
    """A record that stock could not load either; the message names the field and what was found there."""


@dataclass(frozen=True)
class Product:
    """What the shop knows of a product.

    Attributes:
        asin: the id, at most ten characters.
        title: the name shown in results and on the item page.
        description: text of the Description page.
        bullet_points: lines of the Features page.
        category: the broad department, e.g. ``garden``.
        product_category: path of categories, ``Home & Kitchen › Furniture › ...``.
        query: the search under which the product was collected, lower-cased; equal queries count as equal types.
        attributes: what an instruction may ask for; ``("DUMMY_ATTR",)`` if nothing is known.
        instruction: the synthetic goal's text without options and price; None if there is no such goal.
        instruction_attributes: which attributes the instruction asks for.
        options: option name -> values to choose from, both lower-cased, in the order of the item page.
        pricing: one price, or lowest and highest.
        price_tag: the price as displayed, e.g. ``$9.99 to $11.99``.
        image: address of the main image, or "".
    """

    asin: str
    title: str
    description: str
    bullet_points: tuple[str, ...]
    category: str
    product_category: str
    query: str
    attributes: tuple[str, ...]
    instruction: str | None
    instruction_attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    pricing: tuple[float, ...]
    price_tag: str
    image: str = ""

    def __hash__(self) -> int:
        return hash(self.asin)

    @property
    def search_text(self) -> str:
        """What search finds the product by: title, description, first bullet point and options, lower-cased."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        first = self.bullet_points[0] if self.bullet_points else ""
        return " ".join((self.title, self.description, first, options)).lower()


def once_per_product(derive: Callable[[Product], T]) -> Callable[[Product], T]:
    """Keep what a function derives from a product with that product, for as long as the product itself is kept."""
    name = f"_{derive.__name__}"

    def kept(product: Product) -> T:
        known = vars(product)
        if name not in known:
            known[name] = derive(product)
        value: T = known[name]
        return value

    return wraps(derive)(kept)


def is_listed(asin: Any) -> bool:
    """Whether stock sells a record with this id at all: it passes over 'nan' and ids of more than ten characters.

    Raises:
        MalformedProductError: the id is not text.
    """
    return text_field("asin", asin) != "nan" and len(asin) <= LONGEST_ASIN


def read_product(record: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> Product:
    """A record of ``items_shuffle*.json``, with its entry of ``items_ins_v2*.json`` if it has one.

    Raises:
        MalformedProductError: a field is missing or has a form that cannot be read.
    """
    missing = [name for name in _REQUIRED if name not in record]
    if missing:
        raise MalformedProductError(f"no field {', '.join(map(repr, missing))}")
    bullets = record["small_description"]
    known = attributes or {}
    pricing, price_tag = read_price(record.get("pricing"))
    images = record.get("images")
    return Product(
        asin=text_field("asin", record["asin"]),
        title=text_field("name", record["name"]),
        description=text_field("full_description", record["full_description"]),
        bullet_points=text_list("small_description", bullets if isinstance(bullets, list) else [bullets]),
        category=text_field("category", record["category"]),
        product_category=text_field("product_category", record["product_category"]),
        query=text_field("query", record["query"]).lower().strip(),
        attributes=text_list("attributes", known["attributes"]) if "attributes" in known else NO_ATTRIBUTES,
        instruction=None if known.get("instruction") is None else text_field("instruction", known["instruction"]),
        instruction_attributes=text_list("instruction_attributes", known.get("instruction_attributes") or []),
        options=read_options(record["customization_options"]),
        pricing=pricing,
        price_tag=price_tag,
        image=images[0] if isinstance(images, list) and images and isinstance(images[0], str) else "",
    )


_REQUIRED = (
    "asin",
    "name",
    "full_description",
    "small_description",
    "category",
    "product_category",
    "query",
    "customization_options",
)


def read_price(pricing: Any) -> tuple[tuple[float, ...], str]:
    """Prices and the tag that shows them.

    >>> read_price("$9.99 - $11.50")
    ((9.99, 11.5), '$9.99 to $11.5')
    >>> read_price("")
    ((100.0,), '$100.0')

    Raises:
        MalformedProductError: there is text but no amount after a ``$`` in it, e.g. "call us".
    """
    if not pricing:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    amounts = []
    with suppress(InvalidOperation):
        parts = text_field("pricing", pricing).split("$")[1:]
        amounts = [float(Decimal(re.sub(r"[^\d.]", "", part))) for part in parts]
    if not amounts:
        raise MalformedProductError(
            f"pricing {_short(pricing)} names no amount; '$12.50', '$9.99 - $19.99' and '' are understood"
        )
    if len(amounts) == 1:
        return (amounts[0],), f"${amounts[0]}"
    return (amounts[0], amounts[1]), f"${amounts[0]} to ${amounts[1]}"


def read_options(customization: Any) -> dict[str, tuple[str, ...]]:
    """Option names and values, cleaned: a slash would be taken for the end of a value in an address.

    >>> read_options({"Size": [{"value": " 5W/30L "}], "Color": None})
    {'size': ('5w | 30l',)}

    Raises:
        MalformedProductError: not the official form, ``{name: [{"value": text}, ...] or null}``.
    """
    if not customization:
        return {}
    try:
        return {
            name.lower(): tuple(choice["value"].strip().replace("/", " | ").lower() for choice in choices)
            for name, choices in customization.items()
            if choices is not None
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise MalformedProductError(
            f"customization_options {_short(customization)} are not {{name: [{{'value': text}}, ...]}}"
        ) from error


def text_field(name: str, value: Any) -> str:
    """The value of a field that must be text.

    Raises:
        MalformedProductError: it is not.
    """
    if not isinstance(value, str):
        raise MalformedProductError(f"{name} must be text, got {_short(value)}")
    return value


def text_list(name: str, values: Any) -> tuple[str, ...]:
    """The value of a field that must be a list of texts.

    Raises:
        MalformedProductError: it is not.
    """
    if not isinstance(values, list):
        raise MalformedProductError(f"{name} must be a list of texts, got {_short(values)}")
    return tuple(text_field(name, value) for value in values)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
