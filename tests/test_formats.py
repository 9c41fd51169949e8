"""Every output format with the real command: nothing else on standard output, and the same exit status in each."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import bnlint

from bnlint.options import FORMATS

FAULTY = """\
import os, subprocess, sys
print("printed at import")
os.write(1, b"written to descriptor 1\\n")
sys.__stdout__.write("written to the first stdout\\n"); sys.__stdout__.flush()
from torch import nn
class Net(nn.Sequential):
    def forward(self, x):
        print("printed in the forward")
        return super().forward(x)
model = Net(nn.BatchNorm2d(8, momentum=0.9))
"""


def _lines(text: str) -> list[str]:
    return text.split("\n")[:-1]


def _json_lines(text: str) -> object:
    return [json.loads(line) for line in _lines(text)]


def _github(text: str) -> object:
    lines = _lines(text)
    assert all(re.match(r"::(error|warning|notice) ", line) for line in lines)
    return lines


def _concise(text: str) -> object:
    lines = _lines(text)
    assert all(re.match(r"\S+: BN\d+ \[\w+\] ", line) for line in lines)
    return lines


def _junit(text: str) -> object:
    return list(ElementTree.parse(io.StringIO(text)).iter("failure"))


PARSERS: dict[str, Callable[[str], object]] = {
    "concise": _concise,
    "json": lambda text: json.loads(text)["diagnostics"],
    "json-lines": _json_lines,
    "github": _github,
    "gitlab": json.loads,
    "junit": _junit,
    "sarif": lambda text: json.loads(text)["runs"][0]["results"],
    "rdjson": lambda text: json.loads(text)["diagnostics"],
}
PRINTED = ("printed at import", "written to", "printed in the forward")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    tmp_path.joinpath("faulty.py").write_text(FAULTY)
    tmp_path.joinpath("clean.py").write_text(FAULTY.replace("momentum=0.9", ""))
    return tmp_path


@pytest.mark.parametrize("output_format", FORMATS)
def test_exit_status_and_standard_output(output_format: str, project: Path) -> None:
    """Two runs for each format: one with a finding of a model that prints, one in which the request itself is wrong."""
    found = bnlint("check", "faulty.py", "--select", "BN201", "--output-format", output_format, cwd=project)
    wrong = bnlint("check", "faulty.py", "--select", "BN999", "--output-format", output_format, cwd=project)

    assert (found.status, wrong.status) == (1, 2), found.err
    assert "BN201" in found.out and not any(text in found.out for text in PRINTED)
    assert wrong.out == "" and "BN999" in wrong.err
    if output_format in PARSERS:
        assert PARSERS[output_format](found.out)


@pytest.mark.parametrize("output_format", FORMATS)
def test_a_clean_run_and_every_format_at_once(output_format: str, project: Path) -> None:
    """A clean run has status 0 in every format, and with `--exit-zero` a faulty one too; files hold the same texts."""
    beside = ("--sarif-output", "o.sarif", "--json-output", "o.json", "--html-output", "o.html")
    flags = ("--output-format", output_format, "--select", "BN201", *beside)

    clean = bnlint("check", "clean.py", *flags, cwd=project)

    assert clean.status == 0, clean.err
    assert not any(text in clean.out for text in PRINTED)
    assert json.loads(project.joinpath("o.json").read_text())["diagnostics"] == []
    assert json.loads(project.joinpath("o.sarif").read_text())["runs"][0]["results"] == []
    assert project.joinpath("o.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    if output_format in PARSERS:
        assert not PARSERS[output_format](clean.out)


def test_every_format_has_a_parser_or_is_for_people() -> None:
    assert set(FORMATS) - set(PARSERS) == {"full", "markdown"}
