"""Other processes, for what has to be the same in each."""

from __future__ import annotations

import os
import subprocess
import sys


def printed(code: str, hash_seed: str) -> str:
    """What a fresh interpreter, in which texts hash by this seed, prints when it runs `code`."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()
