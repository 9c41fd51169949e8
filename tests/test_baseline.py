"""Baselines: known findings are hidden, new ones are not, and nothing depends on seeing all files."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from command_line import bnlint
from hypothesis import given
from hypothesis import strategies as st

from bnlint.baseline import Baseline, Entry, read
from bnlint.cli import check, main
from bnlint.commands.baselines import Baselines
from bnlint.commands.requests import Requests
from bnlint.diagnostic import Diagnostic, NotChecked, Severity, Span
from bnlint.errors import ConfigurationError, UsageError
from bnlint.report.report import Report, TargetResult

RULES = ("BN201", "BN602", "BN900", "BN901", "BN903")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two model files and a training file; Net and Old are named in the first alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.py").write_text("class Net: ...\nclass Old: ...\n")
    (tmp_path / "other.py").write_text("class Other: ...\n")
    (tmp_path / "train.yaml").write_text("batch_size: 1\n")
    return tmp_path


def finding(
    target: str, code: str = "BN201", module: str | None = "bn", *, line: int = 3, path: str | None = None
) -> Diagnostic:
    place = path or (target.partition(":")[0] if target.startswith(("model.py", "other.py")) else None)
    span = None if place is None else Span(place, line)
    return Diagnostic(code, "name", Severity.ERROR, f"{code} at {line}", target=target, module=module, location=span)


def result(
    target: str, *found: Diagnostic, status: str = "traced", not_checked: tuple[NotChecked, ...] = ()
) -> TargetResult:
    return TargetResult(target, status, diagnostics=found, not_checked=not_checked, rules=RULES)


def seen(target: str, *found: tuple[str, str | None, int]) -> TargetResult:
    """The result of a target with findings as (code, module, line)."""
    return result(target, *(finding(target, code, module, line=line) for code, module, line in found))


def shown(baseline: Baseline, *targets: TargetResult) -> list[tuple[str, str, str | None, int | None]]:
    """What the baseline leaves of a run."""
    report = Report(targets)
    rest, hidden = baseline.filter(report)
    assert hidden == len(report.diagnostics) - len(rest.diagnostics)
    spans = ((item, item.location) for item in rest.diagnostics)
    return [(item.target, item.code, item.module, span.line if span else None) for item, span in spans]


def known(*targets: TargetResult) -> Baseline:
    return Baseline.of(Report(targets), Path.cwd())


# Hiding ------------------------------------------------------------------------------------------------------


def test_a_known_finding_stays_known_while_its_line_moves() -> None:
    assert shown(known(seen("model.py:Net", ("BN201", "bn", 3))), seen("model.py:Net", ("BN201", "bn", 90))) == []


@pytest.mark.parametrize(
    "new",
    [
        pytest.param(("model.py:Net", ("BN602", "bn", 3)), id="another rule"),
        pytest.param(("model.py:Net", ("BN201", "bn2", 3)), id="another module"),
        pytest.param(("model.py:Net", ("BN201", "", 3)), id="the root module"),
        pytest.param(("model.py:Net", ("BN201", None, 3)), id="no module"),
        pytest.param(("other.py:Other", ("BN201", "bn", 3)), id="another file"),
        pytest.param(("package.model:Net", ("BN201", "bn", 3)), id="an importable object"),
    ],
)
def test_a_new_finding_is_shown(new: tuple[str, tuple[str, str | None, int]]) -> None:
    baseline = known(seen("model.py:Net", ("BN201", "bn", 3)))
    assert len(shown(baseline, seen(*new))) == 1


@pytest.mark.parametrize(("old", "new"), [("", None), (None, "")])
def test_no_module_is_not_the_root_module(old: str | None, new: str | None) -> None:
    baseline = known(seen("model.py", ("BN201", old, 3)))
    assert shown(baseline, seen("model.py", ("BN201", new, 3))) == [("model.py", "BN201", new, 3)]
    baseline.write(Path("known.json"))
    assert read(Path("known.json")).entries[0].module == old


def test_a_count_hides_so_many_and_no_more() -> None:
    baseline = known(seen("model.py", ("BN602", None, 3), ("BN602", None, 5)))
    assert [entry.count for entry in baseline.entries] == [2]
    three = seen("model.py", ("BN602", None, 4), ("BN602", None, 6), ("BN602", None, 9))
    assert shown(baseline, three) == [("model.py", "BN602", None, 9)]


def test_a_second_class_with_the_same_fault_in_the_same_module_is_new() -> None:
    baseline = known(seen("model.py:Net", ("BN201", "bn", 3)))
    two = (seen("model.py:Net", ("BN201", "bn", 3)), seen("model.py:Old", ("BN201", "bn", 9)))
    assert shown(baseline, *two) == [("model.py:Old", "BN201", "bn", 9)]


def test_a_renamed_class_and_other_arguments_keep_their_findings() -> None:
    baseline = known(seen("model.py:Net(2)", ("BN201", "bn", 3)), seen("a.b:build(2)", ("BN201", "bn", 3)))
    renamed = (seen("model.py:Renamed(3)", ("BN201", "bn", 3)), seen("a.b:build(3)", ("BN201", "bn", 3)))
    assert shown(baseline, *renamed) == []


def test_what_two_targets_show_of_one_line_is_one_finding() -> None:
    fact = [finding(target, "BN602", None, line=1, path="train.yaml") for target in ("model.py:Net", "other.py:Other")]
    both = (result("model.py:Net", fact[0]), result("other.py:Other", fact[1]))
    baseline = known(both[0])
    assert Report(both).count(Severity.ERROR) == 1
    assert shown(baseline, *both) == [], "the line is known, whoever comes across it"
    assert baseline.filter(Report(both))[1] == 1
    again = finding("train.yaml", "BN602", None, line=1, path="train.yaml")
    assert shown(baseline, result("train.yaml", again, status="configuration")) == []


def test_each_piece_of_a_list_of_files_is_hidden_as_in_the_whole() -> None:
    pieces = [
        result("model.py:Net", *(finding("model.py:Net", "BN602", None, line=n, path="train.yaml") for n in (1, 2))),
        result("other.py:Other", finding("other.py:Other", "BN602", None, line=3, path="train.yaml")),
    ]
    baseline = known(*pieces)
    assert [shown(baseline, *part) for part in (pieces, pieces[:1], pieces[1:])] == [[], [], []]
    new = finding("other.py:Other", "BN602", None, line=4, path="train.yaml")
    more = result("other.py:Other", *pieces[1].diagnostics, new)
    assert [len(shown(baseline, *part)) for part in ((pieces[0], more), (more,))] == [1, 1]


def test_a_finding_in_an_installed_package_belongs_to_the_file_of_its_target() -> None:
    path = "/usr/lib/python3/site-packages/timm/layers.py"
    baseline = known(result("model.py:Net", finding("model.py:Net", "BN602", None, path=path)))
    assert [entry.file for entry in baseline.entries] == ["model.py"]


def test_a_model_that_cannot_be_built_may_be_known_and_a_crashed_rule_may_not() -> None:
    failed = result("model.py:Net", finding("model.py:Net", "BN901", None), status="failed")
    crashed = result("other.py:Other", finding("other.py:Other", "BN904", None))
    assert shown(known(failed, crashed), failed, crashed) == [("other.py:Other", "BN904", None, 3)]


MODULES = st.sampled_from([None, "", "bn", "bn2"])
RESULTS = st.lists(
    st.builds(
        seen,
        st.sampled_from(["model.py:Net", "model.py:Old", "other.py:Other", "a.b:build"]),
        st.tuples(st.sampled_from(RULES), MODULES, st.integers(1, 4)),
        st.tuples(st.sampled_from(RULES), MODULES, st.integers(1, 4)),
    ),
    max_size=5,
).map(tuple)


@given(RESULTS, RESULTS)
def test_what_was_written_hides_itself_and_all_of_its_pieces(first: tuple[TargetResult, ...], second: object) -> None:
    baseline = known(*first)
    assert shown(baseline, *first) == []
    assert [shown(baseline, target) for target in first] == [[] for _ in first]
    assert baseline.stale(Report(first)) == ()
    assert isinstance(second, tuple)
    found, kept = Report(second).diagnostics, shown(baseline, *second)
    assert len(found) - baseline.count <= len(kept) <= len(found)
    assert shown(baseline.updated(Report(second)), *second) == []
    left = baseline.pruned(Report(second))
    assert shown(left, *second) == kept, "what is removed hid nothing"
    assert left.stale(Report(second)) == ()


# What is no longer found -------------------------------------------------------------------------------------


def test_what_is_no_longer_found_is_stale_and_is_pruned() -> None:
    baseline = known(seen("model.py:Net", ("BN201", "bn", 3), ("BN201", "bn", 4), ("BN602", "bn", 5)))
    now = Report((seen("model.py:Net", ("BN201", "bn", 3)),))
    assert [(entry.code, entry.count) for entry in baseline.stale(now)] == [("BN201", 1), ("BN602", 1)]
    assert [(entry.code, entry.count) for entry in baseline.pruned(now).entries] == [("BN201", 1)]


def test_a_model_is_the_same_with_other_arguments() -> None:
    baseline = known(seen("model.py:Net(2)", ("BN201", "bn", 3)), seen("a.b:build(2)", ("BN201", "bn", 3)))
    now = Report((result("model.py:Net(3)"), result("a.b:build(3)")))
    assert [entry.target for entry in baseline.stale(now)] == ["a.b:build", "model.py:Net"]


UNSEEN = {
    "a file that was not checked": result("other.py:Other"),
    "another object of the file": result("model.py:Old"),
    "a target that failed": result("model.py:Net", status="failed"),
    "a model of which a part was newly not seen": result("model.py:Net", finding("model.py:Net", "BN903", None)),
    "a rule that lacked a fact": result("model.py:Net", not_checked=(NotChecked("BN201", "batch size unknown"),)),
    "a rule that was left out": TargetResult("model.py:Net", "traced", rules=("BN602",)),
}


@pytest.mark.parametrize("now", UNSEEN.values(), ids=UNSEEN)
def test_what_was_not_seen_is_not_stale_and_is_kept(now: TargetResult) -> None:
    baseline = known(seen("model.py:Net", ("BN201", "bn", 3)))
    assert baseline.stale(Report((now,))) == ()
    assert baseline.entries[0] in baseline.updated(Report((now,))).entries


def test_a_model_that_was_always_seen_in_part_is_judged_by_that_part() -> None:
    part = finding("model.py:Net", "BN903", None)
    baseline = known(result("model.py:Net", part, finding("model.py:Net")))
    assert [entry.code for entry in baseline.stale(Report((result("model.py:Net", part),)))] == ["BN201"]


def test_what_belongs_to_a_deleted_file_or_class_is_stale(folder: Path) -> None:
    baseline = known(seen("model.py:Old", ("BN201", "bn", 3)), seen("other.py:Other", ("BN201", "bn", 3)))
    assert baseline.stale(Report()) == ()
    (folder / "model.py").write_text("class OldNet: ...\n\nclass Older: ...\n")
    (folder / "other.py").unlink()
    assert [entry.target for entry in baseline.stale(Report())] == ["model.py:Old", "other.py:Other"]


def test_writing_again_keeps_what_was_not_seen_and_drops_what_is_gone() -> None:
    baseline = known(seen("model.py:Net", ("BN201", "a", 1)), seen("other.py:Other", ("BN201", "b", 1)))
    now = baseline.updated(Report((seen("model.py:Net", ("BN201", "c", 1)),)))
    assert [(entry.file, entry.module) for entry in now.entries] == [("model.py", "c"), ("other.py", "b")]


# The file ----------------------------------------------------------------------------------------------------


def test_the_file_has_one_line_for_each_entry_in_a_fixed_order(folder: Path) -> None:
    fact = finding("model.py:Net", "BN602", None, line=1, path="train.yaml")
    first = result("model.py:Net", finding("model.py:Net", module=""), finding("model.py:Net", "BN602", None), fact)
    baseline = known(seen("a.b:build", ("BN201", "bn", 3)), first)
    baseline.write(folder / "known.json")
    text = (folder / "known.json").read_text()
    assert text == (
        '{\n  "version": 1,\n  "findings": [\n'
        '    {"code": "BN201", "module": "bn", "count": 1, "target": "a.b:build"},\n'
        '    {"file": "model.py", "code": "BN201", "module": "", "count": 1, "target": "model.py:Net"},\n'
        '    {"file": "model.py", "code": "BN602", "module": null, "count": 1},\n'
        '    {"file": "train.yaml", "code": "BN602", "module": null, "count": 1, "target": "model.py"}\n'
        "  ]\n}\n"
    )
    assert read(folder / "known.json") == baseline
    Baseline(folder).write(folder / "known.json")
    assert json.loads((folder / "known.json").read_text()) == {"version": 1, "findings": []}


@pytest.mark.parametrize(
    ("working", "spec", "file"),
    [
        pytest.param(".", "model.py:Net", "ci/known.json", id="from the folder above"),
        pytest.param("ci", "../model.py:Net", "known.json", id="from its own folder"),
        pytest.param("deep/down", "../../model.py:Net", "../../ci/known.json", id="from anywhere"),
        pytest.param("link", "../../model.py:Net", "../../ci/known.json", id="through a link to a folder"),
    ],
)
def test_paths_count_from_the_folder_of_the_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, working: str, spec: str, file: str
) -> None:
    for name in ("ci", "deep/down"):
        (folder / name).mkdir(parents=True)
    (folder / "link").symlink_to(folder / "deep" / "down")
    written = Baseline.of(Report((seen("model.py:Net", ("BN201", "bn", 3)),)), folder / "ci")
    assert [entry.file for entry in written.entries] == ["../model.py"]
    written.write(folder / "ci" / "known.json")
    monkeypatch.chdir(folder / working)
    path = spec.partition(":")[0]
    now = result(spec, finding(spec, path=path), finding(spec, module="new", path=path))
    assert [row[2] for row in shown(read(Path(file)), now)] == ["new"]


ENTRY = '{"file": "model.py", "code": "BN201", "module": "bn", "count": 1}'
WRONG = {
    "no JSON": ("{", ":1 is not JSON", "mend it"),
    "a merge conflict": ('{\n<<<<<<< ours\n"version": 1}', ":2 is not JSON", "resolve the merge conflict"),
    "a list": ("[]", "is no baseline", "--write-baseline"),
    "no version": ("{}", "the version None", "write it anew"),
    "a version to come": ('{"version": 2}', "the version 2", "update bnlint"),
    "a truth for a version": ('{"version": true}', "the version True", "write it anew"),
    "no findings": ('{"version": 1}', "no list of findings", "write it anew"),
    "a text for a finding": ("BN201", "finding 2 is not an object", "correct it"),
    "an unknown field": (ENTRY.replace("module", "modul"), "finding 2 has the unknown field 'modul'", "correct it"),
    "no code": ('{"file": "a.py", "module": "", "count": 1}', "finding 2 has no code", "correct it"),
    "neither file nor target": (ENTRY.replace('"file": "model.py", ', ""), "finding 2 has no file", "correct it"),
    "an empty file name": (ENTRY.replace("model.py", ""), "finding 2 has the file ''", "correct it"),
    "a count of none": (ENTRY.replace("1}", "0}"), "finding 2 has the count 0", "correct it"),
    "a truth for a count": (ENTRY.replace("1}", "true}"), "finding 2 has the count True", "correct it"),
    "a crashed rule": (ENTRY.replace("BN201", "BN904"), "finding 2 is a rule that crashed", "take it out"),
}


@pytest.mark.parametrize(("text", "message", "hint"), WRONG.values(), ids=WRONG)
def test_a_wrong_file_is_an_error_that_says_where_and_what_next(
    folder: Path, text: str, message: str, hint: str
) -> None:
    if "finding 2" in message:
        item = text if text.startswith("{") else f'"{text}"'
        text = f'{{"version": 1, "findings": [{ENTRY}, {item}]}}'
    (folder / "known.json").write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        read(Path("known.json"))
    assert message in raised.value.message
    assert raised.value.message.startswith("known.json")
    assert hint in raised.value.hint


FIELDS = st.sampled_from(["version", "findings", "file", "code", "module", "count", "target"])
SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(FIELDS, inner)))
def test_any_json_is_read_or_refused(item: object) -> None:
    Path("any.json").write_text(json.dumps({"version": 1, "findings": [item]}))
    with contextlib.suppress(ConfigurationError):
        read(Path("any.json"))


def test_a_missing_file_says_how_it_is_written_and_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"does not exist.*--write-baseline known\.json"):
        read(Path("known.json"))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(folder)
    with pytest.raises(ConfigurationError, match="no regular file"):
        read(Path("/dev/zero"))  # which has no end
    with pytest.raises(UsageError, match=r"cannot write the baseline missing/known\.json"):
        Baseline(folder).write(Path("missing/known.json"))


def test_a_line_that_a_merge_has_doubled_counts_once(folder: Path) -> None:
    more = ENTRY.replace("1}", "3}").replace("model.py", "./model.py")
    (folder / "known.json").write_text(f'{{"version": 1, "findings": [{ENTRY}, {more}, {ENTRY}]}}')
    assert read(Path("known.json")).entries == (Entry("model.py", "BN201", "bn", "model.py", 3),)


# The command -------------------------------------------------------------------------------------------------

LAYER = "nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=0.9), nn.ReLU()"
FAULTY = f"from torch import nn\n\nmodel = nn.Sequential({LAYER})\n"
UNBUILDABLE = "from torch import nn\n\n\ndef build_model():\n    raise OSError('no file')\n    return nn.ReLU()\n"


def codes(out: str) -> list[str]:
    return [f"{line.split(':')[0]} {line.split(' ')[1]}" for line in out.splitlines()]


def test_a_legacy_project_gets_a_green_gate_that_turns_red_for_new_faults_alone(folder: Path) -> None:
    (folder / "train.yaml").unlink()
    (folder / "legacy").mkdir()
    for name, text in {"model.py": FAULTY, "legacy/old.py": FAULTY, "legacy/broken.py": UNBUILDABLE}.items():
        (folder / name).write_text(text)
    (folder / "other.py").unlink()
    written = bnlint("check", "--write-baseline", "ci.json", cwd=folder)
    assert (written.status, written.out, written.err) == (0, "", "Wrote 3 findings to ci.json\n")

    (folder / "bnlint.toml").write_text('baseline = "ci.json"\n')
    (folder / "model.py").write_text(f"# moved\n\n{FAULTY}")
    (folder / "new.py").write_text(FAULTY)
    new = bnlint("check", "--output-format", "concise", cwd=folder)
    assert (new.status, codes(new.out)) == (1, ["new.py BN201"])
    assert "note: 3 known findings hidden by ci.json" in new.err.splitlines()

    (folder / "model.py").write_text(FAULTY.replace("0.9", "0.1"))
    (folder / "new.py").unlink()
    piece = bnlint("check", "../model.py", "old.py", "--output-format", "json", cwd=folder / "legacy")
    assert (piece.status, json.loads(piece.out)["summary"]) == (0, {"error": 0, "warning": 0, "info": 0})
    assert set(piece.err.splitlines()) >= {
        f"note: 1 known finding hidden by {folder}/ci.json",
        f"note: 1 known finding in {folder}/ci.json no longer found: --prune-baseline removes what is gone",
    }
    pruned = bnlint("check", "model.py", "--prune-baseline", "--quiet", cwd=folder)
    assert (pruned.status, pruned.out, pruned.err) == (0, "", "Removed 1 finding from ci.json: 2 left\n")
    (folder / "model.py").write_text(FAULTY)
    again = bnlint("check", "--baseline", "ci.json", "--output-format", "concise", "--quiet", cwd=folder)
    assert (again.status, codes(again.out), again.err) == (1, ["model.py BN201"], "")
    more = bnlint("check", "model.py", "--write-baseline", "ci.json", cwd=folder)
    assert more.err == "Wrote 1 finding to ci.json; it lists 3, with what this run has not seen\n"


def test_each_target_has_the_baseline_of_its_own_settings(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "bnlint.toml").write_text('baseline = "here.json"\n')
    (folder / "sub" / "bnlint.toml").write_text('baseline = "there.json"\n')
    inner = result("sub/net.py:Net", finding("sub/net.py:Net", path="sub/net.py"))
    outer = seen("model.py:Net", ("BN201", "bn", 3))
    known(outer).write(Path("here.json"))
    Baseline.of(Report((inner,)), folder / "sub").write(Path("sub/there.json"))
    values = check.make_context("check", []).params
    assert Baselines(Requests(values), values).without_known(Report((inner, outer))).diagnostics == ()
    values = check.make_context("check", ["--baseline", "here.json"]).params
    assert Baselines(Requests(values), values).without_known(Report((inner, outer))).diagnostics == inner.diagnostics


def test_a_crashed_rule_is_not_listed_and_fails_the_writing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = check.make_context("check", ["--write-baseline", "ci.json"]).params
    crashed = result("model.py:Net", finding("model.py:Net", "BN904", None), finding("model.py:Net"))
    assert Baselines(Requests(values), values).write(Report((crashed,))) == 1
    assert "Wrote 1 finding to ci.json\nerror: BN904 at 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prune-baseline"], "--prune-baseline has no baseline"),
        (["--baseline", "none.json"], "the baseline none.json does not exist"),
        (["--write-baseline", "bad.json"], "bad.json has the version None of a baseline, not 1"),
        (["--write-baseline", "a.json", "--baseline", "b.json"], "--write-baseline and --baseline exclude each other"),
        (["--write-baseline", "a.json", "--fix"], "--write-baseline and --fix exclude each other"),
    ],
)
def test_wrong_use_is_an_error_before_anything_is_checked(
    folder: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.json").write_text("{}")
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert (folder / "bad.json").read_text() == "{}"
