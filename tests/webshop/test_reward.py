"""Scores against stock's own function."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from opid_gym_envs.webshop.goals import Goal
from opid_gym_envs.webshop.product import Product
from opid_gym_envs.webshop.reward import color_or_text, score, similar
from tests.webshop.stock_data import FOLDER


def product_of(record: dict[str, Any]) -> Product:
    return Product(
        asin=record["asin"],
        title=record["Title"],
        description=record["Description"],
        bullet_points=tuple(record["BulletPoints"]),
        category="",
        product_category=record["product_category"],
        query=record["query"],
        attributes=tuple(record["Attributes"]),
        instruction=None,
        instruction_attributes=(),
        options={name: tuple(values) for name, values in record["options"].items()},
        pricing=(1.0,),
        price_tag="$1.0",
    )


def test_scores_and_all_their_parts_are_stocks() -> None:
    """4,000 purchases judged by stock: goals of both kinds, fitting and foreign products, chosen and missed options."""
    with gzip.open(FOLDER / "rewards.json.gz", "rt", encoding="utf-8") as file:
        recorded = json.load(file)
    goals = [Goal.of_record(record) for record in recorded["goals"]]
    products = {asin: product_of(record) for asin, record in recorded["products"].items()}
    nouns = recorded["nouns"]
    for number, asin, chosen, price, reward, parts in recorded["cases"]:
        goal, product = goals[number], products[asin]
        ours = score(product, chosen, price, goal, bought_nouns=nouns[product.title], goal_nouns=nouns[goal.name])
        assert (ours.reward, ours.parts) == (reward, parts), (goal, product.title, chosen)
        assert list(ours.parts) == list(parts)
    assert len(recorded["cases"]) == 4000


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("gluten free", "dairy free", False),
        ("wash machine", "machine wash", True),
        ("gluten free", "gluten free snacks", True),
        ("x-large", ("size", "x-large"), True),
        ("standard", ("size", "standard"), True),
        (color_or_text("standard"), ("size", "standard"), False),  # "tan" is found in "standard"
        (color_or_text("2005black"), ("color", "2005black"), False),
        ("café", "caf", True),  # letters of Latin-1 are left out on both sides
        ("猫", "猫", True),
        ("", "", False),
        ("!!", "!!", False),
    ],
)
def test_texts_that_stock_takes_for_the_same(first: Any, second: Any, same: bool) -> None:
    assert similar(first, second) == same
