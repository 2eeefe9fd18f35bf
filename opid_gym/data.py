"""Where official data sets lie on this machine, and where what was built from data is kept."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from opid_gym.files import SEAL, damage, make_folder, seal, sync


def data_home(variable: str, data_dir: str | Path | None = None) -> Path | None:
    """The folder of a benchmark's official data, or None if the user has none.

    Args:
        variable: environment variable the original benchmark uses for it, e.g. ``ALFWORLD_DATA``.
        data_dir: the folder, given explicitly; goes before the variable.

    Raises:
        FileNotFoundError: a folder was named and is not there; the message says who named it.
    """
    named, who = (data_dir, "data_dir") if data_dir is not None else (os.environ.get(variable), f"${variable}")
    if not named:
        return None
    folder = Path(os.path.expandvars(named)).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"{who}={str(named)!r} is not a folder")
    return folder


def cache_home() -> Path:
    """The folder for what this package builds and can build again: ``$OPID_GYM_CACHE``, or ``~/.cache/opid-gym``."""
    named = os.environ.get("OPID_GYM_CACHE")
    if named:
        return Path(os.path.expandvars(named)).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "opid-gym"


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Build a folder unless it is there already.

    The folder is complete or not there at all: it is filled under another name, sealed (see `opid_gym.files`) and
    renamed. A file lock beside it lets one process build while others wait. What a killed process left behind is built
    anew, and so is a folder that was damaged since, with a warning that names the damage.

    Args:
        folder: the folder's path. Its name must change with its content: an existing folder is taken as it is.
        build: fills an empty folder; called only if `folder` is not there or damaged.

    Returns:
        `folder`.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "greeting-1"
    >>> for _ in range(2):
    ...     _ = build_once(place, lambda folder: print((folder / "text").write_text("hello")))
    5
    >>> (place / "text").read_text()
    'hello'
    """
    if _is_whole(folder):
        return folder
    make_folder(folder.parent)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if _is_whole(folder):  # another process was first
            return folder
        scratch, old = (folder.parent / f".{folder.name}.{state}" for state in ("building", "old"))
        for left in (scratch, old):
            shutil.rmtree(left, ignore_errors=True)
        scratch.mkdir()
        try:
            build(scratch)
            seal(scratch)
            if folder.is_dir():
                if (folder / SEAL).exists():  # otherwise an earlier version built it
                    warnings.warn(f"{folder} was built again: {damage(folder)}", stacklevel=2)
                folder.rename(old)
            scratch.rename(folder)
            sync(folder.parent)
        finally:
            for left in (scratch, old):
                shutil.rmtree(left, ignore_errors=True)
    return folder


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and damage(folder) is None
