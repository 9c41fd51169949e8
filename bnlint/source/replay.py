"""Replay: the statements that build a model are run one by one, in the order in which the script would come to them.

Nothing else runs: not the training, not the loading of data, nothing that writes. What is not run leaves its names
without a value and with the reason, and so does all that is made of them.
"""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bnlint.source.definitions import Function, dotted, last_name
from bnlint.source.effects import KEPT_CONTEXTS
from bnlint.source.evaluation import Evaluator, TooLong
from bnlint.source.frame import Frame, Missing, Request
from bnlint.source.needed import made, statement_uses, uses
from bnlint.source.parameters import bind_parameters
from bnlint.source.plan import plans
from bnlint.source.scope import binds, stores
from bnlint.source.script_models import Body, ModelScript, flattened
from bnlint.source.wrappers import without_wrappers
from bnlint.training.script.index import Place
from bnlint.training.script.index import text_of as code_of

# torchvision's own lists of classes: their lengths are part of the data sets' definitions.
_CLASSES = {"MNIST": 10, "FashionMNIST": 10, "KMNIST": 10, "CIFAR10": 10, "CIFAR100": 100, "STL10": 10, "SVHN": 10}
_TRAINING = re.compile(r"_?(train|training|fit|finetune|fine_tune|pretrain)(_\w+)?|backward|zero_grad|run_epoch|learn")
_SET_UP = re.compile(r"torch\.(cuda|distributed|backends|xpu|npu|mps|multiprocessing)\.|(logging|warnings|random)\.")


class NotBuilt(Exception):
    """A model that could not be built, with the reason."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.reason)
        self.missing = missing


class _Reached(Exception):
    """The call that leads to the next body is reached."""


class _Done(Exception):
    """The training begins, and all that is wanted has a value."""


class _Failed(Exception):
    """A statement in a `try` raised."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class Replay:
    """Builds the models that the bodies of one way bind.

    After a run, `lost` tells why variables have no value, `late` are those that the training comes before,
    `unassigned` those that no statement that ran assigns to, and `notes` what the reader should know.
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
        self.notes: dict[str, None] = {}
        self.lost: dict[str, Missing] = {}
        self.late: set[str] = set()
        self.unassigned: set[str] = set()
        self._request = Request(script, self.variables, is_model, device, dict(given or {}))
        self._evaluator = Evaluator(script.source)
        self._plans = plans(script, self.way, self.variables)
        self._top: Frame | None = None
        self._before: tuple[dict[str, Any], dict[str, Missing]] = ({}, {})
        self._wrapped: list[Any] = []

    # Bodies --------------------------------------------------------------------------------------------

    def prepare(self, namespace: dict[str, Any], locate: Callable[[str], bool]) -> None:
        """Run what the bodies need of the file's top level, and the imports in them; raises `NotBuilt`.

        `namespace` takes what the top level defines; `locate` puts the folder of a module that is not found into the
        path, when it knows one.
        """
        self._evaluator.locate = locate
        with self._in_time():
            self._top = top = self._frame(0, namespace)
            self._run_to_call(top, self.way[1].call)
            for plan in self._plans[1:]:
                for statement in flattened(plan.body.statements):
                    if isinstance(statement, ast.Import | ast.ImportFrom) and statement in plan.statements:
                        with contextlib.suppress(Exception, SystemExit):  # said where the body itself comes to it
                            self._evaluator.execute(statement, dict(namespace))
            self._before = (dict(top.names), dict(top.missing))

    def build(self) -> dict[str, Any]:
        """The values of the variables; raises `NotBuilt` when there is none of them."""
        try:
            with self._in_time():
                return self._values(self._last())
        finally:
            for item in self._wrapped:
                item.__dict__.pop("module", None)
            self._wrapped.clear()

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        self._evaluator.start()
        try:
            yield
        except TooLong as error:
            raise NotBuilt(Missing(str(error), error.line)) from error

    def _last(self) -> Frame:
        """The last body, once it and all that lead to it have run."""
        top = frame = self._reset()
        self._take_stated(top)
        for number, body in enumerate(self.way[1:], 1):
            if body.function is None:
                inner = self._frame(number, top.names, top.missing)
            else:
                inner = self._frame(number, dict(top.names), dict(top.missing))
                bind_parameters(frame, inner)
                self._take_stated(inner)
            following = self.way[number + 1].call if number + 1 < len(self.way) else None
            self._run_to_call(inner, following)
            frame = inner
        return frame

    def _reset(self) -> Frame:
        """The file's top level as `prepare` has left it, without what an earlier run did to it."""
        assert self._top is not None
        for known in (self.notes, self.lost, self.late, self.unassigned):
            known.clear()
        for state, before in zip((self._top.names, self._top.missing), self._before, strict=True):
            state.clear()
            state.update(before)
        return self._top

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
                self._miss(frame, variable)
        if not found:
            raise NotBuilt(next(iter(self.lost.values())))
        return found

    def _miss(self, frame: Frame, variable: str) -> None:
        known = frame.lacks([variable])
        if known is None:
            self.unassigned.add(variable)
            reason = f"with the script's defaults nothing is assigned to {variable}"
            known = Missing(reason, frame.plan.body.statements[0].lineno)
        self.lost[variable] = known

    def _frame(self, number: int, names: dict[str, Any], missing: dict[str, Missing] | None = None) -> Frame:
        lacking = {} if missing is None else missing
        return Frame(self._request, self._evaluator, self.notes, self._plans[number], names, lacking)

    def _run_to_call(self, frame: Frame, call: ast.Call | None) -> None:
        """Run a body up to the statement with a call in it, else to the training."""
        with contextlib.suppress(_Reached, _Done):
            self._run(frame, frame.plan.body.statements, call)
        for name in frame.plan.shared & frame.names.keys():
            assert self._top is not None
            self._top.names[name] = frame.names[name]

    # Compound statements -------------------------------------------------------------------------------

    def _run(self, frame: Frame, statements: Sequence[ast.stmt], call: ast.Call | None) -> None:
        for statement in statements:
            if call is None and self._is_training(frame, statement):
                raise _Done
            if call is not None and _holds(statement, call):
                self._run_holder(frame, statement, call)
                raise _Reached
            if statement in frame.plan.statements:
                self._run_one(frame, statement, call)

    def _run_holder(self, frame: Frame, statement: ast.stmt, call: ast.Call) -> None:
        """Run the branch of a compound statement that a call stands in, up to the call."""
        match statement:
            case ast.For():
                self._bind_first(frame, statement)
            case ast.With():
                with contextlib.ExitStack() as stack:
                    self._enter(frame, statement, stack)
            case ast.If() | ast.While() | ast.Try():
                pass
            case _:
                return
        for branch in _branches(statement):
            if any(_holds(item, call) for item in branch):
                self._run(frame, branch, call)

    def _run_one(self, frame: Frame, statement: ast.stmt, call: ast.Call | None) -> None:
        match statement:
            case ast.For() | ast.While() if frame.plan.effects.is_simple_loop(statement):
                self._run_leaf(frame, statement)
            case ast.If():
                self._run_if(frame, statement, call)
            case ast.For(body=inner):
                self._bind_first(frame, statement)
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

    def _run_if(self, frame: Frame, statement: ast.If, call: ast.Call | None) -> None:
        rest = self.script.device_checks.rest(statement)
        truth = self._truth(frame, statement.test) if rest is None else None
        if rest is not None:
            self._run(frame, rest, call)
        elif truth is not None:
            self._run(frame, statement.body if truth else statement.orelse, call)
        else:
            self._lose_branches(frame, statement)

    def _truth(self, frame: Frame, test: ast.expr) -> bool | None:
        """Whether a condition holds: as it evaluates, else as far as the source tells."""
        if frame.lacks(uses(test)) is None and frame.refused(test) is None:
            with contextlib.suppress(Exception, SystemExit):  # the script's own code raises: then the source decides
                return bool(frame.evaluate(test))
        constants = self.script.reading.constants
        scope = constants.index.scopes.get(frame.plan.body.function or self.script.source.tree)
        if scope is None:
            return None
        return constants.truth(test, Place(scope, 10**9))[0]

    def _lose_branches(self, frame: Frame, statement: ast.If) -> None:
        """Neither branch runs: what they make has no value any more."""
        test = code_of(self.script.source, statement.test)
        reason = f"line {statement.lineno}: whether {test} holds is known only when the script runs"
        missing = frame.lacks(uses(statement.test)) or Missing(reason, statement.lineno)
        for item in flattened([*statement.body, *statement.orelse]):
            if item in frame.plan.statements:
                frame.lose(item, missing)

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
            return isinstance(error, frame.evaluate(handler.type))
        except Exception:  # the user's expression: what cannot be evaluated catches nothing
            return False

    def _enter(self, frame: Frame, statement: ast.With, stack: contextlib.ExitStack) -> None:
        """Enter the contexts that change what building means; the others are passed over."""
        for item in statement.items:
            function = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
            kept = KEPT_CONTEXTS.fullmatch(dotted(function) or "") is not None
            missing = frame.lacks(uses(item.context_expr))
            try:
                if not kept or missing is not None:
                    raise LookupError(f"{code_of(self.script.source, item.context_expr)} is not entered")
                entered = stack.enter_context(frame.evaluate(item.context_expr))
                if isinstance(item.optional_vars, ast.Name):
                    frame.names[item.optional_vars.id] = entered
            except Exception as error:  # the user's context: the names that it binds are missing, and why
                for name in stores(item.optional_vars) if item.optional_vars is not None else ():
                    frame.missing[name] = missing or frame.because(statement, error)

    def _bind_first(self, frame: Frame, loop: ast.For) -> None:
        """Bind the target of a loop to the first item: a model built for each of them is built once."""
        items, missing = frame.result(loop.iter, loop)
        if missing is None:
            try:
                frame.names["_bnlint_item"] = next(iter(items))
                binding = ast.copy_location(ast.Assign([loop.target], ast.Name("_bnlint_item", ast.Load())), loop)
                frame.execute(ast.fix_missing_locations(binding))
                return
            except (Exception, SystemExit) as error:
                missing = frame.because(loop, error)
            finally:
                frame.names.pop("_bnlint_item", None)
        for name in stores(loop.target):
            frame.missing[name] = missing

    def _is_training(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether a statement trains, and all that is wanted has a value by now."""
        late = {variable for variable in self.variables if frame.value(variable) is None}
        if late == set(self.variables) or not _trains(statement):
            return False
        self.late |= {variable for variable in late if variable not in frame.missing}
        return True

    # Single statements ---------------------------------------------------------------------------------

    def _run_leaf(self, frame: Frame, statement: ast.stmt) -> None:
        match statement:
            case ast.Return() | ast.Raise() | ast.Assert() | ast.Delete() | ast.Pass() | ast.Break() | ast.Continue():
                return
            case ast.Global():
                return
        if self._take_given(frame, statement) or self._sets_up(frame, statement):
            return
        run = self._runnable(statement)
        value = getattr(run, "value", None)
        missing = frame.lacks(statement_uses(run))
        if missing is None and isinstance(value, ast.expr):
            missing = frame.refused(value)
            if missing is not None and self._stands_in(frame, statement, value):
                return
        if missing is None:
            missing = self._execute(frame, statement, run)
        if missing is not None:
            frame.lose(statement, missing)

    def _runnable(self, statement: ast.stmt) -> ast.stmt:
        """A statement as it is run: without the wrappers around a model, and a definition without device checks."""
        if isinstance(statement, Function | ast.ClassDef):
            return self.script.device_checks.removed(statement)
        return without_wrappers(statement)

    def _execute(self, frame: Frame, statement: ast.stmt, run: ast.stmt) -> Missing | None:
        """Run a statement in the form that runs; why it raises, if it does."""
        try:
            frame.execute(run)
        except (Exception, SystemExit) as error:  # the script's own code: it may raise anything, or end the run
            if frame.tries:
                raise _Failed(error) from error
            return frame.because(statement, error)
        for name in made(statement):
            frame.missing.pop(name, None)
            if run is not statement:
                self._answer_module(frame.value(name))
        return None

    def _answer_module(self, value: Any) -> None:
        """Let `model.module` be the model: its wrapper was taken off."""
        if self._request.is_model(value) and not hasattr(value, "module"):
            value.__dict__["module"] = value
            self._wrapped.append(value)

    def _sets_up(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether a statement only sets up the machine, of which no model knows."""
        match statement:
            case ast.Expr(value=ast.Call(func=function)):
                return bool(_SET_UP.match(frame.plan.effects.definitions.origin(function) or ""))
        return False

    def _take_stated(self, frame: Frame) -> None:
        """Give the variables of a body the values that the user states, before its statements run."""
        bodies = [frame.plan.body]
        if frame.plan.body.function is None:
            bodies += [body for body in self.way[1:] if body.function is None]
        bound = {name for body in bodies for statement in body.statements for name in binds(statement)}
        for name in bound & self._request.given.keys():
            frame.set(name, self._request.given[name])

    def _take_given(self, frame: Frame, statement: ast.stmt) -> bool:
        """Whether the user states the value of the one name that a statement binds."""
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                target = name
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=owner), attr=name)]) if owner in frame.names:
                target = f"{owner}.{name}"
            case _:
                return False
        if name not in self._request.given:
            return False
        frame.set(target, self._request.given[name])
        return True

    def _stands_in(self, frame: Frame, statement: ast.stmt, value: ast.expr) -> bool:
        """Bind a data set whose classes are part of its definition to what has those classes and nothing else."""
        match statement, value:
            case ast.Assign(targets=[ast.Name(id=target)]), ast.Call(func=function):
                origin = frame.plan.effects.definitions.origin(function) or ""
                count = _CLASSES.get(last_name(function)) if origin.startswith("torchvision.datasets.") else None
                if count is None:
                    return False
                frame.set(target, _Classes(tuple(map(str, range(count)))))
                return True
        return False


class _Classes:
    """What stands for a data set of which only the classes are known."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes


# Syntax ------------------------------------------------------------------------------------------------


def _trains(statement: ast.stmt) -> bool:
    return not isinstance(statement, ast.FunctionDef | ast.ClassDef) and any(
        isinstance(node, ast.Call)
        and _TRAINING.fullmatch(last_name(node.func))
        and (node.args or node.keywords or isinstance(node.func, ast.Name) or last_name(node.func) == "backward")
        for node in ast.walk(statement)
    )


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
