"""Commands during which the power fails; the short form of `benchmarks/power_cuts.py`."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from opid_gym.files import append_lines, make_folder, write_file
from tests.patience import SECONDS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is forced is found in /proc")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", os.fsync)  # put back in the end
    (tmp_path / "live").mkdir()
    return tmp_path


def after_the_cut(place: Path, loss: str) -> dict[str, bytes]:
    from benchmarks.power_cuts import LOSSES, Disk

    assert loss in LOSSES
    disk = Disk(place / "live", lambda: None)
    disk.watch()
    write_file(make_folder(place / "live" / "inner") / "forced", "old")
    (place / "live" / "inner" / "forced").write_text("newer")
    (place / "live" / "inner" / "unforced").write_text("gone")
    append_lines(place / "live" / "grown", ["first"])
    with open(place / "live" / "grown", "a") as file:
        file.write("second\n")
    disk.image(place / "image", loss, random.Random(0))
    image = place / "image"
    return {str(path.relative_to(image)): path.read_bytes() for path in image.rglob("*") if path.is_file()}


def test_what_was_forced_to_the_disk_is_there_and_nothing_else_need_be(place: Path) -> None:
    assert after_the_cut(place, "lost") == {"inner/forced": b"old", "grown": b"first\n"}


def test_what_was_not_forced_can_be_zeros(place: Path) -> None:
    assert after_the_cut(place, "zeroed") == {
        "inner/forced": bytes(5),
        "inner/unforced": bytes(4),
        "grown": b"first\n" + bytes(7),
    }


def test_a_command_goes_on_after_a_power_cut_and_what_it_has_finished_stays() -> None:
    words = ["--cuts", "2", "--json"]
    for subject in ("bench", "index bm25", "export"):
        words += ["--subject", subject]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.power_cuts", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cuts"] >= 3 * 9
