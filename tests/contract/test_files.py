"""Files that are whole or not there, sealed folders, and folders that one process holds."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opid_gym.files import FolderInUse, damage, hold, replacing, replacing_folder, seal, write_file


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_file(path, "old")

    def write() -> None:
        with replacing(path) as scratch:
            scratch.write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["notes.json"]


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    write_file(path, "old")

    def write() -> None:
        with replacing(path), open("/dev/full", "w") as full:
            full.write("new")

    with pytest.raises(OSError, match=rf"No space left on device: '{re.escape(str(path))}'"):
        write()
    assert path.read_text() == "old"


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    write_file("/dev/null", "new")
    assert not Path("/dev/null").is_file()


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.write_text("")
    write_file(tmp_path / "new", "text")
    assert (tmp_path / "new").stat().st_mode == usual.stat().st_mode
    usual.chmod(0o600)
    write_file(usual, "text")
    assert usual.stat().st_mode & 0o777 == 0o600


def test_a_process_killed_at_any_write_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    """Killed at every file-system event of the writer, one after the other."""
    path = tmp_path / "notes.json"
    code = f"""
import os, signal, sys
from opid_gym.files import write_file
left = int(sys.argv[1])
def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.chmod", "os.remove") and {str(tmp_path)!r} in str(arguments[0]):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
write_file({str(path)!r}, "new " * 1000)
"""
    old, new = "old " * 500, "new " * 1000
    seen = []
    for kills in range(20):
        path.write_text(old)
        done = subprocess.run([sys.executable, "-c", code, str(kills)], env=environment())
        assert path.read_text() in (old, new)
        seen.append(path.read_text() == new)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert seen[0] is False
    assert seen[-1] is True
    assert len(seen) >= 4


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda path: path.unlink(), "inner/large.bin is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "inner/large.bin has 499999 bytes instead of 500000"),
        (lambda path: path.write_bytes(bytes(500_000)), "inner/large.bin has other content"),
        (lambda path: path.write_bytes(path.read_bytes()[:400_000] + bytes(100_000)), "other content"),
    ],
)
def test_a_sealed_folder_names_what_was_harmed(tmp_path: Path, harm: object, said: str) -> None:
    large = tmp_path / "inner" / "large.bin"
    large.parent.mkdir()
    large.write_bytes(bytes(range(1, 251)) * 2000)
    (tmp_path / "empty").touch()
    assert damage(tmp_path) == "sealed.json is missing"
    seal(tmp_path)
    assert damage(tmp_path) is None
    assert damage(tmp_path, thorough=True) is None
    harm(large)  # type: ignore[operator]
    assert said in str(damage(tmp_path))


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as scratch:
        (scratch / "old.txt").write_text("old")

    def write() -> None:
        with replacing_folder(folder) as scratch:
            (scratch / "new.txt").write_text("half of the n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert damage(folder) is None
    assert sorted(os.listdir(folder)) == ["old.txt", "sealed.json"]
    with replacing_folder(folder) as scratch:
        (scratch / "new.txt").write_text("new")
    assert damage(folder) is None
    assert sorted(os.listdir(folder)) == ["new.txt", "sealed.json"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_changed_byte_is_found_by_a_thorough_look(tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(1_000_000))
    seal(tmp_path)
    with open(large, "r+b") as file:
        file.seek(10_000)
        file.write(b"x")
    assert damage(tmp_path) is None
    assert "large.bin has other content" in str(damage(tmp_path, thorough=True))


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\0\0", b"[" * 100_000, b"[]", b'{"format": 9}', b'{"format": 1}', b"\xff"]
)
def test_a_torn_seal_is_damage_and_no_crash(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sealed.json").write_bytes(content)
    assert str(damage(tmp_path)).startswith("sealed.json ")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def test_the_second_process_is_told_who_holds_the_folder_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code = f"""
from opid_gym.files import hold
with hold({str(folder)!r}):
    print("held", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(FolderInUse, match=rf"'{folder}' is in use by process {holder.pid} on .*since"),
            hold(folder),
        ):
            pass
        holder.kill()
    (folder / ".new-notes-12.json").write_text("half of the n")  # as a killed process leaves it
    (folder / ".new-12-model").mkdir()
    (folder / ".new-12-model" / "config.json").write_text("{}")
    with hold(folder), pytest.raises(FolderInUse, match=f"process {os.getpid()} "), hold(folder):
        pass
    with hold(folder):
        assert not list(folder.glob(".new-*"))
