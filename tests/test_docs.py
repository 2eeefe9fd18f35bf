"""Everything the README and the documentation show is run: a page is one program, in an empty folder.

Blocks of a page run from top to bottom and share their names. ``python`` is run, or written to a file if it has a
``title="FILE"``; ``bash`` is run; ``sh`` is not (it installs, serves or takes minutes), but its commands and options of
ours must exist. A ``text`` block right below a block that runs is what the block prints.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from opid_gym.registration import registered_worlds
from tests.patience import SECONDS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([\w.]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)
PRINTED = re.compile(r"^```(?:python|bash)\n(?:(?!```).*\n)*```\n\n```text\n((?:(?!```).*\n)*)", re.MULTILINE)
# The README's commands set up the checkout they are in.
RUN_IN = {"python": PAGES, "bash": PAGES[1:]}
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return [match.groups() for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]


def program(page: Path) -> str:
    """The page's blocks as one Python program."""
    parts = []
    for language, title, code in blocks(page):
        if title:
            parts.append(f"import pathlib\npathlib.Path({title!r}).write_text({code!r})\n")
        elif language == "python" and page in RUN_IN["python"]:
            parts.append(code)
        elif language == "bash" and page in RUN_IN["bash"]:
            parts.append(f"import subprocess\nsubprocess.run(['bash', '-euc', {code!r}], check=True)\n")
    return "\n".join(parts)


def words(text: str) -> str:
    """A text without its line breaks and rules, which depend on the width of the terminal."""
    return " ".join(text.replace("─", " ").split())


RUN = [page for page in PAGES if program(page)]


@pytest.mark.parametrize("page", RUN, ids=[str(page.relative_to(ROOT)) for page in RUN])
def test_every_block_runs(page: Path, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        # For the modules that a page writes, and for the package as it is tested here.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    (tmp_path / "page.py").write_text(program(page), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for shown in PRINTED.findall(page.read_text(encoding="utf-8")):
        assert words(shown) in words(done.stdout)
    # A page that measures before and after training shows learning.
    for before in tmp_path.glob("runs/*/before.json"):
        rates = [json.loads(before.with_name(name).read_text())["success"] for name in (before.name, "evaluation.json")]
        assert rates[1]["estimate"] > rates[0]["estimate"] + 0.05, (before, rates)
    # So does one that prints the success of every iteration.
    for curve in tmp_path.glob("runs/four-games/metrics.jsonl"):
        rates = [json.loads(line)["success"] for line in curve.read_text().splitlines()]
        assert sum(rates[-3:]) / 3 > sum(rates[:3]) / 3 + 0.1, rates


@cache
def help_of(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "opid_gym.cli", *words, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "TERM": "dumb"},
    )
    return done.stdout if done.returncode == 0 else ""


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_and_option_of_ours_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"(?:^|`|#\s)opid-gym ((?:serve |sb3 )?\w+[^`\n#]*)", text, re.MULTILINE):
        command = line.split()[:2] if line.startswith(("serve ", "sb3 ")) else line.split()[:1]
        known = help_of(*command)
        assert known, f"no command: opid-gym {line}"
        for option in re.findall(r"(?<!\S)--[\w-]+", line):
            assert option in known, f"no option {option}: opid-gym {line}"


def test_there_is_something_to_run() -> None:
    assert len(RUN) >= 12


def test_the_site_is_built_without_a_warning_and_asks_no_other_machine_for_anything(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs the docs extra")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1
    loaded = r"<(?:script|img|iframe|source|link)\b[^>]*\s(?:src|href)=[\"']?(?:https?:)?//"
    for page in [*pages, *tmp_path.rglob("*.css")]:
        content = page.read_text(encoding="utf-8")
        assert not re.findall(loaded, content), page
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", content), page


def test_every_algorithm_and_environment_is_in_the_documentation() -> None:
    algorithms = pytest.importorskip("opid_agents.algorithms.table").ALGORITHMS
    method = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    # Controls with the wrong skills are named by a rule.
    assert [name for name, one in algorithms.items() if not one.swap and f"`{name}`" not in method] == []
    worlds = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "worlds").glob("*.md"))
    assert [world.id for world in registered_worlds() if world.id not in worlds] == []
