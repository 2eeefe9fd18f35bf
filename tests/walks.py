"""Pages of the documentation that need data, a model or a server: their commands are typed here as they stand there.

Commands are the lines of a page's ``sh`` blocks. They run from top to bottom in one folder. A server stays in the
background until the walk is over, and gets a free port in place of the page's 8000.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.patience import SECONDS, free_port, wait_for

ROOT = Path(__file__).parents[1]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_SERVES = re.compile(r"^(?:opid-gym|transformers) serve ")


def commands(page: str) -> list[str]:
    """The commands of a page below ``docs`` that install nothing."""
    blocks = _BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("pip install ")]


class Walk:
    """A terminal in a folder.

    Args:
        folder: where commands run.
        variables: of the environment, besides those of this process.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self._running = ExitStack()
        self._port = str(free_port())
        bin_folder = str(Path(sys.executable).parent)
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([bin_folder, os.environ["PATH"]]),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            **variables,
        }

    def type(self, command: str) -> str:
        """Run a command and return what it prints; a server is waited for until it answers."""
        command = command.replace(":8000", f":{self._port}").replace("--port 8000", f"--port {self._port}")
        if _SERVES.match(command):
            self._serve(command)
            return ""
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=self.folder, env=self._environment, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def _serve(self, command: str) -> None:
        log = self._running.enter_context((self.folder / "server.log").open("w+"))
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder, env=self._environment, stdout=log, stderr=log,
        )  # fmt: skip
        self._running.enter_context(process)
        self._running.callback(process.kill)
        wait_for(lambda: process.poll() is not None or self._answers(), f"the start of {command}")
        assert process.poll() is None, (self.folder / "server.log").read_text()

    def _answers(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def leave(self) -> None:
        """End the servers."""
        self._running.close()


@contextmanager
def walk(folder: Path, variables: Mapping[str, str] | None = None) -> Iterator[Walk]:
    """A terminal whose servers end with the block."""
    begun = Walk(folder, variables or {})
    try:
        yield begun
    finally:
        begun.leave()
