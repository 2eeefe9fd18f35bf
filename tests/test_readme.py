"""The README's Python runs as printed, and its commands exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=[block.splitlines()[0][:40] for block in BLOCKS])
def test_every_python_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_every_command_of_ours_exists() -> None:
    commands = set(re.findall(r"(?:^|`)opid-gym (\w+)", README, re.MULTILINE))
    assert commands
    listed = subprocess.run([sys.executable, "-m", "opid_gym.cli", "--help"], capture_output=True, text=True).stdout
    assert all(command in listed for command in commands)


def test_there_is_something_to_run() -> None:
    assert len(BLOCKS) >= 2
