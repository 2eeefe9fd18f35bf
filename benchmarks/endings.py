"""What commands leave behind, however they end: every signal to every command, and every way in which an agent fails.

    python -m benchmarks.endings --results endings.json

A command runs with a temporary folder of its own until it is at work; then its process, it alone, gets a signal. Half a
minute after it has ended, none of its processes may be there, and nothing in the temporary folder. The same holds after
a benchmark whose agent raises, hangs, dies or answers nonsense (`tests/troublemakers.py`). Ends with 1 if anything is
left, or if a command outlives SIGINT, SIGTERM or SIGKILL by more than a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.copies import ROOT
from opid_gym.files import write_file
from opid_gym.trajectory import Step, Trajectory, write_jsonl
from opid_gym_envs.searchqa.corpus import Passage
from opid_gym_envs.searchqa.retrievers import build_index

SIGNALS = ("INT", "TERM", "HUP", "KILL")
FAILURES = (
    *("Raises", "Counts", "AnswersNumbers", "Exits", "Sleeps", "HoldsTheInterpreter"),
    *("Talks", "LeavesAThread", "CannotBeMade", "one_game_raises"),
)
PASSAGES = 100_000  # an index of which takes some seconds
CORRIDOR = "tests.corridor:tests/Corridor-v0 max_episode_steps=4 label=corridor"
TO_END, TO_LEAVE = 60.0, 30.0


@dataclass(frozen=True)
class Command:
    """A command, and how to see that it is at work.

    Attributes:
        words: of the command.
        works: given its folder and what it has printed, whether it is at work.
    """

    words: list[str]
    works: Callable[[Path, str], bool]


def _serves(folder: Path, said: str) -> bool:
    return "http://" in said


def commands(folder: Path) -> dict[str, Command]:
    """What gets the signals; writes to a folder what they need."""
    build_index([Passage(str(n), f"Item {n}", f"number{n} of a long list") for n in range(300)], folder / "index")
    (folder / "run").mkdir()
    step = Step("a room", "look", 0.0, "the room")
    write_jsonl(folder / "run" / "trajectories.jsonl", [Trajectory("t1", "look", "Look.", [step], success=True)])
    out = ["--out", str(folder / "out")]
    bench = ["bench", "--agent", "tests.troublemakers:Sleeps", "--env", CORRIDOR, *out]
    index = ["serve", "search", "--index", str(folder / "index"), "--port", "0"]
    lines = (f'{{"id": {number}, "contents": "Item{number}\\nA part of a long list."}}\n' for number in range(PASSAGES))
    (folder / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    site = ["--agent", "random", "--env", "opid/WebShopSite-v0 num_products=100 label=site"]
    return {
        "bench": Command(bench, lambda here, said: (here / "out" / "episodes.jsonl").exists()),
        "bench in browsers": Command(
            ["bench", *site, *out], lambda here, said: any((here / "tmp").glob("opid-gym-browser-*/Default"))
        ),
        "index": Command(
            ["index", str(folder / "corpus.jsonl"), *out], lambda here, said: any((here / "out").glob("*"))
        ),
        "pretrain": Command(
            ["pretrain", "--recipe", "tiny-alfworld", *out], lambda here, said: (here / "out" / "warm_start").exists()
        ),
        "quickstart": Command(["quickstart", *out], lambda here, said: "Before" in said),
        "sb3 train": Command(
            ["sb3", "train", "--env", CORRIDOR, "--encoder", "words:8", "--steps", "10000000", *out],
            lambda here, said: any((here / "out").glob("*")),
        ),
        "serve env": Command(["serve", "env", "--set", "size=small", "--port", "0"], _serves),
        "serve search": Command(index, _serves),
        "serve webshop": Command(["serve", "webshop", "--num-products", "100", "--port", "0"], _serves),
        "train": Command(
            ["train", "--recipe", "tiny-alfworld", *out],
            lambda here, said: (here / "out" / "recipe.json").exists(),
        ),
        "train in two processes": Command(
            ["train", "--processes", "2", "--recipe", "tiny-alfworld", *out],
            lambda here, said: (here / "out" / "metrics.jsonl").exists(),
        ),
        "view": Command(["view", str(folder / "run"), "--port", "0"], _serves),
    }


@dataclass
class Running:
    """A command that runs with a temporary folder of its own."""

    folder: Path
    words: list[str]

    def __post_init__(self) -> None:
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.said = self.folder / "said"
        environment = {**os.environ, "TMPDIR": str(self.temporary), "PYTHONPATH": os.pathsep.join(map(str, _PATHS))}
        with open(self.said, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "opid_gym.cli", *self.words],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment, cwd=ROOT, preexec_fn=_hear,
            )  # fmt: skip
        self.family: set[psutil.Process] = set()

    def look(self) -> bool:
        """Remember its processes; whether it still runs."""
        if self.process.poll() is None:
            self.family |= {psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(True)}
        return self.process.poll() is None

    def left(self) -> dict[str, list[str]]:
        """What is left of it, a while after it has ended."""
        _, alive = psutil.wait_procs([process for process in self.family if process.is_running()], timeout=TO_LEAVE)
        rest = [" ".join(process.cmdline())[:100] for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        # PyTorch has a cache there that all processes of a user share.
        folders = [name for name in sorted(os.listdir(self.temporary)) if not name.startswith("torchinductor_")]
        found = {"processes": rest, "folders": folders}
        for process in alive:
            process.kill()
        return {name: what for name, what in found.items() if what}


def _hear() -> None:
    """Undo what a shell does to commands in the background: they inherit that signals are ignored."""
    for name in ("INT", "HUP"):
        signal.signal(signal.Signals[f"SIG{name}"], signal.SIG_DFL)


_PATHS = (ROOT, ROOT / "agents")


def after_signal(command: Command, folder: Path, name: str) -> dict[str, Any]:
    """Start a command, send it a signal when it is at work, and see what is left."""
    running = Running(folder, command.words)
    while running.look() and not command.works(folder, running.said.read_text(errors="replace")):
        time.sleep(0.05)
    if not running.look():
        raise RuntimeError(f"{command.words} ended by itself: {running.said.read_text(errors='replace')[-2000:]}")
    running.process.send_signal(signal.Signals[f"SIG{name}"])
    started = time.monotonic()
    try:
        status: int | str = running.process.wait(TO_END)
    except subprocess.TimeoutExpired:
        status = "went on"
        running.look()
        running.process.kill()
        running.process.wait()
    return {"status": status, "seconds": round(time.monotonic() - started, 1), "left": running.left()}


def after_failure(agent: str, folder: Path) -> dict[str, Any]:
    """Play a benchmark with an agent that goes wrong, and see what is left."""
    words = ["bench", "--agent", f"tests.troublemakers:{agent}", "--env", CORRIDOR, "--timeout", "3"]
    running = Running(folder, [*words, "--out", str(folder / "out")])
    while running.look():
        time.sleep(0.02)
    return {"status": running.process.returncode, "left": running.left()}


def main() -> None:
    """End commands in every way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, help="file that keeps outcomes; what is in it is left out")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    if arguments.results and arguments.results.is_file():
        found = json.loads(arguments.results.read_text(encoding="utf-8"))

    def keep(name: str, act: Callable[[Path], dict[str, Any]]) -> None:
        if name in found:
            return
        with tempfile.TemporaryDirectory(prefix="opid-gym-endings-") as folder:
            found[name] = act(Path(folder))
        print(f"{name}: {found[name]}", file=sys.stderr, flush=True)
        if arguments.results:
            write_file(arguments.results, json.dumps(found, indent=1) + "\n")

    for agent in FAILURES:
        keep(f"bench with {agent}", lambda folder, agent=agent: after_failure(agent, folder))
    with tempfile.TemporaryDirectory() as spare:
        names = list(commands(Path(spare)))
    for name in names:
        for sent in SIGNALS:
            act = lambda folder, name=name, sent=sent: after_signal(commands(folder)[name], folder, sent)  # noqa: E731
            keep(f"{name}: {sent}", act)
    outlived = [name for name, one in found.items() if one["status"] == "went on" and not name.endswith("HUP")]
    sys.exit(bool(outlived) or any(one["left"] for one in found.values()))


if __name__ == "__main__":
    main()
