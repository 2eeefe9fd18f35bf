"""Environments that are made, played and closed leave nothing; the short form of `benchmarks/leaks.py`."""

from __future__ import annotations

import os
import tempfile
import threading
from functools import partial

import pytest

from benchmarks.leaks import FIRST, apart, play


@pytest.mark.parametrize("name", ["opid/ALFWorld-v0", "opid/WebShop-v0", "opid/SearchQA-v0"])
def test_an_environment_leaves_nothing(name: str) -> None:
    found = apart(partial(play, name), 20)
    assert found["left"] == {}
    assert found["kilobytes_a_round"] < 200


def test_what_is_left_is_found() -> None:
    kept, end = [], threading.Event()

    def leak() -> None:
        kept.append(os.open(os.devnull, os.O_RDONLY))
        tempfile.mkdtemp()
        threading.Thread(target=end.wait).start()

    assert apart(leak, 3, patience=0.5)["left"] == {"threads": 3, "files": 3, "folders": 3}


def test_what_ends_meanwhile_hides_nothing() -> None:
    """A thread of earlier work that ends during the counted rounds used to be taken off the leaked ones."""
    end, rounds = threading.Event(), 0
    earlier = threading.Thread(target=end.wait)
    earlier.start()

    def leak() -> None:
        nonlocal rounds
        rounds += 1
        if rounds > FIRST:
            end.set()
        threading.Thread(target=threading.Event().wait, daemon=True).start()

    try:
        assert apart(leak, 3, patience=0.5)["left"] == {"threads": 3}
    finally:
        end.set()
        earlier.join()
