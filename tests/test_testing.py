"""The harness of rules and the scaffold: a gate is tested by breaking it."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bnlint.api import Context, Diagnostic, Edit, Invalid, NotChecked, Rule, Severity, Span, Valid
from bnlint.diagnostic import Applicability, Fix
from bnlint.errors import UsageError
from bnlint.registry import Loaded, load_rules
from bnlint.scaffold import new_rule
from bnlint.testing import cases_of, run_cases


class HighMomentum(Rule):
    """Finds batch norms with a momentum above one half and writes 0.1 there."""

    code = "TS201"
    name = "high-momentum"
    severity = Severity.ERROR
    needs = ("modules",)
    fixable = True

    valid = (Valid("model = nn.BatchNorm1d(4)"),)
    invalid = (Invalid("model = nn.BatchNorm1d(4, momentum=0.9)", fixed="model = nn.BatchNorm1d(4, momentum=0.1)"),)

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            if layer.momentum is None or layer.momentum <= 0.5:
                continue
            fix = layer.replace_argument("momentum", "0.1", title="Use momentum=0.1")
            yield self.diagnostic(layer, f"momentum={layer.momentum}", fix=fix)


def rule(base: type[Rule] = HighMomentum, **parts: Any) -> type[Rule]:
    return type("Changed", (base,), parts)


def reasons(kind: type[Rule]) -> list[str]:
    return [failure.reason for failure in run_cases(kind)]


PAIR = """\
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.BatchNorm1d(4, momentum=0.9)
            self.second = nn.BatchNorm1d(4, momentum=0.9)

        def forward(self, x):
            return self.second(self.first(x))

    model = Net()
"""
CRASH = Invalid("model = nn.BatchNorm1d(4, momentum=0.9)", training={"batch_size": 1}, inputs=((4,),), crashes=True)
FINE = Invalid("model = nn.BatchNorm1d(4, momentum=0.9)", training={"batch_size": 2}, inputs=((4,),), crashes=True)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({}, id="one finding and its fix"),
        pytest.param(
            {"invalid": (Invalid(PAIR, modules=("first", "second"), fixed=PAIR.replace("0.9", "0.1")),)},
            id="two modules, two edits, indented text",
        ),
        pytest.param({"invalid": (CRASH,)}, id="crash that really happens"),
    ],
)
def test_a_rule_that_keeps_to_its_cases_has_no_failure(parts: dict[str, Any]) -> None:
    parts.setdefault("fixable", "invalid" not in parts or parts["invalid"][0].fixed is not None)
    kind = rule(**parts) if parts["fixable"] else rule(Advice, **parts)
    assert reasons(kind) == []


class Advice(HighMomentum):
    """Finds the same and offers no edit."""

    fixable = False

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            if layer.momentum is not None and layer.momentum > 0.5:
                yield self.diagnostic(layer, f"momentum={layer.momentum}")


class Silent(HighMomentum):
    """Never says anything."""

    fixable = False

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        yield from ()


class Undecided(Silent):
    """Never decides."""

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        yield self.not_checked("the moon is not full")


class Misplaced(Advice):
    """Points at the import line's neighbour, where there is no call."""

    place: Span | None = None

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for found in super().check(context):
            assert isinstance(found, Diagnostic)
            assert found.location is not None
            yield self.diagnostic(self.place and Span(found.location.path, self.place.line), found.message)


class Raising(HighMomentum):
    """Crashes."""

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        raise KeyError("lost")
        yield


class WrongEdit(HighMomentum):
    """Writes an edit that leaves the fault, or that is no Python."""

    text = "0.8"

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            if layer.momentum is None or layer.momentum <= 0.5:
                continue
            assert layer.span is not None
            place = Edit(layer.span.path, (layer.span.line, 36), (layer.span.line, 39), self.text)
            yield self.diagnostic(layer, "high", fix=Fix("Write it", Applicability.UNSAFE, (place,)))


def invalid(source: str = "model = nn.BatchNorm1d(4, momentum=0.9)", **parts: Any) -> dict[str, Any]:
    return {"invalid": (Invalid(source, **parts),)}


def valid(source: str, **parts: Any) -> dict[str, Any]:
    return {"valid": (Valid(source, **parts),), "invalid": ()}


BROKEN: dict[str, tuple[type[Rule], str]] = {
    "valid case fires": (
        rule(Advice, **valid("model = nn.BatchNorm1d(4, momentum=0.9)")),
        "should be silent",
    ),
    "valid case was not checked": (
        rule(Undecided, **valid("model = nn.BatchNorm1d(4)")),
        "was not checked .the moon is not full.",
    ),
    "valid case lacks a needed fact": (
        rule(Silent, needs=("training.batch_size",), **valid("model = nn.BatchNorm1d(4)")),
        "batch size unknown",
    ),
    "valid case whose forward raises": (
        rule(Silent, needs=("graph",), **valid("model = nn.Linear(4, 4)", inputs=((5,),))),
        "was not recorded in full",
    ),
    "case does not bind a model": (rule(Silent, **valid("net = nn.ReLU()")), "there is no 'model'"),
    "case is no Python": (rule(Silent, **valid("model = (")), "syntax error"),
    "case with an unknown fact": (rule(Silent, **valid("model = nn.ReLU()", training={"bs": 1})), "'bs'"),
    "invalid case is silent": (rule(Silent, **invalid()), "it does not fire"),
    "invalid case was not checked": (rule(Undecided, **invalid()), "because it was not checked: the moon"),
    "fires twice without modules": (rule(Advice, **invalid(PAIR)), "fires 2 times, not once"),
    "fires for other modules": (rule(Advice, **invalid(PAIR, modules=("second", "first"))), "it fires for"),
    "message differs": (rule(Advice, **invalid(message="eps=")), "does not contain 'eps='"),
    "no location": (rule(Misplaced, **invalid()), "has no location"),
    "location without a call": (rule(Misplaced, place=Span("", 1), **invalid()), "where there is no call"),
    "rule raises": (rule(Raising, **invalid()), "KeyError: 'lost'"),
    "fixed text differs": (rule(**invalid(fixed="model = nn.BatchNorm1d(4)")), "the fixed program is"),
    "fix leaves the fault": (
        rule(WrongEdit, **invalid(fixed="model = nn.BatchNorm1d(4, momentum=0.8)")),
        "its fix leaves the finding where it was",
    ),
    "fix leaves the fault, in a case that states no fixed program": (
        rule(WrongEdit, **invalid()),
        "its fix leaves the finding where it was",
    ),
    "fix is no Python": (rule(WrongEdit, text="(", **invalid(fixed="model = 1")), "cannot be applied"),
    "fix is stated but not offered": (
        rule(Advice, fixable=True, **invalid(fixed="model = 1")),
        "no finding offers",
    ),
    "edit without fixable": (rule(fixable=False, **invalid()), "does not say fixable = True"),
    "fixable without a fixed case": (rule(**invalid()), "no invalid case shows what is fixed"),
    "crash that does not happen": (
        rule(Advice, invalid=(FINE,)),
        "a real training step of it raises nothing",
    ),
    "fixed program still crashes": (
        rule(
            **invalid(
                training={"batch_size": 1},
                inputs=((4,),),
                crashes=True,
                fixed="model = nn.BatchNorm1d(4, momentum=0.1)",
            )
        ),
        "training step of the fixed program raises ValueError",
    ),
}


@pytest.mark.parametrize(("kind", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_promise_is_reported(kind: type[Rule], reason: str) -> None:
    assert re.search(reason, "\n".join(reasons(kind)))


@pytest.mark.parametrize("note", ["batch size unknown", "not checked without a batch size"])
def test_a_valid_case_may_say_that_nothing_is_known(note: str) -> None:
    assert reasons(rule(Undecided, **valid("model = nn.BatchNorm1d(4)", note=note))) == []


def test_a_case_is_named_by_code_kind_number_and_note() -> None:
    kind = rule(valid=(Valid("model = 1"), Valid("model = 2", note="frozen")))
    assert [case.id for case in cases_of(kind)] == [
        "TS201-valid-1",
        "TS201-valid-2: frozen",
        "TS201-invalid-1",
    ]


def test_cases_of_equal_text_in_two_runs_point_at_their_own_files() -> None:
    assert reasons(HighMomentum) == reasons(HighMomentum) == []


def test_cases_leave_neither_paths_nor_modules_nor_random_numbers_behind() -> None:
    path, state = list(sys.path), torch.get_rng_state()
    run_cases(rule(Advice, invalid=(CRASH,)))
    assert sys.path == path
    assert "bnlint_case" not in sys.modules
    assert torch.equal(torch.get_rng_state(), state)


# Scaffold ------------------------------------------------------------


def test_a_new_rule_is_complete_and_its_cases_fail_until_it_is_written(tmp_path: Path) -> None:
    path = new_rule("ABC123", "own-fault", tmp_path)
    assert path.name == "abc123_own_fault.py"
    spec = importlib.util.spec_from_file_location("abc123_own_fault", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kind = module.OwnFault
    assert (kind.code, kind.name) == ("ABC123", "own-fault")
    assert reasons(kind) == ["it does not fire"]


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        pytest.param("abc1", "own-fault", "'abc1' is not a code", id="malformed code"),
        pytest.param("ABC123", "Own_Fault", "'Own_Fault' is not a name", id="malformed name"),
        pytest.param("ABC123", "../own", "is not a name", id="name that leaves the folder"),
        pytest.param("BN902", "own-fault", "BN902 is taken by forward-fails: BN9", id="code of the run itself"),
        pytest.param("TS201", "own-fault", "TS201 is taken by high-momentum: TS202 is free", id="taken code"),
        pytest.param("TS202", "high-momentum", "high-momentum is taken by TS201", id="taken name"),
    ],
)
def test_a_bad_or_taken_word_is_refused(tmp_path: Path, code: str, name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        new_rule(code, name, tmp_path, [Loaded(HighMomentum(), "made")])
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = new_rule("ABC123", "own-fault", tmp_path)
    path.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        new_rule("ABC123", "own-fault", tmp_path)
    assert path.read_text() == "mine"


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        new_rule("ABC123", "own-fault", tmp_path / "absent")


def test_the_next_free_code_skips_those_of_installed_rules(tmp_path: Path) -> None:
    taken = {item.code for item in load_rules()}
    with pytest.raises(UsageError) as caught:
        new_rule("BN101", "own-fault", tmp_path, load_rules())
    assert caught.value.hint.partition(" ")[0] not in taken
