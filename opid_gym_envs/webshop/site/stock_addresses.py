"""Addresses of stock WebShop's site, which links and scripts of people have in them: each leads to the page of ours.

| stock | what it shows |
|---|---|
| ``/fixed_3``, ``/abc`` | the search page of goal 3; of some goal |
| ``/search_results/SESSION/KEYWORDS/PAGE`` | results |
| ``/item_page/SESSION/ASIN/KEYWORDS/PAGE/OPTIONS`` | a product |
| ``/item_sub_page/SESSION/ASIN/KEYWORDS/PAGE/NAME/OPTIONS`` | a sub-page of a product |
| ``/done/SESSION/ASIN/OPTIONS`` | the score; before a purchase the product: opening an address buys nothing |

KEYWORDS is a Python list or plain text, OPTIONS a Python dictionary. A session is begun by its first address.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from flask import Flask, redirect

from opid_gym_envs.webshop.pages import PageKind
from opid_gym_envs.webshop.session import Place
from opid_gym_envs.webshop.site.addresses import UnknownPlace, address
from opid_gym_envs.webshop.site.visits import Visits

_FIXED = re.compile(r"fixed_(\d{1,9})")


def add_stock_addresses(app: Flask, visits: Visits) -> None:
    """Make the addresses of stock's site answer in an application of ours."""

    def lead_to(session: str, place: Place) -> Any:
        return redirect(f"/visit/{visits.of_session(session, _goal_number(session))}{address(place)}", 302)

    @app.get("/fixed_<int:number>")
    def fixed(number: int) -> Any:
        return lead_to(f"fixed_{number}", Place())

    @app.get("/abc")
    def some_session() -> Any:
        return lead_to("abc", Place())

    @app.get("/search_results/<session>/<path:keywords>/<int:page>")
    def search_results(session: str, keywords: str, page: int) -> Any:
        return lead_to(session, Place(PageKind.RESULTS, _query(keywords), page))

    @app.get("/item_page/<session>/<asin>/<path:keywords>/<int:page>/<path:options>")
    def item_page(session: str, asin: str, keywords: str, page: int, options: str) -> Any:
        return lead_to(session, Place(PageKind.ITEM, _query(keywords), page, asin, _options(options)))

    @app.get("/item_sub_page/<session>/<asin>/<path:keywords>/<int:page>/<detail>/<path:options>")
    def item_sub_page(session: str, asin: str, keywords: str, page: int, detail: str, options: str) -> Any:
        return lead_to(session, Place(PageKind.DETAIL, _query(keywords), page, asin, _options(options), detail))

    @app.get("/done/<session>/<asin>/<path:options>")
    def stock_done(session: str, asin: str, options: str) -> Any:
        name = visits.of_session(session, _goal_number(session), again=False)
        with visits.use(name) as visit:
            bought = visit.score is not None
        return redirect(f"/visit/{name}/done", 302) if bought else lead_to(session, _bought(asin, options))


def _bought(asin: str, options: str) -> Place:
    return Place(PageKind.ITEM, "", 1, asin, _options(options))


def _goal_number(session: str) -> int | None:
    match = _FIXED.fullmatch(session)
    return int(match.group(1)) if match else None


def _query(keywords: str) -> str:
    words = _literal(keywords)
    return " ".join(map(str, words)) if isinstance(words, list) else keywords.replace("+", " ")


def _options(options: str) -> Mapping[str, str]:
    chosen = _literal(options)
    if not isinstance(chosen, dict):
        raise UnknownPlace(f"Options are a dictionary such as {{'color': 'red'}}, not {options!r}.")
    return {str(name): str(value) for name, value in chosen.items()}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
