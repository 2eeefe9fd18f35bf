"""A coverage-guided campaign over the readers of `tests/fuzzing.py`: atheris keeps the inputs that reach new code.

    pip install --target /tmp/atheris atheris                   # has wheels for some versions of Python alone
    PYTHONPATH=/tmp/atheris python -m benchmarks.fuzz_guided /tmp/corpus -runs=1000000 -timeout=1 -rss_limit_mb=2048

The arguments are libFuzzer's, and ``--target=NAME``, repeated, for these targets alone, or ``--but=NAME`` for all
others; a name stands for those that begin with it. The viewer's targets build a page from each input and take
ten times as long as the rest. The corpus is begun with the good inputs of every target; an input is one byte that
chooses the target, and what it reads. An error that a reader does not document ends the campaign, and so do an input
of more than a second and growth over the limit; libFuzzer then writes the input to a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import shlex
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["opid_gym", "opid_gym_envs", "opid_agents"]):
    from tests.fuzzing import chosen


WORDS = sys.argv[1:]
TARGETS = list(chosen(WORDS).values())
SLOW_SECONDS = 1.0
FOLDER = Path(tempfile.mkdtemp(prefix="opid-gym-fuzz-"))


def read_one(data: bytes) -> None:
    """Read one input.

    Raises:
        Exception: an error that the reader does not document.
        TimeoutError: it takes more than a second of processor time.
    """
    if not data:
        return
    target = TARGETS[data[0] % len(TARGETS)]
    started = time.process_time()
    with contextlib.suppress(*target.refuses), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target.read(data[1:], FOLDER)
    if (seconds := time.process_time() - started) > SLOW_SECONDS:
        raise TimeoutError(f"{seconds:.1f} seconds")


def another(data: bytes, longest: int, seed: int) -> bytes:
    """Another input from one: by libFuzzer in its bytes, or as often as its target's mutations know its form."""
    rng = random.Random(seed)
    if data and rng.random() < 0.5:
        target = TARGETS[data[0] % len(TARGETS)]
        with contextlib.suppress(Exception):  # of what is no JSON any more there are no values to change
            return (data[:1] + target.mutate(data[1:], rng))[:longest]
    return bytes(atheris.Mutate(data[:longest], longest))


def main() -> None:
    """Fuzz."""
    corpora = [Path(word) for word in WORDS if not word.startswith("-")]
    for corpus in corpora[:1]:  # libFuzzer writes to the first
        corpus.mkdir(parents=True, exist_ok=True)
        for number, target in enumerate(TARGETS):
            for good in target.good:
                seed = bytes([number]) + good
                (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)
    # The fuzzer starts itself again, through a shell, to reduce a corpus.
    again = f"{shlex.quote(sys.executable)} -m benchmarks.fuzz_guided"
    atheris.Setup([again, *WORDS], read_one, custom_mutator=another)
    try:
        atheris.Fuzz()
    finally:
        shutil.rmtree(FOLDER, ignore_errors=True)


if __name__ == "__main__":
    main()
