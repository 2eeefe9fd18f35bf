"""Nouns of titles, kept beforehand or tagged when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from opid_gym_envs.webshop import Catalogue, nouns
from opid_gym_envs.webshop.generator import generate


def test_nouns_of_generated_titles_are_kept(tmp_path: Path) -> None:
    shop = Catalogue.generated(count=60, cache_dir=tmp_path)
    for number in range(len(shop)):
        product = shop.by_index(number)
        found = shop.title_nouns(product.asin)
        assert found
        assert found == tuple(noun.lower() for noun in found)
        assert all(noun in product.title.lower() for noun in found)


def test_nouns_kept_beforehand_are_what_spacy_says(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    titles = [product.title for product in generate(10_000)]
    kept = list(nouns.tagged_beforehand(titles))
    assert len(kept) == len(titles)
    assert kept[::10] == list(nouns.tag(titles[::10]))
    shop = Catalogue.generated(count=60, cache_dir=tmp_path)
    assert [shop.title_nouns(asin) for asin in shop.asins] == kept[:60]


def test_other_nouns_are_tagged_when_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    shop = Catalogue.generated(count=3, seed=1, cache_dir=tmp_path)
    assert shop.title_nouns(shop.asins[0]) == next(nouns.tag([shop.by_index(0).title]))


def test_without_spacy_other_nouns_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = Catalogue.generated(count=3, seed=1, cache_dir=tmp_path)
    monkeypatch.setattr(nouns, "_MODELS", ("no_such_model",))
    nouns._model.cache_clear()
    assert shop.title_nouns(shop.asins[0]) is None
    with pytest.raises(ImportError, match=r"opid-gym\[webshop\]"):
        nouns.tag(["a title"])
