"""The coverage-guided campaign in sessions: each goes on with the corpus of those before, and its inputs are added up.

    PYTHONPATH=/tmp/atheris python -m benchmarks.fuzz_sessions --inputs 200000 --results fuzz.json --corpus fuzz.zip \
        --but=view -timeout=60 -rss_limit_mb=2048

A session is one run of `benchmarks/fuzz_guided.py`, which gets the words that this command does not know, with a seed
of its own. What it says at its end is added to the results, also if it found a fault. Afterwards the corpus is reduced
to the smallest inputs that reach the same code, and kept as a zip file by the names of targets, so that it outlives
new targets; inputs of targets that a session leaves out stay. Ends with 1 if the session found a fault.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.copies import ROOT
from opid_gym.files import write_file
from tests.fuzzing import chosen

LONGEST = 4096  # bytes of an input


def unpack(file: Path, names: list[str], folder: Path) -> dict[str, bytes]:
    """Write the inputs of the targets of a session as the fuzzer wants them; returns those of all others."""
    folder.mkdir()
    others = {}
    for name, data in read_corpus(file):
        if name in names:
            whole = bytes([names.index(name)]) + data
            (folder / hashlib.sha1(whole).hexdigest()).write_bytes(whole)
        else:
            others[_place(name, data)] = data
    return others


def pack(folder: Path, names: list[str], others: dict[str, bytes], file: Path) -> int:
    """Keep the inputs in a folder, and others, in a file that is the same for the same inputs; returns their number."""
    inputs = dict(others)
    for path in folder.iterdir():
        if whole := path.read_bytes():
            name, data = names[whole[0] % len(names)], whole[1:]
            inputs[_place(name, data)] = data
    scratch = file.with_suffix(".new")
    with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, data in sorted(inputs.items()):
            archive.writestr(zipfile.ZipInfo(place), data, zipfile.ZIP_DEFLATED)
    scratch.replace(file)
    return len(inputs)


def read_corpus(file: Path) -> list[tuple[str, bytes]]:
    """Target and input, of every input of a kept corpus; none if there is no file."""
    if not file.is_file():
        return []
    with zipfile.ZipFile(file) as archive:
        return [(place.rpartition("/")[0], archive.read(place)) for place in archive.namelist()]


def _place(name: str, data: bytes) -> str:
    return f"{name}/{hashlib.sha1(data).hexdigest()}"


def play(words: list[str], corpus: Path, faults: Path, inputs: int, seed: int) -> dict[str, Any]:
    """One run of the fuzzer; returns what it says of itself, and names of the inputs at which it ended."""
    options = [f"-runs={inputs}", f"-seed={seed}", f"-max_len={LONGEST}", f"-artifact_prefix={faults}/"]
    said = _guided([*words, str(corpus), *options, "-print_final_stats=1", "-verbosity=1"])
    numbers = {name: int(value) for name, value in re.findall(r"stat::(\w+):\s+(\d+)", said)}
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    if "number_of_executed_units" not in numbers or not covered:
        raise RuntimeError(f"the fuzzer ended early: {said[-2000:]}")
    return {
        "seed": seed,
        "inputs": numbers["number_of_executed_units"],
        "slowest_seconds": numbers["slowest_unit_time_sec"],
        "peak_megabytes": numbers["peak_rss_mb"],
        "covered": int(covered[-1][0]),
        "features": int(covered[-1][1]),
        "faults": sorted(path.name for path in faults.iterdir()),
    }


def reduce(words: list[str], corpus: Path, folder: Path) -> None:
    """Write the smallest inputs of a corpus that reach the same code to an empty folder."""
    folder.mkdir()
    _guided([*words, str(folder), str(corpus), "-merge=1", f"-max_len={LONGEST}"])


def _guided(words: list[str]) -> str:
    command = [sys.executable, "-m", "benchmarks.fuzz_guided", *words]
    # The fuzzer ends its process without a word to Python, so what it has in its temporary folder stays.
    with tempfile.TemporaryDirectory(prefix="opid-gym-fuzz-") as folder:
        environment = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=ROOT, env=environment)
    return done.stdout + done.stderr


def main() -> None:
    """Play one session."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=10_000, help="of this session")
    parser.add_argument("--results", type=Path, required=True, help="file to which the session is added")
    parser.add_argument("--corpus", type=Path, required=True, help="zip file with the inputs to go on with")
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for inputs that showed a fault")
    arguments, words = parser.parse_known_args()
    names = list(chosen(words))
    total: dict[str, Any] = {"inputs": 0, "sessions": []}
    if arguments.results.is_file():
        total = json.loads(arguments.results.read_text(encoding="utf-8"))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "agents"), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory(prefix="opid-gym-fuzz-") as name:
        folder = Path(name)
        others = unpack(arguments.corpus, names, folder / "corpus")
        (folder / "faults").mkdir()
        session = play(words, folder / "corpus", folder / "faults", arguments.inputs, len(total["sessions"]) + 1)
        for path in (folder / "faults").iterdir():
            (arguments.keep / path.name).write_bytes(path.read_bytes())
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        session = {"targets": names, "cpu_seconds": round(used.ru_utime + used.ru_stime), **session}
        reduce(words, folder / "corpus", folder / "small")
        session["corpus"] = pack(folder / "small", names, others, arguments.corpus)
    total["sessions"].append(session)
    total["inputs"] = sum(one["inputs"] for one in total["sessions"])
    write_file(arguments.results, json.dumps(total, indent=1) + "\n")
    print(json.dumps(session))
    sys.exit(bool(session["faults"]))


if __name__ == "__main__":
    main()
