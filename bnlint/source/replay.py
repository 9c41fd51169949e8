"""Replay: the statements that build a model are run one by one, in the order in which the script would come to them.

Nothing else runs: not the training, not the loading of data, nothing that writes. What is not run leaves its names
without a value and with the reason, and so does all that is made of them.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnlint.errors import text_of
from bnlint.source.definitions import dotted, executed, last_name, root_name
from bnlint.source.effects import KEPT_CONTEXTS, Effects
from bnlint.source.needed import is_inside, statement_uses, uses
from bnlint.source.plan import defaults_of, plans
from bnlint.source.scope import binds, stores
from bnlint.source.script_models import Body, ModelScript, flattened
from bnlint.training.script.defaults import option_of
from bnlint.training.script.index import Place
from bnlint.training.script.index import text_of as code_of
from bnlint.training.script.values import Known

# torchvision's own lists of classes: their lengths are part of the data sets' definitions.
_CLASSES = {"MNIST": 10, "FashionMNIST": 10, "KMNIST": 10, "CIFAR10": 10, "CIFAR100": 100, "STL10": 10, "SVHN": 10}
_WRAPPERS = re.compile(r"DistributedDataParallel|DDP|FullyShardedDataParallel|FSDP|DataParallel")
_TRAINING = re.compile(r"_?(train|training|fit|finetune|fine_tune|pretrain)(_\w+)?|backward|zero_grad|run_epoch|learn")
_SET_UP = re.compile(r"torch\.(cuda|distributed|backends|xpu|npu|mps|multiprocessing)\.|(logging|warnings|random)\.")
_DEVICE = re.compile(r"(\w*_)?device")
# Names of numbers that a script takes from its data.
_SIZE = re.compile(
    r"(n|num|nb|in|out|input|output|max|vocab|hidden)_?\w*|nc|\w*(size|dims?|channels?|length|len|classes|class_num|count)"
)
_LONGEST = 20.0  # seconds that the statements around a model may take together


@dataclass(frozen=True)
class Missing:
    """Why a name has no value. `wanted` is the name that a user could state instead, None where none would do."""

    reason: str
    line: int
    wanted: str | None = None
    cause: BaseException | None = None


class NotBuilt(Exception):
    """A model that could not be built, with the reason."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.reason)
        self.missing = missing


class _TooLong(BaseException):
    """The statements take too long; no handler of the script may catch it."""

    def __init__(self, line: int) -> None:
        self.missing = Missing(f"the statements before line {line} took longer than {_LONGEST:g} s", line)


class _Reached(Exception):
    """The call that leads to the next body is reached."""


class _Done(Exception):
    """The training begins, and all that is wanted has a value."""


class _Failed(Exception):
    """A statement in a `try` raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(eq=False)
class Frame:
    """A body that is being run: its names and what it lacks."""

    body: Body
    names: dict[str, Any]
    statements: frozenset[ast.stmt]
    reads: frozenset[str]
    effects: Effects
    missing: dict[str, Missing] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()  # names declared global
    tries: int = 0


class Replay:
    """Builds the models that the bodies of one way bind.

    `namespace` is what the file's top level has defined, `lacking` what it has not and why; `given` are values that
    the user states for variables, `device` stands for one that cannot be told.
    """

    def __init__(
        self,
        script: ModelScript,
        way: Sequence[Body],
        variables: Sequence[str],
        *,
        is_model: Callable[[Any], bool],
        device: Any,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.script = script
        self.way = tuple(way)
        self.variables = tuple(variables)
        self.given = dict(given or {})
        self.is_model = is_model
        self.device = device
        self.notes: dict[str, None] = {}
        self._plans = plans(script, self.way, self.variables)
        self.lost: dict[str, Missing] = {}
        self.late: set[str] = set()  # what the training comes before
        self.unassigned: set[str] = set()  # what no statement that ran assigns to
        self._top: Frame | None = None
        self._before: tuple[dict[str, Any], dict[str, Missing]] = ({}, {})
        self._wrapped: list[Any] = []
        self._locate: Callable[[str], bool] = lambda name: False
        self._deadline = float("inf")
        self._too_long: _TooLong | None = None
        self._path = str(script.source.path.resolve())

    # Running -------------------------------------------------------------------------------------------

    def prepare(self, namespace: dict[str, Any], locate: Callable[[str], bool] = lambda name: False) -> None:
        """Run what the bodies need of the file's top level, and the imports in them; raises `NotBuilt`.

        `locate` puts the folder of a module that is not found into the path, when it knows one.
        """
        self._locate = locate
        try:
            self._prepare(namespace)
        except _TooLong as error:
            raise NotBuilt(error.missing) from error

    def build(self) -> dict[str, Any]:
        """The values of the variables; raises `NotBuilt` when there is none of them."""
        try:
            return self._build()
        except _TooLong as error:
            self._too_long = error
            raise NotBuilt(error.missing) from error
        finally:
            for item in self._wrapped:
                item.__dict__.pop("module", None)
            self._wrapped.clear()

    def _prepare(self, namespace: dict[str, Any]) -> None:
        self._deadline = time.monotonic() + _LONGEST
        self._top = top = self._frame(0, namespace)
        self._run_to_call(top, self.way[1].call)
        for body, plan in zip(self.way[1:], self._plans[1:], strict=True):
            for statement in flattened(body.statements):
                if isinstance(statement, ast.Import | ast.ImportFrom) and statement in plan.statements:
                    with contextlib.suppress(Exception, SystemExit):  # said where the body itself comes to it
                        self._exec(statement, dict(namespace))
        self._before = (dict(top.names), dict(top.missing))

    def _build(self) -> dict[str, Any]:
        top = self._top
        assert top is not None
        self._deadline = time.monotonic() + _LONGEST
        self.notes.clear()
        self.lost.clear()
        self.late.clear()
        self.unassigned.clear()
        for state, before in zip((top.names, top.missing), self._before, strict=True):
            state.clear()  # what an earlier run has left
            state.update(before)
        frame = top
        self._take_stated(top)
        for number, body in enumerate(self.way[1:], 1):
            if body.function is None:
                inner = self._frame(number, top.names)
                inner.missing = top.missing
            else:
                inner = self._frame(number, dict(top.names))
                inner.missing = dict(top.missing)
                self._bind_arguments(frame, inner)
                self._take_stated(inner)
            following = self.way[number + 1].call if number + 1 < len(self.way) else None
            self._run_to_call(inner, following)
            frame = inner
        return self._values(frame)

    def _values(self, frame: Frame) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for variable in self.variables:
            if variable in frame.missing:
                self.lost[variable] = frame.missing[variable]
                continue
            owner, _, name = variable.rpartition(".")
            try:
                found[variable] = getattr(frame.names[owner], name) if owner else frame.names[name]
            except (KeyError, AttributeError):
                line = frame.body.statements[0].lineno
                reason = f"with the script's defaults nothing is assigned to {variable}"
                known = self._lacks(frame, [variable])
                self.lost[variable] = known or Missing(reason, line)
                if known is None:
                    self.unassigned.add(variable)
        if not found:
            raise NotBuilt(next(iter(self.lost.values())))
        return found

    def _frame(self, number: int, names: dict[str, Any]) -> Frame:
        plan = self._plans[number]
        return Frame(plan.body, names, plan.statements, plan.reads, plan.effects, shared=plan.shared)

    def _run_to_call(self, frame: Frame, call: ast.Call | None) -> None:
        """Run a body up to the statement with a call in it, else to the training."""
        with contextlib.suppress(_Reached, _Done):
            self._run(frame, frame.body.statements, call)
        for name in frame.shared & frame.names.keys():
            assert self._top is not None
            self._top.names[name] = frame.names[name]

    def _run(self, frame: Frame, statements: Sequence[ast.stmt], call: ast.Call | None) -> None:
        for statement in statements:
            if call is None and self._is_training(frame, statement):
                raise _Done
            if call is not None and _holds(statement, call):
                if not isinstance(statement, ast.If | ast.For | ast.While | ast.With | ast.Try):
                    raise _Reached
                self._run_holder(frame, statement, call)
                raise _Reached
            if statement in frame.statements:
                self._run_one(frame, statement, call)

    def _run_holder(self, frame: Frame, statement: ast.stmt, call: ast.Call) -> None:
        """Run the branch of a compound statement that a call stands in, up to the call."""
        match statement:
            case ast.For(target=target, iter=iterable):
                self._bind_first(frame, statement, target, iterable)
            case ast.With():
                with contextlib.ExitStack() as stack:
                    self._enter(frame, statement, stack)
        for branch in _branches(statement):
            if any(_holds(item, call) for item in branch):
                self._run(frame, branch, call)

    def _run_one(self, frame: Frame, statement: ast.stmt, call: ast.Call | None) -> None:
        match statement:
            case ast.For() | ast.While() if frame.effects.is_simple_loop(statement):
                self._run_leaf(frame, statement)
            case ast.If(test=test, body=inner, orelse=other):
                truth = self._truth(frame, test)
                if truth is None:
                    self._lose_branches(frame, statement)
                else:
                    self._run(frame, inner if truth else other, call)
            case ast.For(target=target, iter=iterable, body=inner):
                self._bind_first(frame, statement, target, iterable)
                self._run(frame, inner, call)
            case ast.While(body=inner):
                self._run(frame, inner, call)
            case ast.With(body=inner):
                with contextlib.ExitStack() as stack:
                    self._enter(frame, statement, stack)
                    self._run(frame, inner, call)
            case ast.Try():
                self._run_try(frame, statement, call)
            case _:
                self._run_leaf(frame, statement)

    def _run_try(self, frame: Frame, statement: ast.Try, call: ast.Call | None) -> None:
        frame.tries += 1
        try:
            self._run(frame, statement.body, call)
        except _Failed as failed:
            frame.tries -= 1
            handler = next((item for item in statement.handlers if self._catches(frame, item, failed.error)), None)
            if handler is not None:
                if handler.name:
                    frame.names[handler.name] = failed.error
                self._run(frame, handler.body, call)
        else:
            frame.tries -= 1
            self._run(frame, statement.orelse, call)
        self._run(frame, statement.finalbody, call)

    def _catches(self, frame: Frame, handler: ast.ExceptHandler, error: BaseException) -> bool:
        if handler.type is None:
            return True
        try:
            return isinstance(error, self._eval(handler.type, frame.names))
        except Exception:
            return False

    def _enter(self, frame: Frame, statement: ast.With, stack: contextlib.ExitStack) -> None:
        """Enter the contexts that change what building means; the others are passed over."""
        for item in statement.items:
            function = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
            kept = KEPT_CONTEXTS.fullmatch(dotted(function) or "") is not None
            missing = self._lacks(frame, uses(item.context_expr))
            try:
                if not kept or missing is not None:
                    raise LookupError(f"{code_of(self.script.source, item.context_expr)} is not entered")
                entered = stack.enter_context(self._eval(item.context_expr, frame.names))
                if isinstance(item.optional_vars, ast.Name):
                    frame.names[item.optional_vars.id] = entered
            except Exception as error:
                for name in stores(item.optional_vars) if item.optional_vars is not None else ():
                    frame.missing[name] = missing or self._because(frame, statement, error)

    def _bind_first(self, frame: Frame, statement: ast.For, target: ast.expr, iterable: ast.expr) -> None:
        """Bind the target of a loop to the first item: a model built for each of them is built once."""
        missing = self._lacks(frame, uses(iterable)) or self._refused(frame, statement, iterable)
        if missing is None:
            try:
                names = frame.names
                names["_bnlint_item"] = next(iter(self._eval(iterable, names)))
                binding = ast.copy_location(ast.Assign([target], ast.Name("_bnlint_item", ast.Load())), statement)
                self._exec(ast.fix_missing_locations(binding), names)
                return
            except (Exception, SystemExit) as error:
                missing = self._because(frame, statement, error)
            finally:
                frame.names.pop("_bnlint_item", None)
        for name in stores(target):
            frame.missing[name] = missing

    # One statement -------------------------------------------------------------------------------------

    def _run_leaf(self, frame: Frame, statement: ast.stmt) -> None:
        match statement:
            case ast.Return() | ast.Raise() | ast.Assert() | ast.Delete() | ast.Pass() | ast.Break() | ast.Continue():
                return
            case ast.Global():
                return
        if self._take_given(frame, statement) or self._sets_up(frame, statement):
            return
        run = _without_wrappers(statement)
        value = getattr(run, "value", None)
        missing = self._lacks(frame, statement_uses(run))
        if missing is None and isinstance(value, ast.expr):
            missing = self._refused(frame, statement, value)
            if missing is not None and self._stands_in(frame, statement, value):
                return
        if missing is None:
            try:
                self._exec(run, frame.names)
            except (Exception, SystemExit) as error:
                if frame.tries:
                    raise _Failed(error) from error
                missing = self._because(frame, statement, error)
            else:
                for name in _made(statement):
                    frame.missing.pop(name, None)
                    if run is not statement:
                        self._answer_module(self._value(frame, name))
                return
        self._lose(frame, statement, missing)

    def _answer_module(self, value: Any) -> None:
        """Let `model.module` be the model: its wrapper was taken off."""
        if self.is_model(value) and not hasattr(value, "module"):
            value.__dict__["module"] = value
            self._wrapped.append(value)

    def _sets_up(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether a statement only sets up the machine, of which no model knows."""
        match statement:
            case ast.Expr(value=ast.Call(func=function)):
                return bool(_SET_UP.match(frame.effects.definitions.origin(function) or ""))
        return False

    def _take_stated(self, frame: Frame) -> None:
        """Give the variables of a body the values that the user states, before its statements run."""
        bound = {name for statement in frame.body.statements for name in binds(statement)}
        for body in self.way[1:] if frame.body.function is None else ():
            bound |= {name for item in body.statements for name in binds(item)} if body.function is None else set()
        for name in bound & self.given.keys():
            frame.names[name] = self.given[name]
            frame.missing.pop(name, None)

    def _take_given(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether the user states the value of the one name that a statement binds."""
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name in self.given:
                    frame.names[name] = self.given[name]
                    frame.missing.pop(name, None)
                    return True
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=owner), attr=name)]) if name in self.given:
                if owner in frame.names:
                    setattr(frame.names[owner], name, self.given[name])
                    return True
        return False

    def _lacks(self, frame: Frame, names: Iterable[str]) -> Missing | None:
        """Why one of some names has no value."""
        for name in sorted(names):
            root = name.partition(".")[0]
            for known in (name, root):
                if known in frame.missing:
                    return frame.missing[known]
        return None

    def _refused(self, frame: Frame, statement: ast.stmt, value: ast.expr) -> Missing | None:
        """Why an expression is not run: it reads data, trains or writes."""
        call = frame.effects.refused(value)
        if call is None:
            return None
        called = code_of(self.script.source, call.func)
        if frame.effects.definitions.is_effect(call):
            reason = f"line {call.lineno} calls {called}(), which is not run: it may train, write or reach out"
            return Missing(reason, call.lineno)
        return Missing(f"{called}() in line {call.lineno} reads data, so it is not run", call.lineno)

    def _stands_in(self, frame: Frame, statement: ast.stmt, value: ast.expr) -> bool:
        """Bind a data set whose classes are part of its definition to what has those classes and nothing else."""
        match statement, value:
            case ast.Assign(targets=[ast.Name(id=target)]), ast.Call(func=function):
                origin = frame.effects.definitions.origin(function) or ""
                count = _CLASSES.get(last_name(function)) if origin.startswith("torchvision.datasets.") else None
                if count is None:
                    return False
                frame.names[target] = _Classes(tuple(map(str, range(count))))
                frame.missing.pop(target, None)
                return True
        return False

    def _lose(self, frame: Frame, statement: ast.stmt, missing: Missing) -> None:
        """Note why the names that a statement makes have no value; a model that is only handed on stays."""
        if isinstance(statement, ast.Expr):
            where = code_of(self.script.source, statement.value)
            changed = frame.effects.changes([statement])
            if any(is_inside(name, frame.reads) for name in changed):
                self.notes[f"line {statement.lineno} was not run ({where}): {missing.reason}"] = None
            return
        value = getattr(statement, "value", None)
        read = statement_uses(statement) if value is None else uses(value)
        for name in _made(statement):
            root = name.partition(".")[0]
            reads_itself = is_inside(name, read) or any(item.startswith(f"{name}.") for item in read)
            kept = reads_itself and self.is_model(self._value(frame, name))
            if kept and missing.cause is None:
                text = code_of(self.script.source, value) if isinstance(value, ast.expr) else name
                self.notes[f"line {statement.lineno} was not run ({name} = {text}): {missing.reason}"] = None
                continue
            model = any(is_inside(name, [variable]) for variable in self.variables)
            if name in frame.missing and reads_itself:
                continue  # the first reason is the one
            if (stated := name.rpartition(".")[2]) in self.given:
                self._set(frame, name, self.given[stated])
                continue
            if _DEVICE.fullmatch(name) and isinstance(statement, ast.Assign):
                frame.names[name] = self.device  # where a model is built makes no difference to what it is
                continue
            stated_as = None if model or not self._can_be_stated(frame, statement, stated) else stated
            wanted = missing.wanted or stated_as
            frame.missing[name] = replace(missing, wanted=wanted)
            if "." not in name:
                frame.names.pop(name, None)
            elif root in frame.names:
                with contextlib.suppress(Exception):  # a class attribute, or none at all
                    delattr(frame.names[root], name.partition(".")[2])

    def _set(self, frame: Frame, name: str, value: Any) -> None:
        """Give a variable or an attribute of one a value."""
        root, _, attribute = name.partition(".")
        frame.missing.pop(name, None)
        if not attribute:
            frame.names[root] = value
        elif root in frame.names:
            setattr(frame.names[root], attribute, value)

    def _can_be_stated(self, frame: Frame, statement: ast.stmt, name: str) -> bool:
        """Whether somebody could write down the value of a name: of a data set nobody can, of a size in it one can."""
        value = getattr(statement, "value", None)
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not isinstance(value, ast.expr):
            return False
        return bool(_SIZE.fullmatch(name)) or (
            not isinstance(value, ast.Call | ast.Attribute) and frame.effects.refused(value) is None
        )

    def _value(self, frame: Frame, name: str) -> Any:
        root, _, attribute = name.partition(".")
        found = frame.names.get(root)
        return getattr(found, attribute, None) if attribute else found

    def _lose_branches(self, frame: Frame, statement: ast.If) -> None:
        """Neither branch runs: what they make has no value any more."""
        test = code_of(self.script.source, statement.test)
        reason = f"line {statement.lineno}: whether {test} holds is known only when the script runs"
        missing = self._lacks(frame, uses(statement.test)) or Missing(reason, statement.lineno)
        for item in flattened([*statement.body, *statement.orelse]):
            if item in frame.statements:
                self._lose(frame, item, missing)

    def _truth(self, frame: Frame, test: ast.expr) -> bool | None:
        """Whether a condition holds: as it evaluates, else as far as the source tells."""
        if self._lacks(frame, uses(test)) is None and self._refused(frame, ast.Expr(test), test) is None:
            with contextlib.suppress(Exception, SystemExit):
                return bool(self._eval(test, frame.names))
        constants = self.script.reading.constants
        scope = constants.index.scopes.get(frame.body.function or self.script.source.tree)
        if scope is None:
            return None
        return constants.truth(test, Place(scope, 10**9))[0]

    def _is_training(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether a statement trains, and all that is wanted has a value by now."""
        late = {variable for variable in self.variables if self._value(frame, variable) is None}
        if late == set(self.variables):
            return False
        trains = any(
            isinstance(node, ast.Call)
            and _TRAINING.fullmatch(last_name(node.func))
            and (node.args or node.keywords or isinstance(node.func, ast.Name) or last_name(node.func) == "backward")
            for node in ast.walk(statement)
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef)
        )
        if trains:
            self.late |= {variable for variable in late if variable not in frame.missing}
        return trains

    def _because(self, frame: Frame, statement: ast.stmt, error: BaseException) -> Missing:
        if isinstance(error, NameError) and (known := self._lacks(frame, [error.name or "", "*"])) is not None:
            return known
        if isinstance(error, AttributeError) and error.name:
            lost = [item for name, item in frame.missing.items() if name.endswith(f".{error.name}")]
            if lost:
                return lost[0]
        if isinstance(error, ImportError):
            return Missing(f"import fails: {text_of(error)}", statement.lineno, cause=error)
        if isinstance(error, SystemExit):
            return Missing(f"line {statement.lineno} ends the process", statement.lineno, cause=error)
        return Missing(
            f"line {statement.lineno} raises {type(error).__name__}: {text_of(error)}", statement.lineno, cause=error
        )

    # Arguments -----------------------------------------------------------------------------------------

    def _bind_arguments(self, outer: Frame, inner: Frame) -> None:
        """Give a function's parameters the values that its call passes, as far as the body needs them."""
        body = inner.body
        function = body.function
        assert function is not None
        arguments = function.args
        names = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
        for name in (*names, *(item.arg for item in arguments.kwonlyargs)):
            inner.names.pop(name, None)  # a parameter hides a global of its name
            inner.missing.pop(name, None)
        passed: dict[str, Any] = {}
        lost: dict[str, Missing] = {}
        if body.self_name is not None:
            self._bind_self(outer, inner, passed, lost)
            names = names[1:]
        if body.call is not None:
            self._pass(outer, body.call, names, passed, lost)
        defaults = defaults_of(arguments)
        for name in (*names, *(item.arg for item in arguments.kwonlyargs)):
            if name in self.given:
                inner.names[name] = self.given[name]
            elif name in passed:
                inner.names[name] = passed[name]
            elif name in lost and self._known(function, name) is None:
                stated_as = name if _SIZE.fullmatch(name) else None
                inner.missing[name] = replace(lost[name], wanted=lost[name].wanted or stated_as)
            else:
                self._bind_default(inner, name, defaults.get(name))
        inner.missing |= {name: missing for name, missing in lost.items() if "." in name}
        inner.names |= {name: value for name, value in passed.items() if name == body.self_name}
        for rest, empty in ((arguments.vararg, ()), (arguments.kwarg, {})):
            if rest is not None:
                inner.names[rest.arg] = empty

    def _bind_self(self, outer: Frame, inner: Frame, passed: dict[str, Any], lost: dict[str, Missing]) -> None:
        body = inner.body
        assert body.cls is not None and body.self_name is not None and body.function is not None
        call = body.call
        if body.function.name == "__init__" or call is None or not isinstance(call.func, ast.Attribute):
            cls = inner.names.get(body.cls.name)
            missing = self._lacks(inner, [body.cls.name])
            if isinstance(cls, type):
                passed[body.self_name] = object.__new__(cls)
            else:
                reason = f"the class {body.cls.name} is not defined"
                inner.missing[body.self_name] = missing or Missing(reason, body.cls.lineno)
            return
        receiver = call.func.value
        found = self._lacks(outer, uses(receiver))
        if found is None:
            try:
                passed[body.self_name] = self._eval(receiver, outer.names)
                own = outer.body.self_name
                if isinstance(receiver, ast.Name) and receiver.id == own:
                    for name, missing in outer.missing.items():
                        if name.startswith(f"{own}."):
                            inner.missing[f"{body.self_name}.{name.partition('.')[2]}"] = missing
                return
            except (Exception, SystemExit) as error:
                found = self._because(outer, ast.copy_location(ast.Expr(receiver), call), error)
        inner.missing[body.self_name] = found

    def _pass(
        self, outer: Frame, call: ast.Call, names: Sequence[str], passed: dict[str, Any], lost: dict[str, Missing]
    ) -> None:
        """The values that a call passes, by parameter."""
        position = 0
        for item in call.args:
            if isinstance(item, ast.Starred):
                values, missing = self._argument(outer, item.value)
                if missing is not None or not isinstance(values, tuple | list):
                    for name in names[position:]:
                        lost[name] = missing or Missing("its arguments are spread over the call", call.lineno)
                    return
                passed |= dict(zip(names[position:], values, strict=False))
                position += len(values)
                continue
            if position < len(names):
                value, missing = self._argument(outer, item)
                if missing is None:
                    passed[names[position]] = value
                    lost |= _parts(outer, item, names[position])
                else:
                    lost[names[position]] = missing
            position += 1
        for keyword in call.keywords:
            value, missing = self._argument(outer, keyword.value)
            if keyword.arg is not None:
                if missing is None:
                    passed[keyword.arg] = value
                    lost |= _parts(outer, keyword.value, keyword.arg)
                else:
                    lost[keyword.arg] = missing
            elif isinstance(value, Mapping):
                passed |= {str(name): item for name, item in value.items()}

    def _argument(self, outer: Frame, node: ast.expr) -> tuple[Any, Missing | None]:
        if isinstance(node, ast.Name) and not node.id.isidentifier():
            return 0, None  # the rank that `spawn` passes first: the first process
        statement = ast.copy_location(ast.Expr(node), node)
        missing = self._lacks(outer, uses(node)) or self._refused(outer, statement, node)
        if missing is None:
            try:
                return self._eval(node, outer.names), None
            except (Exception, SystemExit) as error:
                missing = self._because(outer, statement, error)
        return None, missing

    def _bind_default(self, inner: Frame, name: str, default: ast.expr | None) -> None:
        function = inner.body.function
        assert function is not None
        option = option_of(function, name)
        if default is not None and (option is None or option.node is None or option.node is default):
            missing = self._lacks(inner, uses(default))
            try:
                if missing is None and option is None:
                    inner.names[name] = self._eval(default, inner.names)
                    return
            except (Exception, SystemExit):
                pass
        known = self._known(function, name)
        if known is not None:
            inner.names[name] = known.data
            return
        inner.missing[name] = Missing(self._unknown_parameter(function, name), function.lineno, wanted=name)

    def _known(self, function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Known | None:
        """A parameter's value as the source tells it: a number, a text or a truth value."""
        constants = self.script.reading.constants
        scope = constants.index.scopes.get(function)
        if scope is None:
            return None
        found = constants.value(ast.copy_location(ast.Name(name, ast.Load()), function), Place(scope, 10**9))
        simple = isinstance(found, Known) and (found.data is None or isinstance(found.data, bool | int | float | str))
        return found if simple and isinstance(found, Known) else None

    def _unknown_parameter(self, function: ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
        if any("hydra" in ast.unparse(item) for item in function.decorator_list):
            return f"{name} is the configuration that Hydra composes when {function.name}() starts"
        return f"{name} is given by whoever calls {function.name}()"

    # Python --------------------------------------------------------------------------------------------

    def _exec(self, statement: ast.stmt, names: dict[str, Any]) -> None:
        self._check_time(statement)
        code = compile(ast.Module([statement], []), self._path, "exec", dont_inherit=True, flags=self._flags)
        try:
            exec(code, names)  # a statement that builds the user's model: what bnlint is for
        except ModuleNotFoundError as error:
            if not isinstance(statement, ast.Import | ast.ImportFrom) or not self._locate(error.name or ""):
                raise
            exec(code, names)

    def _eval(self, expression: ast.expr, names: dict[str, Any]) -> Any:
        self._check_time(expression)
        code = compile(ast.Expression(expression), self._path, "eval", dont_inherit=True, flags=self._flags)
        return eval(code, names)  # as above

    @property
    def _flags(self) -> int:
        import __future__

        lazy = any(
            isinstance(item, ast.ImportFrom) and item.module == "__future__" for item in self.script.source.tree.body
        )
        return __future__.annotations.compiler_flag if lazy else 0

    def _check_time(self, node: ast.stmt | ast.expr) -> None:
        if self._too_long is not None:
            raise self._too_long
        if time.monotonic() > self._deadline:
            raise _TooLong(node.lineno)


def _parts(outer: Frame, node: ast.expr, parameter: str) -> dict[str, Missing]:
    """What an object lacks that is passed as a parameter: `args.classes`, under the parameter's name."""
    if not isinstance(node, ast.Name):
        return {}
    start = f"{node.id}."
    return {
        f"{parameter}.{name.removeprefix(start)}": missing
        for name, missing in outer.missing.items()
        if name.startswith(start)
    }


class _Classes:
    """What stands for a data set of which only the classes are known."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes


# Syntax ----------------------------------------------------------------------------------------------


def _holds(statement: ast.stmt, call: ast.Call) -> bool:
    """Whether a call stands in a statement; one that stands for another (of `spawn`) has that one's place."""
    where = (call.lineno, call.col_offset)
    return any(
        node is call or (isinstance(node, ast.Call) and (node.lineno, node.col_offset) == where)
        for node in ast.walk(statement)
    )


def _branches(statement: ast.stmt) -> Iterator[Sequence[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for handler in getattr(statement, "handlers", []):
        yield handler.body


def _made(statement: ast.stmt) -> tuple[str, ...]:
    """The variables that a statement binds and the attributes that it sets."""
    found = dict.fromkeys(binds(statement))
    targets: list[ast.expr] = []
    match statement:
        case ast.Assign(targets=several):
            targets = list(several)
        case ast.AnnAssign() | ast.AugAssign():
            targets = [statement.target]
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        elif isinstance(target, ast.Attribute | ast.Subscript):
            name = dotted(target)
            parts = name.split(".") if name is not None else [root_name(target) or ""]
            found[".".join(parts[:2])] = None
    return tuple(name for name in found if name)


class _Unwrapped(ast.NodeTransformer):
    """Takes off the wrappers that need a process group, a GPU or a compiler."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[0] if _is_wrapped(node) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return node


def _is_wrapped(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not node.args:
        return False
    return dotted(node.func) == "torch.compile" or bool(_WRAPPERS.fullmatch(last_name(node.func)))


def _without_wrappers(statement: ast.stmt) -> ast.stmt:
    if not any(_is_wrapped(node) for node in executed(statement)):
        return statement
    result = _Unwrapped().visit(copy.deepcopy(statement))
    assert isinstance(result, ast.stmt)
    return result
