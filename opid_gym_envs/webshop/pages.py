"""What stands on a page of the shop, and how stock WebShop puts it into text.

A `Page` holds content and no layout: the text environment prints it, the site lays it out. What text
mode prints depends on how stock's templates nest and on how its HTML parser treats white space; both are kept here, so
that observations are equal byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from itertools import chain
from typing import Literal

from opid_gym_envs.webshop.product import Product, once_per_product

SEARCH = "Search"
BACK_TO_SEARCH = "Back to Search"
PREVIOUS = "< Prev"
NEXT = "Next >"
BUY = "Buy Now"
DETAILS = ("Description", "Features", "Reviews", "Attributes")
"""The sub-pages of a product. Stock links the last from nowhere; an option that happens to be called so opens it."""

RATING = "N.A."
SEPARATOR = " [SEP] "
_KEPT_TEXTS = 4096
_ASCII_SPACE = " \n\t\f\r"


class PageKind(StrEnum):
    """Which of the shop's pages."""

    SEARCH = "search"
    RESULTS = "results"
    ITEM = "item"
    DETAIL = "detail"
    DONE = "done"


@dataclass(slots=True)  # not frozen: that would take three times as long to make, and one is made every step
class Page:
    """The content of one page.

    Attributes:
        kind: which page.
        instruction: what the shopper is to buy; on every page but the last.
        query: the search that led here, lower-cased.
        number: which page of its results, from 1.
        total: how many products the search found.
        products: those listed on a page of results; on the item's pages the one product.
        chosen: option name -> value chosen, in the order of choosing.
        visited: ids of the products opened since the search page.
        detail: which of `DETAILS`.
        reward: what the purchase was worth; on the last page.
    """

    kind: PageKind
    instruction: str
    query: str = ""
    number: int = 1
    total: int = 0
    products: tuple[Product, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    visited: Collection[str] = ()
    detail: str = ""
    reward: float = 0.0

    @property
    def product(self) -> Product:
        """The product of an item's page."""
        return self.products[0]

    @property
    def buttons(self) -> tuple[str, ...]:
        """What its buttons say, in the order of the page."""
        if self.kind is PageKind.RESULTS and self.number > 1:
            return _LATER_RESULTS_BUTTONS
        return _BUTTONS[self.kind]

    @property
    def clickables(self) -> tuple[str, ...]:
        """Everything that can be named in ``click[...]``, lower-cased, in stock's order and each text once.

        Stock lists the button of the search bar too, though clicking it does nothing there.
        """
        buttons = _LOWERED[self.buttons]
        if self.kind is PageKind.RESULTS:
            return buttons + tuple([product.asin.lower() for product in self.products])
        if self.kind is PageKind.ITEM:
            return _item_clickables(self.product)
        return buttons


_BUTTONS = {
    PageKind.SEARCH: (SEARCH,),
    PageKind.RESULTS: (BACK_TO_SEARCH, NEXT),
    PageKind.ITEM: (BACK_TO_SEARCH, PREVIOUS, *DETAILS[:3], BUY),
    PageKind.DETAIL: (BACK_TO_SEARCH, PREVIOUS),
    PageKind.DONE: (),
}
_LATER_RESULTS_BUTTONS = (BACK_TO_SEARCH, PREVIOUS, NEXT)
_LOWERED = {texts: tuple(text.lower() for text in texts) for texts in (*_BUTTONS.values(), _LATER_RESULTS_BUTTONS)}


@once_per_product
def _item_clickables(product: Product) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain(_LOWERED[_BUTTONS[PageKind.ITEM]], *product.options.values())))


# --------------------------------------------------------------------------------------------- stock's text modes

Piece = tuple[Literal["text", "button", "link", "option"], str]
"""A visible text, and what it is."""


def as_text(page: Page) -> str:
    """The page as stock's observation mode ``text`` prints it: everything visible, one separator between pieces."""
    if page.kind is PageKind.ITEM:
        head = _joined("Instruction:", page.instruction, BACK_TO_SEARCH, PREVIOUS)
        return f"{head}{SEPARATOR}{_item_text(page.product)}"
    if page.kind is PageKind.RESULTS:
        head = join_texts([text for _, text in _results_head(page)])
        return SEPARATOR.join([head, *map(_listing_text, page.products)])
    return join_texts([text for _, text in _CONTENT[page.kind](page)])


@lru_cache(maxsize=_KEPT_TEXTS)
def _joined(*texts: str) -> str:
    return join_texts(texts)


@once_per_product
def _listing_text(product: Product) -> str:
    return join_texts((product.asin, product.title, product.price_tag))


@once_per_product
def _item_text(product: Product) -> str:
    return join_texts([text for _, text in _item_pieces(product)])


def join_texts(texts: Iterable[str]) -> str:
    """What mode ``text`` makes of the visible texts of a page, in their order."""
    texts = list(texts)
    stripped = [text.strip() for text in texts]
    return SEPARATOR.join(stripped if all(stripped) else [shown.strip() for text in texts if (shown := _shown(text))])


def as_rich_text(page: Page) -> str:
    """The page as stock's observation mode ``text_rich`` prints it: one piece a line, buttons and choices marked."""
    # Stock looks for a quoted value anywhere in the address, so a quoted word of the query marks an option as well.
    address = f"{page.query.replace(' ', '+')}/{json.dumps(page.chosen)}"
    clicked, lines = "", []
    for role, text in _visible(_CONTENT[page.kind](page)):
        if role == "button":
            lines.append(f"[button] {text} [button_]\n")
        elif role == "option" and f'"{text}"' in address:
            lines.append(f"  [clicked button] {text} [clicked button_]\n")
            clicked = f"You have clicked {text}.\n{clicked}"
        elif role == "option":
            lines.append(f"  [button] {text} [button_]\n")
        elif role == "link":
            mark = "clicked button" if text in page.visited else "button"
            lines.append(f"\n[{mark}] {text} [{mark}_]\n")
        else:
            lines.append(f"{text}\n")
    return clicked + "".join(lines)


def as_short_text(page: Page) -> str:
    r"""The page in few words, one piece a line: the instruction on the search page only, products by their place.

    >>> as_short_text(Page(PageKind.RESULTS, "buy a mug", products=()))
    'Back to Search\nPage 1 (Total results: 0)\nNext >'
    """
    if page.kind is PageKind.SEARCH:
        return "\n".join((page.instruction, SEARCH))
    pieces = [text for _, text in _visible(_CONTENT[page.kind](page))]
    if page.kind is PageKind.DONE:
        return "\n".join(pieces)
    texts = pieces[2:]  # the instruction and its heading
    if page.kind is PageKind.RESULTS:
        texts = texts[: len(texts) - 3 * len(page.products)]
        for code, product in zip(short_codes(page), page.products, strict=True):
            texts += (code, product.title, product.price_tag)
    return "\n".join(texts)


def short_codes(page: Page) -> list[str]:
    """What the products of a page of results are called in `as_short_text`."""
    return [f"item {place}" for place in range(1, len(page.products) + 1)]


def _visible(pieces: list[Piece]) -> list[Piece]:
    return [(role, shown) for role, text in pieces if (shown := _shown(text))]


def _shown(text: str) -> str:
    """What stock's parser and converter leave of a text: of mere white space, lines vanish and blanks become one."""
    if not text.isspace() or text.strip(_ASCII_SPACE):
        return text  # not space, or another kind of it
    return " " if text and "\n" not in text else ""


# The pieces of text in stock's HTML, in its order.


def _head(page: Page) -> list[Piece]:
    return [("text", "Instruction:"), ("text", page.instruction), ("button", BACK_TO_SEARCH)]


def _search(page: Page) -> list[Piece]:
    return [("text", "WebShop"), ("text", "Instruction: "), ("text", page.instruction), ("button", SEARCH)]


def _results(page: Page) -> list[Piece]:
    pieces = _results_head(page)
    for product in page.products:
        pieces += (("link", product.asin), ("text", product.title), ("text", product.price_tag))
    return pieces


def _results_head(page: Page) -> list[Piece]:
    title = f"Page {page.number} (Total results: {page.total})"
    return [*_head(page), ("text", title), *(("button", button) for button in page.buttons[1:])]


def _item(page: Page) -> list[Piece]:
    return [*_head(page), ("button", PREVIOUS), *_item_pieces(page.product)]


def _item_pieces(product: Product) -> list[Piece]:
    pieces: list[Piece] = []
    for name, values in product.options.items():
        pieces.append(("text", name))
        pieces += [("option", value) for value in values]
    pieces += (
        ("text", product.title),
        ("text", f"Price: {product.price_tag}"),
        ("text", f"Rating: {RATING}"),
    )
    pieces += [("button", button) for button in _BUTTONS[PageKind.ITEM][2:]]
    return pieces


def _detail(page: Page) -> list[Piece]:
    product = page.product
    lines: tuple[str, ...] = ()  # there are no reviews: neither stock nor the official files have any
    if page.detail == "Description":
        lines = (product.description,)
    elif page.detail == "Features":
        lines = tuple(f" {line}" for line in product.bullet_points)
    elif page.detail == "Attributes":
        known = (f" {attribute}" for attribute in product.attributes)
        lines = (*known, product.category, product.query, product.product_category)
    return [*_head(page), ("button", PREVIOUS), *(("text", line) for line in lines)]


def _done(page: Page) -> list[Piece]:
    # Text mode prints what stock's last page hides from the eye, but stock never fills that in.
    chosen = json.dumps(dict(page.chosen), sort_keys=True)
    for sign in "<>&'":
        chosen = chosen.replace(sign, f"\\u{ord(sign):04x}")
    texts = (
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", page.product.asin, "options", chosen, "attrs", "None", "category", "None"),
        *("query", "None", "product category", "None", "Target", "asin", "options", "attrs", "price upper"),
        *("instuction text", "category", "product category", "query", "Goal ", "None", "Reward"),
        *("Your score (min 0.0, max 1.0)", str(page.reward), "Reward Details ", "None"),
    )
    return [("text", text) for text in texts]


_CONTENT = {
    PageKind.SEARCH: _search,
    PageKind.RESULTS: _results,
    PageKind.ITEM: _item,
    PageKind.DETAIL: _detail,
    PageKind.DONE: _done,
}
