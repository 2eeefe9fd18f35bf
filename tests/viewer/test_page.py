"""The page as a file, and the command that makes and serves it."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from opid_gym.trajectory import StepHindsight
from opid_gym.viewer.page import build_page
from opid_gym.viewer.reading import read_folder
from tests.patience import SECONDS
from tests.viewer.folders import make_run, step, trajectory


def packed(page: str, name: str) -> Any:
    text = re.search(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', page)
    assert text
    return json.loads(gzip.decompress(base64.b64decode(text[1])))


def test_the_index_describes_rows_and_the_bodies_hold_the_rest(tmp_path: Path) -> None:
    page = build_page(read_folder(make_run(tmp_path / "mine")))
    index = packed(page, "index")
    assert index["title"] == "mine"
    assert index["rows"][5] == {
        "run": 0, "key": 5, "iteration": 2, "task": "put mug 2 in shelf", "task_id": "task-2",
        "type": "pick_and_place", "success": False, "truncated": False, "group": 2, "return": 0.0, "length": 3,
    }  # fmt: skip
    assert index["runs"][0]["scale"] == {"outcome": 0.5, "skill": 0.2, "sum": 0.6}
    recorded = {row["type"]: row for row in index["runs"][0]["success"]["recorded episodes"]}
    assert (recorded["all"]["episodes"], recorded["all"]["estimate"]) == (8, 0.5)
    body = packed(page, "body-0")
    assert body["episode_skill"] == "look on the shelves"
    assert body["steps"][1]["tokens"]["texts"] == [" go to", " shelf 2", "\n"]
    assert body["steps"][1]["skills"] == {"step": "open drawer 1"}
    assert body["steps"][1]["hindsight"] == {
        "better": "open drawer 1", "wasted": True, "reason": "The drawer had not been opened.",
        "reached": ["found the mug"],
    }  # fmt: skip
    assert body["workflow"] == ["go to shelf", "take mug"]
    assert packed(page, "body-1")["workflow"] == []


def test_a_step_without_hindsight_has_none_on_the_page(tmp_path: Path) -> None:
    plain, quiet = step(0, hindsight=None), step(1, hindsight=StepHindsight(True))
    page = build_page(read_folder(make_run(tmp_path / "mine", [trajectory(0, steps=0, workflow=None)])))
    assert packed(page, "body-0")["workflow"] == []
    episode = trajectory(0)
    episode.steps = [plain, quiet]
    page = build_page(read_folder(make_run(tmp_path / "other", [episode])))
    assert all("hindsight" not in shown for shown in packed(page, "body-0")["steps"])


def test_a_benchmark_shows_success_and_no_rows(tmp_path: Path) -> None:
    lines = [
        {"agent": "expert", "task_id": str(i), "task_type": "look", "success": i > 0, "episode_return": i / 2}
        for i in range(4)
    ]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    index = packed(build_page(read_folder(tmp_path)), "index")
    assert index["rows"] == []
    (run,) = index["runs"]
    assert [(row["type"], row["episodes"], row["estimate"], row["return"]) for row in run["success"]["results"]] == [
        ("look", 4, 0.75, 0.75), ("all", 4, 0.75, 0.75),
    ]  # fmt: skip


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page = build_page(read_folder(make_run(tmp_path)))
    addresses = set(re.findall(r"https?://[^\s\"']*", page))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.findall(r"\s(?:src|href)=[\"'](?!#|data:,)", page)
    assert "default-src 'none'; script-src 'sha256-" in page


def test_numbers_that_json_has_no_word_for_and_tokens_of_a_wrong_form_do_no_harm(tmp_path: Path) -> None:
    tokens = {"texts": ["a", "b"], "outcome": [float("nan"), 1.0], "skill": [1.0]}
    steps = [
        step(0, reward=float("inf"), data={"tokens": tokens}),
        step(1, data={"tokens": {"texts": [1, 2]}, "skills": "none"}),
        step(2, data={"tokens": "many"}),
    ]
    odd = trajectory(0, steps=0, metadata={"iteration": [1]})
    assert packed(build_page(read_folder(make_run(tmp_path, [odd]))), "body-0")["steps"] == []
    odd.steps = steps
    page = build_page(read_folder(make_run(tmp_path, [odd])))
    first, second, third = packed(page, "body-0")["steps"]
    assert first["tokens"] == {"texts": ["a", "b"], "outcome": [None, 1.0]}
    assert first["reward"] is None
    assert "tokens" not in second
    assert "skills" not in second
    assert "tokens" not in third
    (row,) = packed(page, "index")["rows"]
    assert row["return"] is None
    assert row["iteration"] is None


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "opid_gym.cli", "view", *words]


def test_the_command_writes_the_page_and_says_what_could_not_be_read(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "page.html"
    with open(run / "metrics.jsonl", "a") as file:
        file.write("oops\n")
    done = subprocess.run(
        command(str(run), "--no-serve", "--out", str(out)), capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert "1 run, 8 trajectories" in done.stderr
    assert "metrics.jsonl:3: not JSON" in done.stderr
    assert packed(out.read_text(), "index")["problems"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{folder}"], "nothing to show in"),
        (["{folder}/nowhere"], "no folder or file at"),
        (["{folder}", "--no-serve"], "say where to with --out"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    words = [word.format(folder=tmp_path) for word in words]
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    run = make_run(tmp_path / "run")
    process = subprocess.Popen(
        command(str(run), "--port", "0"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline()
        yield run, int(address.rstrip("/\n").rpartition(":")[2])
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str = "/", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_server_shows_the_run_as_it_is_now_to_this_machine_only(served: tuple[Path, int]) -> None:
    run, port = served
    assert len(packed(get(port)[1], "index")["rows"]) == 8
    with open(run / "trajectories.jsonl", "a") as file:
        file.write(trajectory(8).to_json() + "\n")
    assert len(packed(get(port)[1], "index")["rows"]) == 9
    assert get(port, "/?again")[0] == 200
    assert get(port, "/recipe.json")[0] == 404
    assert get(port, host=f"evil.example:{port}")[0] == 403
    (run / "trajectories.jsonl").unlink()
    for name in ("metrics.jsonl", "evaluation.json"):
        (run / name).unlink()
    status, message = get(port)
    assert status == 500
    assert "nothing to show" in message


def test_a_port_that_is_taken_is_named(served: tuple[Path, int]) -> None:
    run, port = served
    done = subprocess.run(command(str(run), "--port", str(port)), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 2
    assert f"cannot serve on port {port}" in done.stderr
