"""Paths as a platform counts them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.report.repository import repository_path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    (root / "package" / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    return root


def test_a_path_counts_from_the_root_wherever_bnlint_runs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    assert repository_path("package/model.py") == "package/model.py"
    monkeypatch.chdir(repository / "package" / "deep")
    assert repository_path("model.py") == "package/deep/model.py"
    assert repository_path("../model.py") == "package/model.py"
    assert repository_path(str(repository / "model.py")) == "model.py"


def test_a_worktree_whose_git_is_a_file_is_a_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / ".git").rmdir()
    (repository / ".git").write_text("gitdir: elsewhere\n", encoding="utf-8")
    monkeypatch.chdir(repository / "package")
    assert repository_path("model.py") == "package/model.py"


def test_without_a_repository_a_path_counts_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    monkeypatch.chdir(tmp_path / "plain")
    assert repository_path("sub/model.py") == "sub/model.py"


def test_a_file_outside_keeps_its_whole_path(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    outside = (repository.parent / "other.py").resolve().as_posix()
    assert repository_path(outside) == outside


def test_a_linked_file_is_the_link_and_a_linked_root_is_the_root(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "link.py").symlink_to(repository.parent / "other.py")
    (repository.parent / "alias").symlink_to(repository)
    monkeypatch.chdir(repository)
    assert repository_path("link.py") == "link.py"
    assert repository_path(str(repository.parent / "alias" / "model.py")) == "model.py"
