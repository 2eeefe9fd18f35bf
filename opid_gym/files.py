"""Files that survive: replaced whole, forced to the disk, sealed with hashes, and written by one process at a time.

A process can be killed between any two system calls, and a machine can lose its power. Four rules follow:

- A file is written under another name, forced to the disk and renamed (`write_file`, `replacing`). A reader sees the
  old content or the new content, never a part of it.
- A folder is sealed before it gets its name (`seal`, `replacing_folder`): a list of its files with their sizes and
  hashes. `damage` compares the list with the folder and names what is wrong, for example a file that a power cut left
  full of zeros.
- Files that grow are forced to the disk before anything counts on what was added (`append_lines`), and so are the
  names of new folders (`make_folder`).
- One process writes to a folder (`hold`). A second one is told which process that is.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

SEAL = "sealed.json"
"""The file in which `seal` lists the other files of a folder."""

LOCK = ".lock"
_OWNER = ".owner.json"
_UNSEALED = frozenset({SEAL, LOCK, _OWNER})
_SCRATCH = ".new-"
_FORMAT = 1
# A quick look at a file reads at most _BLOCKS blocks of _BLOCK bytes, evenly spaced, the first and the last included.
_BLOCKS = 16
_BLOCK = 4096


class FolderInUse(OSError):
    """Another process writes to the folder; the message says which."""


def write_file(path: str | Path, content: str | bytes) -> None:
    """Replace the content of a file, or make it; text is written as UTF-8.

    Returns when the content is on the disk. An interruption at any time leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; the old file is still there.
    """
    with replacing(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file with any writer, and replace it when the writer has finished.

    Yields:
        An empty file beside `path`. When the block ends, it is forced to the disk and renamed to `path`; when the block
        raises, it is removed and `path` stays as it was. If the process is killed, the next writer of `path` removes
        it. What is no file, such as ``/dev/stdout``, is yielded itself.
    """
    target = Path(os.path.realpath(path))  # a link stays one
    if target.exists() and not target.is_file():
        yield target
        return
    for left in target.parent.glob(f"{_SCRATCH}*-{glob.escape(target.name)}"):
        if not _is_running(left.name.removeprefix(_SCRATCH).partition("-")[0]):
            left.unlink(missing_ok=True)
    # The suffix stays, because writers look at it.
    scratch = target.with_name(f"{_SCRATCH}{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}")
    scratch.touch(exist_ok=False)
    try:
        yield scratch
        with suppress(FileNotFoundError):
            scratch.chmod(target.stat().st_mode & 0o777)
        sync(scratch)
        scratch.replace(target)
        sync(target.parent)
    except BaseException as error:
        scratch.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk, say: name the file
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder with any writer, and give it its name when the writer has finished.

    A folder that is there already is replaced as a whole. A process that is killed at the moment of the exchange leaves
    none; that is why what cannot be made again belongs in a folder that is not replaced.

    Yields:
        An empty folder beside `path`. When the block ends, it is sealed, forced to the disk and renamed to `path`; when
        the block raises, it is removed and `path` stays as it was.
    """
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    scratch, old = (target.with_name(f"{_SCRATCH}{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}") for _ in range(2))
    scratch.mkdir()
    try:
        yield scratch
        seal(scratch)
        if target.exists():
            target.rename(old)
        scratch.rename(target)
        sync(target.parent)
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(target)) from error
        raise
    finally:
        for left in (scratch, old):
            shutil.rmtree(left, ignore_errors=True)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed processes left half-written in a folder; for the one process that holds it (`hold`)."""
    for left in Path(folder).glob(f"{_SCRATCH}*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder and those above it, where they are not there, and force their names to the disk; returns it.

    Without its name on the disk, a power cut takes a folder away with all that was forced to the disk in it.
    """
    folder = Path(os.path.realpath(path))
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in made:
        sync(place.parent)
    return Path(path)


def append_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines at the end of a file, or make it; they are on the disk when this returns.

    Half a surrogate pair, for which UTF-8 has no form, becomes its JSON escape. A kill or a power cut can leave a part
    of what is appended; whoever goes on with the file takes unfinished lines out.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    path = Path(path)
    new = not path.exists()
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: str | Path) -> None:
    """Force a file's content, or the names in a folder, to the disk."""
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:
        if os.name == "nt" and Path(path).is_dir():  # Windows opens no folders, and writes their names at once
            return
        raise
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_folder(folder: str | Path) -> None:
    """Force everything below a folder to the disk, the folder's own name included."""
    for place, _, files in os.walk(folder):
        for file in files:
            sync(Path(place, file))
        sync(place)
    sync(Path(folder).resolve().parent)


def seal(folder: str | Path, *, skip: Container[str] = ()) -> None:
    """List the files below a folder with their hashes, and force everything to the disk.

    The list is written last: a folder that has one was complete. The time is that of reading every file once.

    Args:
        folder: what to seal.
        skip: files that may change afterwards, by their paths below the folder.
    """
    folder = Path(folder)
    files = {name: _describe(folder / name) for name in _files(folder) if name not in skip}
    sync_folder(folder)
    write_file(folder / SEAL, json.dumps({"format": _FORMAT, "files": files}, indent=1) + "\n")


def damage(folder: str | Path, *, thorough: bool = False) -> str | None:
    """What is wrong with a sealed folder, in words, or None.

    Args:
        folder: a folder after `seal`.
        thorough: compare the hash of every byte. Otherwise the sizes and sixteen blocks of each file, which takes
            milliseconds for files of any size, and finds files that are missing, cut off or zeroed.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "vectors.bin").write_bytes(b"12345678")
    >>> seal(folder)
    >>> print(damage(folder))
    None
    >>> _ = (folder / "vectors.bin").write_bytes(bytes(8))
    >>> damage(folder)
    'vectors.bin has other content than when it was written'
    """
    folder = Path(folder)
    try:
        listed = json.loads((folder / SEAL).read_bytes())
        if listed["format"] != _FORMAT:
            return f"{SEAL} has format {listed['format']!r}, this version reads {_FORMAT}"
        files = {str(name): dict(known) for name, known in listed["files"].items()}
    except FileNotFoundError:
        return f"{SEAL} is missing"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{SEAL} is not a list of files"
    for name, known in files.items():
        try:
            wrong = _damage_of(folder / name, known, thorough)
        except OSError as error:
            wrong = f"cannot be read: {error.strerror}"
        if wrong is not None:
            return f"{name} {wrong}"
    return None


def _damage_of(path: Path, known: Mapping[str, Any], thorough: bool) -> str | None:
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != known.get("size"):
        return f"has {size} bytes instead of {known.get('size')}"
    if _sample(path, size) != known.get("sample") or (thorough and _hash(path) != known.get("sha256")):
        return "has other content than when it was written"
    return None


@contextmanager
def hold(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Be the one process that writes to a folder, until the block ends or the process does, however it ends.

    Unfinished files that a killed process left in the folder are removed.

    Args:
        folder: made if it is not there.
        wait: wait for another process to finish; otherwise it is an error.

    Raises:
        FolderInUse: another process holds the folder and `wait` is False.
    """
    folder = make_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise FolderInUse(
            f"{str(folder)!r} is in use by {_read_owner(folder)}: wait until it ends, or give another folder"
        ) from None
    try:
        remove_unfinished(folder)
        write_file(folder / _OWNER, json.dumps(_this_process()) + "\n")
        yield
    finally:
        with suppress(OSError):  # the folder may have been removed
            (folder / _OWNER).unlink(missing_ok=True)
        lock.release()


def _this_process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True


def _read_owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / _OWNER).read_bytes())
        return f"process {owner['pid']} on {owner['host']} ({owner['command']}, since {owner['since']})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process"  # it has just begun


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return sorted(name for name in names if name not in _UNSEALED and not name.startswith(_SCRATCH))


def _describe(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"size": size, "sample": _sample(path, size), "sha256": _hash(path)}


def _sample(path: Path, size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        if size <= _BLOCKS * _BLOCK:
            digest.update(file.read())
        else:
            for number in range(_BLOCKS):
                file.seek(number * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()[:16]


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
