"""Atomic writing: a file is old or new, its permissions and links stay, and nothing is left behind."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bnlint.atomic import TEMPORARY_NAME, write_all_atomically, write_atomically

KILLS = 30
WRITER = """
import sys
from pathlib import Path
from bnlint.atomic import write_atomically

contents = [letter.encode() * 2_000_000 for letter in "ab"]
print("ready", flush=True)
while True:
    for content in contents:
        write_atomically(Path(sys.argv[1]), content)
"""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_written_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    for content in (b"old", b"", b"new"):
        write_atomically(file, content)
        assert file.read_bytes() == content
    assert names(tmp_path) == {"model.py"}


def test_a_new_file_has_the_permissions_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_atomically(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_permissions_are_kept_and_the_time_is_new(tmp_path: Path) -> None:
    file = tmp_path / "train.py"
    file.touch()
    file.chmod(0o751)
    os.utime(file, (1, 1))
    write_atomically(file, b"")
    assert stat.S_IMODE(file.stat().st_mode) == 0o751
    assert time.time() - file.stat().st_mtime < 60


def test_a_link_stays_and_the_file_that_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    real, link = tmp_path / "shared" / "model.py", tmp_path / "model.py"
    real.write_bytes(b"old")
    link.symlink_to(Path("shared/model.py"))
    write_atomically(link, b"new")
    assert (link.is_symlink(), real.read_bytes()) == (True, b"new")


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        write_atomically(pipe, b"text")
        assert reader.communicate(timeout=30)[0] == b"text"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_refusal_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.py"
    file.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "model.py", b"new")
    with pytest.raises(TypeError):
        write_atomically(file, "text")  # type: ignore[arg-type]  # as good as a disk that fills up while it writes
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to anything
    with pytest.raises(PermissionError, match=r"model\.py"):
        write_atomically(file, b"new")
    assert (names(tmp_path), file.read_bytes()) == ({"model.py"}, b"old")


def test_none_of_several_files_is_replaced_when_one_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        write_all_atomically({file: b"new", tmp_path / "missing" / "layers.py": b"new"})
    assert (names(tmp_path), file.read_bytes()) == ({"model.py"}, b"old")
    write_all_atomically({file: b"new", tmp_path / "layers.py": b"new"})
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"new", b"new"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
def test_a_killed_writer_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    file = tmp_path / ("long_" * 49 + ".py")  # 248 characters: there is no room for a longer name
    left: set[str] = set()
    for number in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.002 * number)
            writer.kill()
        content = file.read_bytes() if file.exists() else b"a" * 2_000_000
        assert content in (b"a" * 2_000_000, b"b" * 2_000_000)
        left |= names(tmp_path) - {file.name}
    assert left, "no kill came while a file was being written"
    assert all(TEMPORARY_NAME.fullmatch(name) for name in left)
