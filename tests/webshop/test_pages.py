"""Pages and sessions against real WebShop episodes, and where stock's behaviour is surprising."""

from __future__ import annotations

import gzip
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from opid_gym_envs.webshop import Catalogue, Product
from opid_gym_envs.webshop.pages import SEPARATOR, PageKind, as_rich_text, as_text
from opid_gym_envs.webshop.session import Session
from tests.patience import LONG
from tests.webshop.stock_data import FOLDER

REAL = Path(__file__).parents[1] / "data" / "webshop" / "real_episodes.jsonl.gz"
OPTION_NAMES = ("color", "size")


def product(asin: str, title: str = "", price_tag: str = "$1.0", **options: tuple[str, ...]) -> Product:
    return Product(asin, title, "", ("",), "", "", "", (), None, (), options, (1.0,), price_tag)


class Remembered:
    """Stands for the full catalogue, which cannot be shipped: what a recorded episode shows of it, and nothing else."""

    def __init__(self, steps: Sequence[tuple[str, str]]) -> None:
        self.products: dict[str, Product] = {}
        self.found: dict[str, list[str]] = {}
        for action, observation in steps:
            pieces = observation.split(SEPARATOR)
            if action.startswith("search["):
                shown = pieces[pieces.index("Next >") + 1 :]
                listed = [product(*shown[i : i + 3]) for i in range(0, len(shown), 3)]
                self.products |= {found.asin: found for found in listed}
                total = int(re.search(r"Total results: (\d+)", observation)[1])  # type: ignore[index]
                fillers = [f"unseen {number}" for number in range(total - len(listed))]
                self.found[action[7:-1].lower()] = [found.asin for found in listed] + fillers
            elif "Buy Now" in pieces:
                asin = next(asin for asin, known in self.products.items() if known.title in pieces)
                known = self.products[asin]
                options: dict[str, list[str]] = {}
                for piece in pieces[pieces.index("< Prev") + 1 : pieces.index(known.title)]:
                    if piece in OPTION_NAMES:
                        options[piece] = []
                    else:
                        list(options.values())[-1].append(piece)
                values = {name: tuple(texts) for name, texts in options.items()}
                self.products[asin] = product(asin, known.title, known.price_tag, **values)

    def search(self, query: str, k: int) -> list[str]:
        return self.found[query][:k]

    def product(self, asin: str) -> Product:
        return self.products[asin]


def real_episodes() -> list[dict[str, Any]]:
    with gzip.open(REAL, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("episode", real_episodes(), ids=lambda episode: episode["steps"][1][0][:30])
def test_real_episodes_replay_byte_for_byte(episode: dict[str, Any]) -> None:
    start, *steps = episode["steps"]
    visit = Session(Remembered(steps), start[1].split(SEPARATOR)[2], lambda product, chosen: episode["reward"])
    assert as_text(visit.page()) == start[1]
    for action, observation in steps:
        visit.act(action)
        assert as_text(visit.page()) == observation
    assert visit.kind is PageKind.DONE


# ------------------------------------------------------------------------------- what is surprising about stock


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue.load(FOLDER, cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def visit(catalogue: Catalogue) -> Session:
    return Session(catalogue, "buy something", lambda product, chosen: 0.5)


def at_item(visit: Session, catalogue: Catalogue, asin: str, words: str = "") -> Session:
    visit.act(f"search[{words} {catalogue.product(asin).title}]")
    assert visit.act(f"click[{asin}]")
    return visit


@pytest.mark.parametrize(
    "action",
    [
        *("click[", "click[]", "click", "search", "search[]", "", "[", "]", "][", "buy now", "click[search]"),
        *("look[around]", " search[shoes]", "Search[shoes]", "hm\nsearch[shoes]", "search[[shoes", "click[buy now]"),
    ],
)
def test_what_is_no_action_here_changes_nothing(visit: Session, action: str) -> None:
    before = as_text(visit.page())
    assert not visit.act(action)
    assert as_text(visit.page()) == before


def test_a_huge_query_and_a_line_of_brackets_take_no_time(visit: Session) -> None:
    begin = time.thread_time()
    assert visit.act(f"search[{'red swimsuit ' * 8000}]")
    assert visit.page().products
    assert not visit.act("[" * 100_000)
    assert not visit.act("click" + "[" * 100_000 + "]")
    assert time.thread_time() - begin < LONG  # stock's pattern would need hours


def test_markup_in_a_query_is_text_like_any_other(visit: Session) -> None:
    visit.act("search[<script>alert(1)</script> swimsuit]")
    assert visit.page().query == "<script>alert(1)</script> swimsuit"
    assert "<script>" not in as_text(visit.page())


def test_there_is_a_page_after_the_last_and_no_way_before_the_first(visit: Session) -> None:
    visit.act("search[swimsuit hair oil loafer table speaker for women men home travel kids]")
    assert visit.page().total == 50
    for number in range(2, 8):
        assert visit.act("click[Next >]")
        assert visit.page().number == number
        assert len(visit.page().products) == (10 if number <= 5 else 0)
    while visit.act("click[< prev]"):
        pass
    assert visit.number == 1


def test_options_are_kept_on_sub_pages_and_forgotten_on_the_way_back(visit: Session, catalogue: Catalogue) -> None:
    at_item(visit, catalogue, "B0NASTY001")
    assert visit.act("click[small]")
    assert visit.act("click[Café]")
    assert visit.act("click[medium]")
    assert list(visit.chosen.items()) == [("size", "medium"), ("color", "café")]
    page = visit.page()
    assert visit.act("click[features]")
    assert visit.act("click[< prev]")
    assert visit.page() == page
    visit.act("click[< prev]")
    visit.act("click[b0nasty001]")
    assert not visit.chosen
    assert page.chosen == {"size": "medium", "color": "café"}  # a page stays what it was


def test_an_option_that_reads_like_a_button_is_taken_for_it(visit: Session, catalogue: Catalogue) -> None:
    at_item(visit, catalogue, "B0NASTY002")
    assert visit.act("click[next >]")
    assert visit.chosen == {"color": "next >"}
    assert visit.act("click[attributes]")
    assert visit.page().detail == "Attributes"
    assert as_text(visit.page()).endswith("Swimsuits & Cover Ups")
    visit.act("click[< prev]")
    assert not visit.act("click[search]")


@pytest.mark.parametrize("asin", ["buy now", "Reviews", "b0lower001"])
def test_a_product_is_opened_whatever_its_id_reads_like(asin: str) -> None:
    class Shelf:
        def search(self, query: str, k: int) -> list[str]:
            return [asin]

        def product(self, wanted: str) -> Product:
            return {asin: product(asin, "A thing")}[wanted]

    visit = Session(Shelf(), "buy a thing", appraise=lambda product, chosen: 1.0)
    visit.act("search[thing]")
    assert visit.act(f"click[{asin.upper()}]")
    assert (visit.page().kind, visit.asin) == (PageKind.ITEM, asin)
    assert visit.act("click[buy now]")
    assert visit.reward == 1.0


def test_a_query_that_reads_like_an_address_confuses_the_way_back(visit: Session, catalogue: Catalogue) -> None:
    at_item(visit, catalogue, "B0NASTY001", words="search_results")
    assert visit.act("click[< prev]")
    assert (visit.kind, visit.number) == (PageKind.RESULTS, 0)
    assert "Page 0 (Total results: " in as_text(visit.page())
    assert not visit.page().products


def test_a_quoted_word_of_the_query_marks_an_option(visit: Session, catalogue: Catalogue) -> None:
    at_item(visit, catalogue, "B0NASTY001", words='"small"')
    assert as_rich_text(visit.page()).startswith("You have clicked small.\n")
    assert not visit.chosen


def test_the_score_is_asked_for_once_with_what_was_bought(catalogue: Catalogue) -> None:
    bought: list[tuple[str, Mapping[str, str]]] = []

    def appraise(product: Product, chosen: Mapping[str, str]) -> float:
        bought.append((product.asin, chosen))
        return 0.25

    visit = at_item(Session(catalogue, "buy", appraise), catalogue, "B0NASTY001")
    visit.act("click[it's]")
    visit.act("click[buy now]")
    assert bought == [("B0NASTY001", {"color": "it's"})]
    assert '{"color": "it\\u0027s"}' in as_text(visit.page())
    assert "Your score (min 0.0, max 1.0) [SEP] 0.25" in as_text(visit.page())
    assert not visit.act("click[buy now]")
