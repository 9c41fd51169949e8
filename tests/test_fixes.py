"""The engine of `--fix`: which edits a pass makes, what it refuses, and when a fix counts."""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from bnlint.commands.fixing import PASSES, Check, Fixed, fix, roots_of, save, show, wanted
from bnlint.diagnostic import Applicability, Diagnostic, Edit, Fix, Severity, Span
from bnlint.errors import UsageError
from bnlint.fixes import Applied, File, apply_fixes, is_wanted
from bnlint.report.report import Report, TargetResult
from bnlint.session import Outcome, Problem

LINES = "a = 1\nb = 2\nc = 3\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("m.py").write_text(LINES)
    return tmp_path


def edit(line: int, text: str, *, begin: int = 5, end: int = 6, path: str = "m.py") -> Edit:
    return Edit(path, (line, begin), (line, end), text)


def finding(
    *edits: Edit,
    code: str = "BN1",
    line: int = 1,
    module: str | None = None,
    safe: bool = False,
    severity: Severity = Severity.ERROR,
) -> Diagnostic:
    kind = Applicability.SAFE if safe else Applicability.UNSAFE
    fixed = Fix("Do it", kind, edits) if edits else Fix("Think about it")
    place = Span(edits[0].path if edits else "m.py", line)
    return Diagnostic(code, code.lower(), severity, "wrong", "m.py:Net", module, place, fix=fixed)


def apply(*findings: Diagnostic, most: int | None = None, roots: tuple[Path, ...] | None = None) -> Applied:
    return apply_fixes(findings, {}, roots or (Path.cwd(),), most)


# One pass --------------------------------------------------------------------------------------------------


def test_safe_fixes_alone_unless_unsafe_ones_are_wanted_too() -> None:
    safe, unsafe, advice = finding(edit(1, "9"), safe=True), finding(edit(1, "9")), finding()

    assert [is_wanted(item, unsafe=False) for item in (safe, unsafe, advice)] == [True, False, False]
    assert [is_wanted(item, unsafe=True) for item in (safe, unsafe, advice)] == [True, True, False]


def test_the_same_edit_of_several_findings_is_made_once() -> None:
    """A helper line that builds ten layers has ten findings and one argument."""
    applied = apply(finding(edit(2, "9"), module="x"), finding(edit(2, "9"), module="y"))

    assert applied.files["m.py"].text == "a = 1\nb = 9\nc = 3\n"
    assert [item.module for item in applied.findings] == ["x", "y"]


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(edit(2, "8"), id="another text at the same place"),
        pytest.param(edit(2, "8", begin=1, end=6), id="around it"),
        pytest.param(edit(2, "8", begin=5, end=5), id="an insertion before it"),
    ],
)
def test_what_overlaps_waits_for_the_next_pass(second: Edit) -> None:
    applied = apply(finding(edit(2, "9")), finding(second), finding(edit(3, "7")))

    assert applied.files["m.py"].text == "a = 1\nb = 9\nc = 7\n"
    assert len(applied.findings) == 2 and applied.refused == ()


def test_edits_side_by_side_do_not_overlap() -> None:
    applied = apply(finding(edit(1, "x", begin=1, end=2)), finding(edit(1, "y", begin=2, end=3)))

    assert applied.files["m.py"].text.startswith("xy= 1")


def test_a_fix_is_applied_whole_or_not_at_all(folder: Path) -> None:
    folder.joinpath("n.py").write_text("d = 4\n")
    both = finding(edit(1, "9"), edit(1, "(", path="n.py"))

    applied = apply(both, finding(edit(3, "7")))

    assert applied.files.keys() == {"m.py"} and applied.files["m.py"].text == "a = 1\nb = 2\nc = 7\n"
    ((refused, reason),) = applied.refused
    assert refused is both and reason.startswith("the edited text is not Python")


@pytest.mark.parametrize(
    ("name", "content", "new", "reason"),
    [
        pytest.param(
            "m.py", b"# coding: latin-1\nb = 2\n", "'\u4e8c'", "which has no '\u4e8c'", id="not in the encoding"
        ),
        pytest.param("m.py", b"# coding: wrong\nb = 2\n", "3", "unknown encoding", id="unknown encoding"),
        pytest.param("m.py", b"x = 1\nb = \xff\n", "3", "cannot be read", id="no text"),
        pytest.param("t.yaml", b"a: 1\nb : 2\n", "{", "is not YAML", id="no YAML after it"),
        pytest.param("t.json", b'{"a": 1,\n"b":2}\n', "", "is not JSON", id="no JSON after it"),
        pytest.param("gone.py", None, "3", "cannot be read", id="gone"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused_with_its_reason(
    folder: Path, name: str, content: bytes | None, new: str, reason: str
) -> None:
    if content is not None:
        folder.joinpath(name).write_bytes(content)

    applied = apply(finding(edit(2, new, path=name)))

    assert applied.findings == () and applied.files == {}
    assert reason in applied.refused[0][1]


def test_byte_order_marks_line_ends_and_encodings_survive(folder: Path) -> None:
    kept = {
        "bom.py": b"\xef\xbb\xbf# \xc3\xa4\r\nb = 2\r\n",
        "latin.py": b"# coding: latin-1\nb = 2 # \xe4\n",
        "t.yaml": b"\xef\xbb\xbfa: \xc3\xa4 # \xc3\xb6\r\nb:  2\r\n",
    }
    for name, content in kept.items():
        folder.joinpath(name).write_bytes(content)

    applied = apply(*(finding(edit(2, "9", path=name)) for name in kept))

    assert {name: file.data for name, file in applied.files.items()} == {
        name: content.replace(b"2", b"9") if name != "latin.py" else b"# coding: latin-1\nb = 9 # \xe4\n"
        for name, content in kept.items()
    }


def test_files_of_others_are_left_alone(folder: Path) -> None:
    package = folder / "venv" / "lib" / "site-packages" / "timm"
    package.mkdir(parents=True)
    package.joinpath("m.py").write_text(LINES)
    other = folder.parent / "other.py"
    other.write_text(LINES)
    installed = Path(sysconfig.get_path("stdlib"), "abc.py")
    reasons = [
        apply(finding(edit(1, "9", path=str(path)))).refused[0][1] for path in (package / "m.py", other, installed)
    ]

    assert reasons[0].endswith("belongs to an installed package") and reasons[2].endswith("to an installed package")
    assert reasons[1].endswith("lies outside the folders that are checked: run bnlint there")
    assert apply(finding(edit(1, "9", path=str(other))), roots=roots_of([f"{other}:Net"], [])).refused == ()


def test_a_file_behind_a_link_is_edited_as_one(folder: Path) -> None:
    """Two targets may name one training file in two ways: what is written last must hold the edits of both."""
    folder.joinpath("link.py").symlink_to("m.py")
    first, second = finding(edit(1, "9", path="link.py")), finding(edit(1, "9"), edit(3, "9"), line=3)

    applied = apply(first, second)

    assert {path: file.text for path, file in applied.files.items()} == {"link.py": "a = 9\nb = 2\nc = 9\n"}
    (later,) = apply_fixes([finding(edit(2, "9"))], applied.files, (folder,)).files.values()
    assert later.text == "a = 9\nb = 9\nc = 9\n"
    moved = apply(finding(edit(1, "9\nx = 0", path="link.py")))
    assert moved.line_now("m.py", 2) == 3


def test_a_fix_at_odds_with_itself_is_refused_and_costs_the_others_nothing() -> None:
    applied = apply(finding(edit(1, "9")), finding(edit(2, "8"), edit(2, "9"), line=2), finding(edit(3, "9"), line=3))

    assert applied.files["m.py"].text == "a = 9\nb = 2\nc = 9\n"
    ((refused, reason),) = applied.refused
    assert refused.location is not None and refused.location.line == 2 and "overlap" in reason


def test_a_line_is_found_again_after_the_edits() -> None:
    edits = (
        Edit("m.py", (2, 1), (2, 1), "x = 0\ny = 0\n"),
        Edit("m.py", (4, 1), (6, 1), ""),
        Edit("other.py", (1, 1), (1, 1), "\n\n\n"),
    )
    applied = Applied({}, (), edits)

    assert [applied.line_now("m.py", line) for line in (1, 2, 3, 6, 7)] == [1, 4, 5, 6, 7]


# Passes ----------------------------------------------------------------------------------------------------


def outcome(*findings: Diagnostic, problems: tuple[Problem, ...] = ()) -> Outcome:
    return Outcome(Report((TargetResult("m.py:Net", "traced", diagnostics=findings),)), problems)


def text_of(contents: Mapping[str, bytes]) -> str:
    return contents.get("m.py", LINES.encode()).decode()


def run(check: Check) -> Fixed:
    return fix(check, check({}), partial(wanted, unsafe=True), (Path.cwd(),))


def test_passes_go_on_until_nothing_is_left() -> None:
    """Each pass sees the files as the one before has left them."""

    def check(contents: Mapping[str, bytes]) -> Outcome:
        value = int(text_of(contents)[4])
        return outcome(finding(edit(1, str(value + 1)), module=str(value))) if value < 5 else outcome()

    fixed = run(check)

    assert fixed.files["m.py"].text.startswith("a = 5") and len(fixed.findings) == 4 and fixed.refused == ()
    assert fixed.outcome.report.diagnostics == ()


def test_the_worst_findings_of_a_file_are_fixed_first() -> None:
    """A bias is of no use in front of a BatchNorm, but in front of the GroupNorm that takes its place it is."""

    def check(contents: Mapping[str, bytes]) -> Outcome:
        if "b = 9" in text_of(contents):
            return outcome()
        minor = finding(edit(1, "7"), code="BN2", severity=Severity.INFO)
        return outcome(minor, finding(edit(2, "9"), line=2, severity=Severity.WARNING))

    fixed = run(check)

    assert fixed.files["m.py"].text == "a = 1\nb = 9\nc = 3\n"
    assert [item.code for item in fixed.findings] == ["BN1"]


def test_what_waits_for_a_worse_finding_is_fixed_when_that_is_refused() -> None:
    def check(contents: Mapping[str, bytes]) -> Outcome:
        minor = finding(edit(1, "7"), code="BN2", severity=Severity.INFO)
        worse = finding(edit(2, "9"), edit(1, "9", path="absent.py"), line=2)
        return outcome(worse, *([] if "a = 7" in text_of(contents) else [minor]))

    fixed = run(check)

    assert fixed.files["m.py"].text == "a = 7\nb = 2\nc = 3\n"
    assert [item.code for item, _ in fixed.refused] == ["BN1"]


def test_a_fix_that_leaves_its_finding_is_taken_back() -> None:
    def check(contents: Mapping[str, bytes]) -> Outcome:
        good = [] if "c = 7" in text_of(contents) else [finding(edit(3, "7"), code="BN2", line=3)]
        return outcome(finding(edit(1, "9")), *good)

    fixed = run(check)

    assert fixed.files["m.py"].text == "a = 1\nb = 2\nc = 7\n"
    assert [reason for _, reason in fixed.refused] == ["it does not silence the finding"]


def test_a_finding_is_the_same_on_another_line() -> None:
    """What is inserted above it must not make a useless fix look useful."""

    def check(contents: Mapping[str, bytes]) -> Outcome:
        line = text_of(contents).split("\n").index("b = 2") + 1
        return outcome(finding(Edit("m.py", (line, 1), (line, 1), "x = 0\n"), line=line))

    fixed = run(check)

    assert fixed.changed == () and [reason for _, reason in fixed.refused] == ["it does not silence the finding"]


def test_fixes_that_undo_each_other_end_with_neither() -> None:
    def check(contents: Mapping[str, bytes]) -> Outcome:
        up = "b = 2" in text_of(contents)
        return outcome(finding(edit(2, "3" if up else "2"), module="x" if up else "y", line=2))

    fixed = run(check)

    assert [reason for _, reason in fixed.refused] == ["another fix undoes it"]
    assert len(fixed.findings) == 1 and fixed.outcome.report.diagnostics[0].module == "y"


@pytest.mark.parametrize(
    "as_problem", [pytest.param(True, id="the run ends"), pytest.param(False, id="a finding says it")]
)
def test_the_fix_that_breaks_the_model_is_singled_out(as_problem: bool) -> None:
    """Of four fixes one makes the model unbuildable: the others are applied."""
    places = {1: "a", 2: "b", 3: "c"}

    def check(contents: Mapping[str, bytes]) -> Outcome:
        text = text_of(contents)
        left = [finding(edit(line, "9"), line=line) for line, name in places.items() if f"{name} = 9" not in text]
        if "b = 9" not in text:
            return outcome(*left)
        if as_problem:
            return outcome(problems=(Problem("it cannot be read", "repair it"),))
        broken = Diagnostic("BN901", "cannot-build", Severity.ERROR, "it raises", "m.py:Net")
        return outcome(*left, broken)

    fixed = run(check)

    assert fixed.files["m.py"].text == "a = 9\nb = 2\nc = 9\n"
    ((refused, reason),) = fixed.refused
    assert refused.location is not None and refused.location.line == 2
    assert reason == ("with it, it cannot be read" if as_problem else "with it, m.py:Net: it raises")


def test_what_is_left_after_the_last_pass_is_said(folder: Path) -> None:
    """Sixty fixes of which each makes the model unbuildable: to single out one takes several passes."""
    text = "a = 1\n" * 60
    folder.joinpath("m.py").write_text(text)
    findings = [finding(edit(line, "9"), line=line) for line in range(1, 61)]

    def check(contents: Mapping[str, bytes]) -> Outcome:
        return outcome(*findings) if text_of(contents) == text else outcome(problems=(Problem("it breaks", "mend"),))

    fixed = fix(check, outcome(*findings), partial(wanted, unsafe=True), (folder,))

    reasons = {reason for _, reason in fixed.refused}
    assert (len(fixed.refused), fixed.changed) == (60, ())
    assert reasons == {"with it, it breaks", f"{PASSES} passes were not enough: run again"}


# What becomes of it ----------------------------------------------------------------------------------------


def done(*changed: File) -> Fixed:
    return Fixed(outcome(), {file.path: file for file in changed}, (), ())


def test_a_file_that_changed_meanwhile_is_not_overwritten(folder: Path) -> None:
    folder.joinpath("n.py").write_text(LINES)
    files = [File(name, LINES.encode(), LINES.replace("1", "9"), "utf-8") for name in ("m.py", "n.py")]
    folder.joinpath("n.py").write_text("mine = 1\n")

    with pytest.raises(UsageError, match=r"n\.py has changed while it was checked; nothing was written"):
        save(done(*files))
    assert folder.joinpath("m.py").read_text() == LINES and folder.joinpath("n.py").read_text() == "mine = 1\n"
    folder.joinpath("n.py").unlink()
    with pytest.raises(UsageError, match=r"n\.py has changed while it was checked; nothing was written"):
        save(done(*files))
    assert folder.joinpath("m.py").read_text() == LINES and not folder.joinpath("n.py").exists()


def test_a_link_stays_a_link_and_permissions_stay(folder: Path) -> None:
    folder.joinpath("link.py").symlink_to("m.py")
    folder.joinpath("m.py").chmod(0o754)

    save(done(File("link.py", LINES.encode(), LINES.replace("1", "9"), "utf-8")))

    assert folder.joinpath("link.py").readlink() == Path("m.py") and folder.joinpath("m.py").read_text().startswith(
        "a = 9"
    )
    assert folder.joinpath("m.py").stat().st_mode & 0o777 == 0o754


def test_the_diff_is_that_of_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    """A form feed ends no line, and a last line without an end says so."""
    before, after = "a\f = 1\nb = 2", "a\f = 9\nb = 2"

    show(done(File("m.py", before.encode(), after, "utf-8")), None)

    assert capsys.readouterr().out.split("\n") == [
        *(
            "--- m.py",
            "+++ m.py",
            "@@ -1,2 +1,2 @@",
            "-a\f = 1",
            "+a\f = 9",
            " b = 2",
            "\\ No newline at end of file",
            "",
        )
    ]
