"""What a catalogue holds and finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from opid_gym_envs.webshop import Catalogue


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return Catalogue.generated(count=200, seed=0, cache_dir=tmp_path_factory.mktemp("shops"))


def test_products_are_found_by_number_and_by_id(shop: Catalogue) -> None:
    assert len(shop) == len(shop.asins) == len(set(shop.asins)) == 200
    for number, asin in enumerate(shop.asins):
        assert shop.by_index(number).asin == asin
        assert shop.product(asin) == shop.by_index(number)
        assert asin in shop
    assert "B000000000" not in shop
    assert "B0000000000000" not in shop
    with pytest.raises(KeyError, match="no product 'B000000000' among the 200"):
        shop.product("B000000000")
    with pytest.raises(IndexError, match="product 200 of a catalogue of 200"):
        shop.by_index(200)


def test_a_title_finds_its_product_first(shop: Catalogue) -> None:
    for number in range(len(shop)):
        product = shop.by_index(number)
        assert shop.search(product.title, k=1) == [product.asin]


def test_a_catalogue_is_built_once(tmp_path: Path) -> None:
    first = Catalogue.generated(count=30, seed=3, cache_dir=tmp_path)
    made = (first.folder / "records.jsonl").stat().st_mtime_ns
    again = Catalogue.generated(count=30, seed=3, cache_dir=tmp_path)
    assert again.folder == first.folder
    assert (again.folder / "records.jsonl").stat().st_mtime_ns == made
