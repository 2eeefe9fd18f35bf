"""Generated products: the same everywhere, believable, and true to what instructions ask."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import asdict

import pytest

from opid_gym_envs.webshop import Catalogue
from opid_gym_envs.webshop.generator import MOST_COMBINATIONS, generate, make_product
from opid_gym_envs.webshop.reward import color_or_text, similar
from opid_gym_envs.webshop.vocabulary import vocabulary
from tests.processes import printed

# What the products of `digest` came to when the generator was last changed. A new value means that every published
# result on generated products is about others: then raise `VERSION` in the generator, too, and write the nouns anew.
DIGEST = "a7f639202fa7554b74b7f4341e24666bcd058b7b5571b47b9a527484f69eeced"


def digest() -> str:
    products = [*generate(200, 0), *generate(50, 7), make_product(0, 999_999)]
    return hashlib.sha256(repr([asdict(product) for product in products]).encode()).hexdigest()


def test_products_are_the_ones_that_were_published() -> None:
    assert digest() == DIGEST


@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_another_process_makes_the_same_products(hash_seed: str) -> None:
    assert printed("from tests.webshop.test_generator import digest; print(digest())", hash_seed) == digest()


def test_a_larger_catalogue_begins_with_the_smaller_one() -> None:
    assert list(generate(40, 3))[:15] == list(generate(15, 3))
    assert list(generate(15, 3)) != list(generate(15, 4))


def test_ids_and_titles_are_unique() -> None:
    products = list(generate(3000))
    assert len({product.asin for product in products}) == 3000
    assert len({product.title for product in products}) == 3000
    assert all(len(product.asin) == 10 and product.asin.isalnum() for product in products)


def test_instructions_ask_for_what_the_product_has() -> None:
    for product in generate(600):
        assert (product.instruction is None) == (not product.instruction_attributes)
        if product.instruction is None:
            continue
        assert set(product.instruction_attributes) <= set(product.attributes)
        assert product.query in product.instruction
        for attribute in product.instruction_attributes:
            assert attribute in product.instruction
        assert math.prod(map(len, product.options.values())) <= MOST_COMBINATIONS


def test_every_option_value_satisfies_the_goal_that_asks_for_it() -> None:
    """Stock compares what was chosen, reduced to a colour, with the goal's pair of name and value."""
    for kind in vocabulary().kinds:
        for name, values in kind.axes:
            assert len(set(values)) == len(values)
            for value in values:
                assert value == value.lower().strip()
                assert similar(color_or_text(value), color_or_text((name, value))), value


def test_the_shop_is_varied() -> None:
    products = list(generate(1000))
    assert len({product.query for product in products}) > 80
    assert Counter(product.category for product in products).most_common(1)[0][1] < 400
    assert 300 < sum(product.instruction is not None for product in products) < 600
    assert sum(len(product.pricing) == 2 for product in products) > 150
    assert sum(not product.options for product in products) > 100
    assert any(product.pricing == (100.0,) and product.price_tag == "$100.0" for product in products)
    assert all(low <= high for product in products for low, high in [(product.pricing[0], product.pricing[-1])])
    goals = sum(math.prod(map(len, p.options.values())) for p in products if p.instruction)
    assert goals > 3000  # enough for the official splits, whose first 1,500 goals are for testing and evaluating


def test_an_empty_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be 1 or more, got 0"):
        Catalogue.generated(0)
