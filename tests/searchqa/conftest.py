"""The factbook and its index, built once for all tests of a run and kept away from the user's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from opid_gym_envs.searchqa.factbook import Factbook, load_factbook


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPID_GYM_CACHE", str(cache))


@pytest.fixture(scope="session")
def factbook(cache: Path) -> Factbook:
    return load_factbook(cache)
