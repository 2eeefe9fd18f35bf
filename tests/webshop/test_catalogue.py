"""What a catalogue holds and finds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opid_gym_envs.webshop import Catalogue, Product
from opid_gym_envs.webshop.generator import VERSION, generate
from opid_gym_envs.webshop.store import FORMAT


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


def test_processes_that_build_at_once_end_up_with_the_same_catalogue(tmp_path: Path) -> None:
    code = (
        "import sys; from opid_gym_envs.webshop import Catalogue; "
        "shop = Catalogue.generated(400, 5, cache_dir=sys.argv[1]); print(len(shop), shop.search('black shoes')[:3])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(answers) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == ["", ".lock"]


def test_an_interrupted_build_leaves_nothing_and_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(count: int, seed: int) -> Iterator[Product]:
        yield from generate(5, seed)
        raise KeyboardInterrupt

    (tmp_path / f".v{FORMAT}-generated-{VERSION}-30-0.building").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr("opid_gym_envs.webshop.generator.generate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            Catalogue.generated(30, cache_dir=tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(Catalogue.generated(30, cache_dir=tmp_path)) == 30


def test_a_catalogue_survives_being_shared_with_threads(shop: Catalogue) -> None:
    titles = [shop.by_index(number).title for number in range(len(shop))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda title: shop.search(title, 1), titles)) == [[asin] for asin in shop.asins]
