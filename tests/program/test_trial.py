"""A program followed once more with edits applied: where its places are then, and what it does."""

from __future__ import annotations

from pathlib import Path

from bnlint.diagnostic import Edit, Span
from bnlint.program import events
from bnlint.program.program import Program
from bnlint.program.trial import Trial
from bnlint.source.file import SourceFile, display_path

TEXT = """\
import torch
from torch import nn

größe = 8; model = nn.BatchNorm1d(8)
with torch.no_grad():
    y = model(torch.randn(4, 8)); print(y)
"""


def follow(path: Path) -> Program:
    return Program.of(SourceFile.read(path), SourceFile.read)


def test_places_move_with_the_text(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(TEXT, encoding="utf-8")
    program, shown = follow(path), display_path(path)
    call = program.forwards[0].where.span
    edits = [
        Edit(shown, (5, 1), (5, 1), "model.eval()\n"),
        Edit(shown, (6, 5), (6, 5), "pass; "),
        Edit(shown, (6, call.end_column), (6, call.end_column), "  # behind"),
    ]
    trial = Trial.of(program, edits[:2], SourceFile.read)
    assert trial is not None
    moved = trial.moved(call)
    assert moved == trial.program.forwards[0].where.span
    assert (moved.line, moved.column, moved.end_column) == (7, call.column + 6, call.end_column + 6)
    assert trial.moved(Span(shown, 4, 12, 4, 17)) == Span(shown, 4, 12, 4, 17)
    assert trial.moved(Span("other.py", 9, 1, 9, 4)) == Span("other.py", 9, 1, 9, 4)


def test_the_edited_program_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(TEXT, encoding="utf-8")
    program, shown = follow(path), display_path(path)
    assert program.forwards[0].mode.training is True
    trial = Trial.of(program, [Edit(shown, (5, 1), (5, 1), "model.eval()\n")], SourceFile.read)
    assert trial is not None
    assert trial.program.forwards[0].mode.training is False
    assert path.read_text(encoding="utf-8") == TEXT


def test_a_file_that_the_script_imports_is_edited(tmp_path: Path) -> None:
    (tmp_path / "helpers.py").write_text("def prepare(model):\n    pass\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from helpers import prepare\nfrom torch import nn\nmodel = nn.Dropout()\nprepare(model)\nmodel(1)\n"
    )
    program = follow(script)
    edit = Edit(display_path(tmp_path / "helpers.py"), (2, 5), (2, 9), "model.eval()")
    trial = Trial.of(program, [edit], SourceFile.read)
    assert trial is not None
    assert [event.mode.training for event in trial.program.of_kind(events.ModeChange)] == [False]


def test_what_is_no_python_is_no_trial(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(TEXT, encoding="utf-8")
    assert Trial.of(follow(path), [Edit(display_path(path), (5, 1), (5, 5), "")], SourceFile.read) is None
