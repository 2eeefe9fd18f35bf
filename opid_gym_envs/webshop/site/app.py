"""The site as a Flask application: addresses to places, places to pages, purchases by POST."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from flask import Flask, Response, redirect, render_template, request
from markupsafe import Markup, escape

from opid_gym.access import Access
from opid_gym_envs.webshop.env import Visit
from opid_gym_envs.webshop.pages import BUY, DETAILS, RATING, Page, PageKind
from opid_gym_envs.webshop.session import RESULTS_SHOWN, Place, Session
from opid_gym_envs.webshop.site.addresses import UnknownPlace, address, read_item, read_results
from opid_gym_envs.webshop.site.stock_addresses import add_stock_addresses
from opid_gym_envs.webshop.site.visits import Visits

_DETAILS = frozenset(name.lower() for name in DETAILS)
_COOKIE = "opid-gym-token"
_HEADERS = {
    # No script runs, and nothing comes from elsewhere, whatever a product's text says.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # A page shows which products were opened before, so an old copy may be wrong.
    "Cache-Control": "no-store",
}


def create_app(visits: Visits, access: Access | None = None) -> Flask:
    """The shop's site.

    Routes: ``/`` welcomes, ``POST /visits`` begins a visit for the next task. Below ``/visit/<name>``: the search page,
    ``/results``, ``/item``, ``/item/<detail>``, ``POST /buy``, and ``/done``, which is the first to tell the score and
    the goal. A visit buys once. Addresses of stock's site lead there too (see `stock_addresses`).

    Args:
        visits: the shoppers and what is sold to them.
        access: what a request must show; None: what a site for this machine alone asks. A browser shows a token by
            opening ``/?token=...`` once, which leaves it a cookie.
    """
    app = Flask(__name__)
    access = access or Access()
    app.jinja_env.filters["verbatim"] = _verbatim
    products = visits.shop.catalogue

    @app.before_request
    def guard() -> Any:
        given = request.args.get("token") if request.path == "/" else None
        shown = request.headers.get("Authorization") or f"Bearer {given or request.cookies.get(_COOKIE, '')}"
        refused = access.refusal(request.headers.get("Host", ""), request.headers.get("Origin"), shown)
        if refused is not None:
            return render_template("error.html", message=refused.reason), refused.status
        if given is None or access.token is None:
            return None
        response = redirect("/", 303)  # to an address without the token
        response.set_cookie(_COOKIE, given, httponly=True, samesite="Strict")
        return response

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS if request.endpoint != "static" else {"X-Content-Type-Options": "nosniff"})
        return response

    @app.get("/")
    def welcome() -> str:
        return render_template("welcome.html", products=len(products), tasks=len(visits.shop.task_ids))

    @app.post("/visits")
    def begin() -> Any:
        return redirect(f"/visit/{visits.begin_next()}", 303)

    @app.get("/visit/<name>")
    def search(name: str) -> Any:
        return show(name, Place())

    @app.get("/visit/<name>/results")
    def results(name: str) -> Any:
        return show(name, read_results(request.args))

    @app.get("/visit/<name>/item")
    @app.get("/visit/<name>/item/<detail>")
    def item(name: str, detail: str | None = None) -> Any:
        return show(name, read_item(request.args.items(multi=True), products, detail))

    @app.post("/visit/<name>/buy")
    def buy(name: str) -> Any:
        place = read_item(request.args.items(multi=True), products)
        with visits.use(name) as visit:
            if visit.score is None:
                visit.session.go(place)
                visit.session.click(BUY)
        return redirect(f"/visit/{name}/done", 303)

    @app.get("/visit/<name>/done")
    def done(name: str) -> Any:
        with visits.use(name) as visit:
            if visit.score is None:
                return redirect(f"/visit/{name}", 303)
            return render_template("done.html", page=visit.session.page(), goal=visit.goal, score=visit.score)

    add_stock_addresses(app, visits)

    def show(name: str, place: Place) -> Any:
        with visits.use(name) as visit:
            if visit.score is not None:
                return redirect(f"/visit/{name}/done", 303)
            visit.session.go(place)
            view = View.of(visit, f"/visit/{name}")
        return render_template(f"{view.page.kind.value}.html", **view.context())

    @app.errorhandler(UnknownPlace)
    def unknown_place(error: UnknownPlace) -> tuple[str, int]:
        return render_template("error.html", message=str(error)), 404

    @app.errorhandler(KeyError)
    def unknown_visit(error: KeyError) -> tuple[str, int]:
        message = f"There is no visit {str(error.args[0])!r}; it may be long over."
        return render_template("error.html", message=message), 404

    @app.errorhandler(404)
    def not_found(error: Exception) -> tuple[str, int]:
        return render_template("error.html", message=f"There is no page {request.path!r}."), 404

    return app


@dataclass(frozen=True, slots=True)
class View:
    """A page and where its links lead.

    Attributes:
        page: the content.
        place: where the visit stands.
        home: the address of the visit.
        session: a copy of the visit's session, to try clicks on.
    """

    page: Page
    place: Place
    home: str
    session: Session

    @classmethod
    def of(cls, visit: Visit, home: str) -> View:
        """The visit as it stands."""
        return cls(visit.session.page(), visit.session.place, home, copy(visit.session))

    def context(self) -> dict[str, Any]:
        """What the templates use."""
        functions: tuple[Callable[..., str], ...] = (self.to_button, self.to_product, self.to_option, self.to_buy)
        return {
            **{function.__name__: function for function in functions},
            "page": self.page,
            "home": self.home,
            "rating": RATING,
            "details": DETAILS[:3],
            "first": (self.page.number - 1) * RESULTS_SHOWN + 1,
        }

    def to_button(self, text: str) -> str:
        """Where the button with this text leads."""
        after = copy(self.session)
        after.click(text)
        return self.home + address(after.place)

    def to_product(self, asin: str) -> str:
        """Where a listed product's link leads."""
        return self.home + address(replace(self.place, kind=PageKind.ITEM, asin=asin))

    def to_option(self, name: str, value: str) -> str:
        """Where the choice of an option leads."""
        if value in _DETAILS:  # stock opens the sub-page of that name instead
            return self.to_button(value)
        return self.home + address(replace(self.place, chosen={**self.place.chosen, name: value}))

    def to_buy(self) -> str:
        """Where the purchase is sent to."""
        return f"{self.home}/buy?{address(self.place).partition('?')[2]}"


def _verbatim(text: str) -> Markup:
    """Text as HTML that a browser reads back unchanged: it would take a carriage return for a line feed."""
    return Markup(str(escape(text)).replace("\r", "&#13;"))
