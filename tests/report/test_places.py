"""Places: paths as the repository counts them, and a file for every finding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reports import finding

from bnlint.diagnostic import Span
from bnlint.report.places import FILE_SYSTEM, PACKAGES, REPOSITORY, File, file_at, file_of, span_of, visible


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder is `training` in a repository."""
    working = tmp_path / "repository" / "training"
    working.mkdir(parents=True)
    (tmp_path / "repository" / ".git").mkdir()
    monkeypatch.chdir(working)
    return working.parent


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("model.py", File("training/model.py"), id="below the working folder"),
        pytest.param("./a/../model.py", File("training/model.py"), id="written in a roundabout way"),
        pytest.param("../model.py", File("model.py"), id="above the working folder"),
        pytest.param(
            "/usr/lib/python3.11/site-packages/timm/models/resnet.py",
            File("timm/models/resnet.py", PACKAGES),
            id="an installed package has the same name on every machine",
        ),
        pytest.param(
            "/usr/lib/python3/dist-packages/torch/nn.py", File("torch/nn.py", PACKAGES), id="one of a distribution"
        ),
        pytest.param("/elsewhere/model.py", File("elsewhere/model.py", FILE_SYSTEM), id="outside of the repository"),
    ],
)
def test_a_path_and_what_it_is_relative_to(path: str, expected: File) -> None:
    assert file_at(path) == expected


def test_an_absolute_path_in_the_repository_is_below_it(repository: Path) -> None:
    assert file_at(str(repository / "model.py")) == File("model.py")


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        pytest.param("a b.py", "a%20b.py", id="space"),
        pytest.param("50%20.py", "50%2520.py", id="percent"),
        pytest.param("a#b?.py", "a%23b%3F.py", id="fragment and query"),
        pytest.param("a:b.py", "a%3Ab.py", id="a colon would begin a scheme"),
        pytest.param("größe/模.py", "gr%C3%B6%C3%9Fe/%E6%A8%A1.py", id="no ASCII"),
        pytest.param("a+b(1)@.py", "a+b(1)@.py", id="what may stay"),
        pytest.param("lone\ud83d.py", "lone%ED%A0%BD.py", id="half a surrogate pair"),
    ],
)
def test_a_path_as_a_uri(path: str, uri: str) -> None:
    assert File(path).uri == uri


def test_a_path_as_text_keeps_its_spelling_and_loses_what_no_text_holds() -> None:
    assert File("no\xa0break/\x1bmodel\udcff.py").text == "no\xa0break/\\x1bmodel\\udcff.py"


@pytest.mark.parametrize(
    ("changes", "path", "base"),
    [
        pytest.param({}, "training/model.py", REPOSITORY, id="the file of its target"),
        pytest.param({"target": "cfg/train.yaml"}, "training/cfg/train.yaml", REPOSITORY, id="a training file"),
        pytest.param({"target": "timm.models:resnet18"}, "timm.models:resnet18", REPOSITORY, id="an object's name"),
        pytest.param(
            {"data": {"source": "cfg/train.yaml:12"}}, "training/cfg/train.yaml", REPOSITORY, id="a stated fact"
        ),
        pytest.param({"data": {"source": "--batch-size"}}, "training/model.py", REPOSITORY, id="a flag has no file"),
        pytest.param(
            {"data": {"source": "default of torchpack"}}, "training/model.py", REPOSITORY, id="nor has a default"
        ),
        pytest.param({"target": ""}, ".", REPOSITORY, id="nothing is known"),
    ],
)
def test_a_finding_without_a_line_has_a_file(changes: dict[str, Any], path: str, base: str) -> None:
    assert file_of(finding(location=None, **changes)) == File(path, base)


def test_a_stated_fact_has_its_line() -> None:
    assert span_of(finding(location=None, data={"source": "train.yaml:12"})) == Span("train.yaml", 12)
    assert span_of(finding(location=Span("m.py", 3), data={"source": "train.yaml:12"})) == Span("m.py", 3)


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        pytest.param(Span("m.py", 2), (2, 5, 2, 10), id="a line from its first word to its end"),
        pytest.param(Span("m.py", 2, 5, 2, 6), (2, 5, 2, 6), id="columns that are known"),
        pytest.param(Span("m.py", 1), (1, 1, 1, 1), id="an empty line"),
        pytest.param(Span("m.py", 9), (9, 1, 9, 1), id="past the end of the file"),
    ],
)
def test_a_line_without_columns_is_shown_as_a_whole(span: Span, expected: tuple[int, ...]) -> None:
    shown = visible(span, ["", "    x = 1  "])
    assert (shown.line, shown.column, shown.end_line, shown.end_column) == expected
