"""One shopper's visit: which page is open, and what an action does. No goal, no reward rule, no layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from opid_gym_envs.webshop.pages import BACK_TO_SEARCH, BUY, DETAILS, NEXT, PREVIOUS, SEARCH, Page, PageKind
from opid_gym_envs.webshop.product import Product

RESULTS_FOUND = 50
RESULTS_SHOWN = 10

_DETAILS = {name.lower(): name for name in DETAILS}
_BACK_TO_SEARCH, _PREVIOUS, _NEXT, _BUY, _SEARCH = (
    text.lower() for text in (BACK_TO_SEARCH, PREVIOUS, NEXT, BUY, SEARCH)
)

SEARCH_ACTION = "search[<your query>]"
"""Stands in the admissible actions where there is a search bar; any words may take the place of those in brackets."""

NEVER_OPTIONS = frozenset({_SEARCH, _BACK_TO_SEARCH, _PREVIOUS, _BUY, *_DETAILS})
"""Texts that do something else when clicked, though an option's value may read so."""


def offers(admissible: Collection[str], action: str) -> bool:
    """Whether admissible actions offer an action: it is one of them, or a search where there is a search bar.

    >>> offers(["search[<your query>]"], "search[red mugs]"), offers(["click[buy now]"], "search[red mugs]")
    (True, False)
    """
    return action in admissible or (action.startswith("search[") and SEARCH_ACTION in admissible)


class Shelves(Protocol):
    """What a visit needs of a catalogue."""

    def search(self, query: str, k: int) -> Sequence[str]:
        """The ids of the `k` products that fit a query best, best first."""

    def product(self, asin: str) -> Product:
        """The product with this id."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a visit stands: with the catalogue and the instruction, all that its page depends on.

    Attributes:
        kind: the page that is open.
        query: the latest search, lower-cased; None before the first.
        number: which page of its results, from 1.
        asin: the product that is open or bought; None where there is none.
        chosen: option name -> value, in the order of choosing.
        detail: which of the product's sub-pages is open.
    """

    kind: PageKind = PageKind.SEARCH
    query: str | None = None
    number: int = 1
    asin: str | None = None
    chosen: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""


class Session:
    """A visit, from the search page to the purchase.

    It follows stock to the letter, oddities included: any text in ``search[...]`` works on any page; what is clicked is
    told by its text alone, so an option called "description" opens the description; everything else changes
    nothing. Two things of stock are left out: its four search commands for developers (``<r>``, ``<a>``, ``<c>``,
    ``<q>``) are ordinary words here.

    Args:
        catalogue: what is sold.
        instruction: what the shopper is to buy, shown on every page.
        appraise: called once, with the product and the options bought; gives what the last page shows as the score.

    Attributes:
        kind: the page that is open.
        query: the latest search, lower-cased; None before the first.
        number: which page of its results, from 1.
        asin: the product that is open or bought; None where there is none.
        chosen: option name -> value.
        visited: ids of the products opened since the search page.
        detail: which sub-page is open; "" elsewhere.
        reward: what the purchase was worth; None before.

    >>> from opid_gym_envs.webshop import Catalogue
    >>> catalogue = Catalogue.generated(count=20)
    >>> visit = Session(catalogue, "buy anything", appraise=lambda product, chosen: 1.0)
    >>> visit.act("search[everyday]"), visit.act(f"click[{visit.page().products[0].asin}]"), visit.act("click[reviews]")
    (True, True, True)
    >>> visit.act("click[what is not there]"), visit.act("click[buy now]")
    (False, False)
    >>> visit.act("click[< prev]"), visit.act("click[buy now]"), visit.reward
    (True, True, 1.0)
    """

    __slots__ = (
        "_appraise",
        "_catalogue",
        "_found",
        "_page",
        "asin",
        "chosen",
        "detail",
        "instruction",
        "kind",
        "number",
        "query",
        "reward",
        "visited",
    )

    kind: PageKind
    query: str | None
    number: int
    asin: str | None
    chosen: Mapping[str, str]
    visited: frozenset[str]
    detail: str
    reward: float | None
    _found: Sequence[str]
    _page: Page | None

    def __init__(
        self, catalogue: Shelves, instruction: str, appraise: Callable[[Product, Mapping[str, str]], float]
    ) -> None:
        self._catalogue = catalogue
        self._appraise = appraise
        self.instruction = instruction
        self.reward = None
        self._open_search()

    @property
    def place(self) -> Place:
        """Where the visit stands now."""
        return Place(self.kind, self.query, self.number, self.asin, self.chosen, self.detail)

    def go(self, place: Place) -> None:
        """Stand at a place, however one came there; no check that there is a way."""
        if place.kind is PageKind.SEARCH:
            self._open_search()
            return
        if place.kind is PageKind.RESULTS:
            self._open_results(place.query or "", place.number)
            return
        self._page = None
        self.kind, self.query, self.number = place.kind, place.query, place.number
        self.asin, self.chosen, self.detail = place.asin, place.chosen, place.detail
        if self.asin is not None:
            self.visited |= {self.asin}

    def act(self, action: str) -> bool:
        """Do what an action says.

        Args:
            action: ``search[words]`` or ``click[text]``; capitals do not matter in the brackets.

        Returns:
            Whether it meant anything here.
        """
        name, argument = read_action(action)
        if not argument or name not in ("search", "click"):
            return False
        return self.click(argument) if name == "click" else self.search(argument)

    def search(self, query: str) -> bool:
        """Search, from whatever page; always possible."""
        self._open_results(query.lower(), 1)
        return True

    def click(self, text: str) -> bool:
        """Click the button, product or option with this text; False if there is none."""
        text, page = text.lower(), self.page()
        # Stock lists the button of the search bar among what can be clicked, and then ignores the click.
        if text == _SEARCH or text not in page.clickables:
            return False
        self._page = None
        if text == _BACK_TO_SEARCH:
            self._open_search()
        elif text == _PREVIOUS or (text == _NEXT and self._place() == "search_results"):
            self._turn_page(text)
        elif self.kind is PageKind.RESULTS:
            self.kind = PageKind.ITEM
            self.asin = next(product.asin for product in page.products if product.asin.lower() == text)
            self.visited |= {self.asin}
        elif text == _BUY:
            self._buy()
        elif text in _DETAILS:
            self.kind, self.detail = PageKind.DETAIL, _DETAILS[text]
        else:
            self._choose(text)
        return True

    def page(self) -> Page:
        """What is to be seen now."""
        if self._page is None:
            self._page = self._made_page()
        return self._page

    def _made_page(self) -> Page:
        if self.kind is PageKind.SEARCH:
            return Page(self.kind, self.instruction)
        if self.kind is PageKind.RESULTS:
            shown = self._found[(self.number - 1) * RESULTS_SHOWN : self.number * RESULTS_SHOWN]
            products = tuple([self._catalogue.product(asin) for asin in shown])
        else:
            products = (self._product(),)
        return Page(
            self.kind,
            self.instruction,
            self.query or "",
            self.number,
            len(self._found),
            products,
            self.chosen,
            self.visited,
            self.detail,
            self.reward or 0.0,
        )

    def _product(self) -> Product:
        assert self.asin is not None
        return self._catalogue.product(self.asin)

    def _open_search(self) -> None:
        self._page = None
        self.kind = PageKind.SEARCH
        self.query = None
        self.number = 1
        self.asin = None
        self.chosen = {}
        self.visited = frozenset()
        self.detail = ""
        self._found = ()

    def _open_results(self, query: str, number: int) -> None:
        self._page = None
        self.kind, self.query, self.number = PageKind.RESULTS, query, number
        self.asin, self.chosen, self.detail = None, {}, ""
        self._found = self._catalogue.search(query, RESULTS_FOUND)

    def _choose(self, value: str) -> None:
        # The same value under two names: stock finds the last.
        name = [name for name, values in self._product().options.items() if value in values][-1]
        self.chosen = {**self.chosen, name: value}

    def _turn_page(self, text: str) -> None:
        place, query = self._place(), self.query or ""
        if place == "search_results":
            self._open_results(query, self.number + (1 if text == _NEXT else -1))
        elif place == "item_page":
            self._open_results(query, self.number)
        else:
            self.kind, self.detail = PageKind.ITEM, ""

    def _buy(self) -> None:
        self.kind = PageKind.DONE
        self.reward = self._appraise(self._product(), self.chosen)

    def _place(self) -> str:
        """Where stock believes to be: it looks for the name of a page in the address, which the shopper's words are in.

        So after a search for "search_results", "< prev" on an item's page leads to the page of results before.
        """
        if self.kind is PageKind.RESULTS:
            return "search_results"
        own = "item_page" if self.kind is PageKind.ITEM else "item_sub_page"
        words = f"{self.query}{self.chosen}"
        return next((place for place in ("search_results", "item_page") if place in words), own)


def read_action(action: str) -> tuple[str, str]:
    r"""Name and argument of ``name[argument]``; no argument if it is not of that form.

    Stock's pattern is ``(.+)\[(.+)\]``, matched greedily at the beginning of the first line. This is the same without
    the pattern's quadratic time on a line of brackets.

    >>> read_action("search[red shoes] please"), read_action("click[a[b]"), read_action("click[")
    (('search', 'red shoes'), ('click[a', 'b'), ('click[', ''))
    """
    line = action.partition("\n")[0]
    end = line.rfind("]")
    start = line.rfind("[", 1, max(end - 1, 1))
    return (line[:start], line[start + 1 : end]) if start > 0 else (action, "")
