"""Places as addresses, and back.

What the shopper chose stands in the query string, never in the path, so that a search for "1/2 inch" is an address
like any other.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Protocol
from urllib.parse import urlencode

from opid_gym_envs.webshop.pages import DETAILS, PageKind
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.session import Place

_OPTION = "option."
_DETAILS = {name.lower(): name for name in DETAILS}


class UnknownPlace(ValueError):
    """An address that leads nowhere; the message says why, for people."""


class Products(Container[object], Protocol):
    """What is needed of a catalogue."""

    def product(self, asin: str) -> Product:
        """The product with this id."""


def address(place: Place) -> str:
    """The address of a place, below that of its visit.

    >>> address(Place(PageKind.RESULTS, "1/2 inch", number=2))
    '/results?q=1%2F2+inch&page=2'
    >>> address(Place(PageKind.DETAIL, "mug", asin="B01", chosen={"color": "red"}, detail="Features"))
    '/item/features?q=mug&asin=B01&option.color=red'
    """
    fields: list[tuple[str, str]] = []
    if place.query is not None:
        fields.append(("q", place.query))
    if place.number > 1:
        fields.append(("page", str(place.number)))
    if place.asin is not None:
        fields.append(("asin", place.asin))
    fields += [(_OPTION + name, value) for name, value in place.chosen.items()]
    path = {
        PageKind.SEARCH: "",
        PageKind.RESULTS: "/results",
        PageKind.ITEM: "/item",
        PageKind.DETAIL: f"/item/{place.detail.lower()}",
        PageKind.DONE: "/done",
    }[place.kind]
    # Half a character, which a model's bytes can produce, has no form in an address.
    return f"{path}?{urlencode(fields, errors='replace')}" if fields else path


def read_results(fields: Mapping[str, str]) -> Place:
    """The page of results with these fields in its address.

    Raises:
        UnknownPlace: the page has no sensible number.
    """
    return Place(PageKind.RESULTS, fields.get("q", "").lower(), _number(fields))


def read_item(fields: Iterable[tuple[str, str]], products: Products, detail: str | None = None) -> Place:
    """The page of a product, or its sub-page `detail`, with these fields in its address.

    Raises:
        UnknownPlace: there is no such product, sub-page, option or value.
    """
    fields = list(fields)
    single = dict(fields)
    asin = single.get("asin", "")
    if asin not in products:
        raise UnknownPlace(f"There is no product {asin!r} in this shop.")
    if detail is not None and detail not in _DETAILS:
        raise UnknownPlace(f"A product has no page {detail!r}; it has {', '.join(_DETAILS)}.")
    options = products.product(asin).options
    chosen = {name.removeprefix(_OPTION): value for name, value in fields if name.startswith(_OPTION)}
    for name, value in chosen.items():
        if value not in options.get(name, ()):
            raise UnknownPlace(f"Product {asin} has no option {name!r} with the value {value!r}.")
    return Place(
        PageKind.ITEM if detail is None else PageKind.DETAIL,
        single.get("q", "").lower(),
        _number(single),
        asin,
        chosen,
        "" if detail is None else _DETAILS[detail],
    )


def _number(fields: Mapping[str, str]) -> int:
    text = fields.get("page", "1")
    if not (text.isascii() and text.isdecimal() and len(text) <= 6 and int(text) >= 1):
        raise UnknownPlace(f"Pages of results are numbered from 1; there is no page {text!r}.")
    return int(text)
