"""Where official data sets lie on this machine."""

from __future__ import annotations

import os
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
