"""A model's folder in parts of limited size, for where large files cannot go; joined again, it is the same folder.

python benchmarks/weight_parts.py split models/smollm2 parts     # 50 MiB each, with hashes in parts.json
python benchmarks/weight_parts.py join parts models/smollm2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

_MANIFEST = "parts.json"
_CHUNK = 50 * 2**20


def main() -> None:
    """Split or join a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("split", "join"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--mib", type=int, default=_CHUNK // 2**20, help="maximum size of a part")
    arguments = parser.parse_args()
    if arguments.what == "split":
        split(arguments.source, arguments.target, arguments.mib * 2**20)
    else:
        join(arguments.source, arguments.target)


def split(source: Path, target: Path, size: int = _CHUNK) -> None:
    """Write the files of a folder as parts of at most `size` bytes, and a list of the files with their hashes.

    Raises:
        FileExistsError: there is something in `target` already.
    """
    target.mkdir(parents=True)
    files = {}
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        content = file.read_bytes()
        names = [f"{file.name}.{place:03d}" for place in range(max(1, -(-len(content) // size)))]
        for place, name in enumerate(names):
            (target / name).write_bytes(content[place * size : (place + 1) * size])
        files[file.name] = {"parts": names, "sha256": hashlib.sha256(content).hexdigest()}
    (target / _MANIFEST).write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")


def join(source: Path, target: Path) -> Path:
    """Write the folder that `split` was given.

    Returns:
        `target`.

    Raises:
        ValueError: a file is not what it was.
        FileNotFoundError: a part is missing.
    """
    files = json.loads((source / _MANIFEST).read_text(encoding="utf-8"))
    target.mkdir(parents=True, exist_ok=True)
    for name, entry in files.items():
        with (target / name).open("wb") as whole:
            for part in entry["parts"]:
                with (source / part).open("rb") as piece:
                    shutil.copyfileobj(piece, whole)
        if hashlib.sha256((target / name).read_bytes()).hexdigest() != entry["sha256"]:
            raise ValueError(f"{name}, joined from the parts in {str(source)!r}, is not the file that was split")
    return target


if __name__ == "__main__":
    main()
