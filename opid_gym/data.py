"""Where official data sets lie on this machine, and where what was built from data is kept."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


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
    """A folder that is there completely or not at all, whoever else builds it meanwhile.

    Args:
        folder: where it shall be. Its name must change with what is in it: an existing folder is taken as it is.
        build: fills an empty folder; called only if `folder` is not there.

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
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        scratch.chmod(0o755)
        build(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its folder is as good
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
