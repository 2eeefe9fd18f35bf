"""Folders that are built once, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from opid_gym.data import build_once


def test_a_damaged_folder_is_named_and_built_again(tmp_path: Path) -> None:
    folder = tmp_path / "words"

    def build(scratch: Path) -> None:
        (scratch / "words.txt").write_text("aardvark\n" * 10_000)

    build_once(folder, build)
    (folder / "words.txt").write_bytes(bytes(90_000))
    with pytest.warns(UserWarning, match="words was built again: words.txt has other content"):
        build_once(folder, build)
    assert (folder / "words.txt").read_text().startswith("aardvark")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["words"]


def test_a_folder_of_an_earlier_version_is_built_again(tmp_path: Path) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "words.txt").write_text("half of the w")
    build_once(folder, lambda scratch: (scratch / "words.txt").write_text("words") and None)
    assert (folder / "words.txt").read_text() == "words"


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def build(scratch: Path) -> None:
        (scratch / "words.txt").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        build_once(tmp_path / "words", build)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
