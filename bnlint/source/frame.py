"""Frame: a body of a script that is being run, with the names that it has and the reasons for those that it lacks."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bnlint.errors import text_of
from bnlint.source.evaluation import Evaluator
from bnlint.source.needed import is_inside, made, statement_uses, uses
from bnlint.source.plan import Plan
from bnlint.source.script_models import ModelScript
from bnlint.training.script.index import text_of as code_of

_DEVICE = re.compile(r"(\w*_)?device")
# Names of numbers that a script takes from its data.
_SIZE = re.compile(
    r"(n|num|nb|in|out|input|output|max|vocab|hidden)_?\w*|nc|\w*(size|dims?|channels?|length|len|classes|class_num|count)"
)


@dataclass(frozen=True)
class Missing:
    """Why a name has no value. `wanted` is the name that a user could state instead, None where none would do."""

    reason: str
    line: int
    wanted: str | None = None
    cause: BaseException | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """What is to be built: some variables of a script.

    `given` are values that the user states for variables, `device` stands for one that cannot be told.
    """

    script: ModelScript
    variables: tuple[str, ...]
    is_model: Callable[[Any], bool]
    device: Any
    given: Mapping[str, Any]


@dataclass(eq=False)
class Frame:
    """A body that is being run.

    `names` are its variables, `missing` those without a value, single attributes among them ("args.classes");
    `notes` gathers what the reader should know, `tries` counts the `try` statements around what runs now.
    """

    request: Request
    evaluator: Evaluator
    notes: dict[str, None]
    plan: Plan
    names: dict[str, Any]
    missing: dict[str, Missing] = field(default_factory=dict)
    tries: int = 0

    # Values --------------------------------------------------------------------------------------------

    def evaluate(self, expression: ast.expr) -> Any:
        return self.evaluator.evaluate(expression, self.names)

    def execute(self, statement: ast.stmt) -> None:
        self.evaluator.execute(statement, self.names)

    def result(self, expression: ast.expr, statement: ast.stmt | None = None) -> tuple[Any, Missing | None]:
        """The value of an expression of a statement, or why it has none."""
        missing = self.lacks(uses(expression)) or self.refused(expression)
        if missing is None:
            try:
                return self.evaluate(expression), None
            except (Exception, SystemExit) as error:  # the script's own code: it may raise anything, or end the run
                missing = self.because(expression if statement is None else statement, error)
        return None, missing

    def value(self, name: str) -> Any:
        """The value of a variable or an attribute of one; None for one that has none."""
        root, _, attribute = name.partition(".")
        found = self.names.get(root)
        return getattr(found, attribute, None) if attribute else found

    def set(self, name: str, value: Any) -> None:
        """Give a variable or an attribute of one a value."""
        root, _, attribute = name.partition(".")
        self.missing.pop(name, None)
        if not attribute:
            self.names[root] = value
        elif root in self.names:
            setattr(self.names[root], attribute, value)

    # Reasons -------------------------------------------------------------------------------------------

    def lacks(self, names: Iterable[str]) -> Missing | None:
        """Why one of some names has no value."""
        for name in sorted(names):
            for known in (name, name.partition(".")[0]):
                if known in self.missing:
                    return self.missing[known]
        return None

    def refused(self, value: ast.expr) -> Missing | None:
        """Why an expression is not run: it reads data, trains or writes."""
        call = self.plan.effects.refused(value)
        if call is None:
            return None
        called = code_of(self.request.script.source, call.func)
        if self.plan.effects.definitions.is_effect(call):
            reason = f"line {call.lineno} calls {called}(), which is not run: it may train, write or reach out"
            return Missing(reason, call.lineno)
        return Missing(f"{called}() in line {call.lineno} reads data, so it is not run", call.lineno)

    def because(self, place: ast.stmt | ast.expr, error: BaseException) -> Missing:
        """Why what stands at a place has no value once it has raised: for what it lacks, if that is the cause."""
        if isinstance(error, NameError) and (known := self.lacks([error.name or "", "*"])) is not None:
            return known
        if isinstance(error, AttributeError) and error.name:
            lost = [item for name, item in self.missing.items() if name.endswith(f".{error.name}")]
            if lost:
                return lost[0]
        line = place.lineno
        if isinstance(error, ImportError):
            return Missing(f"import fails: {text_of(error)}", line, cause=error)
        if isinstance(error, SystemExit):
            return Missing(f"line {line} ends the process", line, cause=error)
        return Missing(f"line {line} raises {type(error).__name__}: {text_of(error)}", line, cause=error)

    # Losses --------------------------------------------------------------------------------------------

    def lose(self, statement: ast.stmt, missing: Missing) -> None:
        """Note why the names that a statement makes have no value; a model that is only handed on stays."""
        if isinstance(statement, ast.Expr):
            changed = self.plan.effects.changes([statement])
            if any(is_inside(name, self.plan.reads) for name in changed):
                self._note(statement, code_of(self.request.script.source, statement.value), missing)
            return
        value = getattr(statement, "value", None)
        read = statement_uses(statement) if value is None else uses(value)
        for name in made(statement):
            self._lose_name(name, statement, read, missing)

    def _lose_name(self, name: str, statement: ast.stmt, read: frozenset[str], missing: Missing) -> None:
        stated = name.rpartition(".")[2]
        reads_itself = is_inside(name, read) or any(item.startswith(f"{name}.") for item in read)
        if reads_itself and missing.cause is None and self.request.is_model(self.value(name)):
            value = getattr(statement, "value", None)
            text = code_of(self.request.script.source, value) if isinstance(value, ast.expr) else name
            self._note(statement, f"{name} = {text}", missing)
        elif name in self.missing and reads_itself:
            pass  # the first reason is the one
        elif stated in self.request.given:
            self.set(name, self.request.given[stated])
        elif _DEVICE.fullmatch(name) and isinstance(statement, ast.Assign):
            self.names[name] = self.request.device  # where a model is built makes no difference to what it is
        else:
            self._forget(name)
            wanted = missing.wanted or (stated if self._can_be_stated(name, statement) else None)
            self.missing[name] = replace(missing, wanted=wanted)

    def _note(self, statement: ast.stmt, code: str, missing: Missing) -> None:
        self.notes[f"line {statement.lineno} was not run ({code}): {missing.reason}"] = None

    def _forget(self, name: str) -> None:
        root, _, attribute = name.partition(".")
        if not attribute:
            self.names.pop(name, None)
        elif root in self.names:
            with contextlib.suppress(Exception):  # a class attribute, or none at all
                delattr(self.names[root], attribute)

    def _can_be_stated(self, name: str, statement: ast.stmt) -> bool:
        """Whether somebody could write down the value of a name: of a data set nobody can, of a size in it one can."""
        value = getattr(statement, "value", None)
        if any(is_inside(name, [variable]) for variable in self.request.variables):
            return False
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(value, ast.expr):
            return False
        plain = not isinstance(value, ast.Call | ast.Attribute) and self.plan.effects.refused(value) is None
        return is_size(name.rpartition(".")[2]) or plain


def is_size(name: str) -> bool:
    """Whether a name is one of a number that a script takes from its data, and that somebody could write down."""
    return bool(_SIZE.fullmatch(name))
