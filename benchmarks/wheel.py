"""Builds wheel and sdist twice, compares them, and plays with the wheel in empty environments.

    python -m benchmarks.wheel --python python3.11 --python python3.12 --sbom sbom.json --json

Installs from the package index that pip is set up with. Ends with 1 if the two builds differ, or if an interpreter
cannot install the wheel without extras, import it, and play a game of each world that needs none. The bill of materials
(CycloneDX 1.6) lists what a plain installation brings, with versions and licences, as it lies in the first
interpreter's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.copies import ROOT

PLAY = """
import gymnasium as gym, opid_gym
for name in ("opid/ALFWorld-v0", "opid/WebShop-v0", "opid/SearchQA-v0"):
    env = gym.make(name)
    _, info = env.reset(seed=0)
    env.step((info["admissible_actions"] or ["search[red]"])[0])
    env.close()
print(opid_gym.__version__)
"""


def build(folder: Path) -> dict[str, str]:
    """Build both into a folder, with `build` in an environment of its own; returns names and hashes."""
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    run(str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "build")
    run(str(folder / "venv/bin/python"), "-m", "build", "--outdir", str(folder / "dist"), str(ROOT))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "dist").iterdir())}


def smoke(python: str, wheel: Path, folder: Path) -> str:
    """Install a wheel for an interpreter and play; returns what went wrong, or ``"plays"``."""
    try:
        run(python, "-m", "venv", str(folder / "venv"))
        mine = str(folder / "venv/bin/python")
        run(mine, "-m", "pip", "install", "--quiet", str(wheel))
        run(mine, "-I", "-c", PLAY, cwd=folder)
    except (subprocess.CalledProcessError, OSError) as error:
        return str(getattr(error, "stderr", None) or error)[-500:]
    return "plays"


def write_sbom(file: Path, folder: Path, venv: Path) -> None:
    """Write the bill of materials of an environment, by `cyclonedx-bom` in another one."""
    run(sys.executable, "-m", "venv", str(folder / "venv"))
    run(str(folder / "venv/bin/python"), "-m", "pip", "install", "--quiet", "cyclonedx-bom")
    made = folder / "sbom.json"
    words = ("environment", "--output-reproducible", "--short-PURLs", "--output-file", str(made), str(venv))
    run(str(folder / "venv/bin/cyclonedx-py"), *words)
    materials = json.loads(made.read_text(encoding="utf-8"))
    for component in materials["components"]:  # where the wheel lay is no part of what it is
        places = component.get("externalReferences", [])
        component["externalReferences"] = [place for place in places if not place["url"].startswith("file:")]
    file.write_text(json.dumps(materials, indent=1) + "\n", encoding="utf-8")


def run(*command: str, cwd: Path | None = None) -> None:
    """Run a command; what it says is kept for its error."""
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd)


def main() -> None:
    """Build, compare, play."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", action="append", default=[], help="an interpreter to play with; may be repeated")
    parser.add_argument("--sbom", type=Path, help="file for the bill of materials of a plain installation")
    parser.add_argument("--json", action="store_true", help="one line of JSON in the end")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opid-gym-wheel-") as name:
        folders = [Path(name) / place for place in ("first", "second")]
        for folder in folders:
            folder.mkdir()
        first, second = map(build, folders)
        [wheel] = (folders[0] / "dist").glob("*.whl")
        played = {}
        for number, python in enumerate(arguments.python or [sys.executable]):
            (folder := Path(name) / str(number)).mkdir()
            played[python] = smoke(python, wheel, folder)
            print(f"{python}: {played[python]}", file=sys.stderr)
        if arguments.sbom:
            (folder := Path(name) / "sbom").mkdir()
            write_sbom(arguments.sbom.resolve(), folder, Path(name) / "0" / "venv")
    said = {"equal": first == second, "hashes": first, "played": played}
    print(json.dumps(said) if arguments.json else said)
    sys.exit(not said["equal"] or any(outcome != "plays" for outcome in played.values()))


if __name__ == "__main__":
    main()
