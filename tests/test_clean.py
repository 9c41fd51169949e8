"""`bnlint clean` removes what bnlint has left behind, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bnlint.cli import main
from bnlint.commands import clean

LEFT = ".model.py.bnlint-0123456789abcdef.tmp"
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is a cache of {}.\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clean, "SECONDS", 0.0)  # nobody can set the time at which a file was changed
    return tmp_path


def cache(folder: Path, owner: str = "bnlint") -> Path:
    made = folder / ".bnlint_cache"
    made.mkdir(parents=True)
    (made / f"{'ab' * 16}.json").write_text("{}")
    (made / "CACHEDIR.TAG").write_text(TAG.format(owner))
    return made


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_what_killed_runs_left_is_removed_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (f"deep/down/{LEFT}", LEFT, "model.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    cache(folder)
    cache(folder / "deep")
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == (
        f"Removed .bnlint_cache\nRemoved {LEFT}\nRemoved deep/.bnlint_cache\nRemoved deep/down/{LEFT}\n"
    )
    assert files(folder) == {"model.py"}
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "Nothing to remove\n"


SPARED = (
    ".model.py.bnlint-0123456789ABCDEF.tmp",
    ".model.py.bnlint-0123456789abcdef.tmp.py",
    "model.py.bnlint-0123456789abcdef.tmp",
    ".model.py.tmp",
    f".venv/{LEFT}",
    f"env/{LEFT}",
    f"node_modules/{LEFT}",
    "cache/CACHEDIR.TAG",
)


def test_nothing_else_is_touched(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (*SPARED, "env/pyvenv.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TAG.format("bnlint"))
    outside = folder.parent / "outside"
    cache(outside)
    (folder / "linked").symlink_to(outside)
    (folder / ".bnlint_cache").symlink_to(outside / ".bnlint_cache")
    (folder / LEFT).symlink_to(folder / "env/pyvenv.cfg")
    (folder / "pipes").mkdir()
    os.mkfifo(folder / "pipes" / LEFT)
    before = files(folder), files(outside)
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "Nothing to remove\n"
    assert (files(folder), files(outside)) == before


@pytest.mark.parametrize("tag", [None, "", TAG.format("another program"), "a cache of bnlint"])
def test_a_folder_of_that_name_without_the_tag_is_not_removed(
    folder: Path, tag: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    made = cache(folder)
    (made / "CACHEDIR.TAG").unlink()
    if tag is not None:
        (made / "CACHEDIR.TAG").write_text(tag)
    assert main(["clean"]) == 0
    assert (made / f"{'ab' * 16}.json").is_file()
    assert capsys.readouterr().err == ("note: left .bnlint_cache: no CACHEDIR.TAG in it says that bnlint made it\n")


def test_a_file_that_may_still_be_written_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(clean, "SECONDS", 60.0)
    (folder / LEFT).touch()
    os.utime(folder / LEFT, (1, 1))  # as it is for a moment, before the content is written
    assert main(["clean"]) == 0
    assert (folder / LEFT).exists()
    assert "less than a minute old" in capsys.readouterr().err


def test_named_folders_are_cleaned_and_no_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept, own = cache(folder), cache(folder / "elsewhere")
    assert main(["clean", "elsewhere", str(own)]) == 0
    assert (kept.exists(), own.exists()) == (True, False)
    own = cache(folder / "again")
    assert main(["clean", str(own)]) == 0, "a cache may be named itself"
    assert not own.exists()
    assert main(["clean", "missing"]) == 2
    assert "missing is no folder" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_be_removed_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "closed").mkdir()
    (folder / "closed" / LEFT).touch()
    (folder / "closed").chmod(0o500)
    assert main(["clean"]) == 2
    (folder / "closed").chmod(0o700)
    assert f"cannot remove closed/{LEFT}" in capsys.readouterr().err


def test_what_somebody_else_has_put_into_a_cache_stays(folder: Path) -> None:
    own = cache(folder)
    (own / "notes.csv").touch()
    assert main(["clean"]) == 0
    assert files(folder) == {".bnlint_cache/notes.csv"}
