"""Freezing: which parameters a script takes out of training, by the conditions that it sets on their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from bnlint.program.values import Allocation, Const, Items, SomeParameters
from bnlint.source.definitions import last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter
    from bnlint.program.module import Module
    from bnlint.program.state import State

_COLLECTION = re.compile(r"(?:named_)?(parameters|modules|children)")
_TORCH_LAYER = re.compile(
    r"(Conv\w*|Linear|Bilinear|Embedding\w*|LSTM|GRU|RNN|\w*Norm(\dd)?|\w*BatchNorm\w*|_?BatchNorm|_NormBase)"
)
_UNKNOWN: Any = object()


@dataclass(frozen=True)
class Pick:
    """A condition that a parameter meets to be among those that are meant, or one that it fails (`holds` False).

    `variable` is what the condition calls the name of each of the `of` ("parameters", "modules", "children"),
    `known` holds other names in it with their values. `prefix` stands before every name in a wrapped model.
    """

    test: ast.expr
    holds: bool
    of: str
    variable: str = ""
    known: tuple[tuple[str, Any], ...] = field(default=(), compare=False)
    prefix: str = ""

    def is_opposite_of(self, other: Pick) -> bool:
        return self.test is other.test and self.holds is not other.holds


@dataclass(frozen=True)
class Selection:
    """The parameters of a model at a path and below, as far as the conditions on them hold."""

    path: str
    picks: tuple[Pick, ...] = ()

    def includes(self, name: str, classes: frozenset[str] = frozenset()) -> bool | None:
        """Whether a parameter is meant; `classes` are the names of the classes of the layer that it belongs to."""
        if self.path and not name.startswith(f"{self.path}."):
            return False
        own = name[len(self.path) + 1 :] if self.path else name
        found = [_met(pick, own, classes) for pick in self.picks]
        return False if False in found else None if None in found else True

    def covers(self, other: Selection) -> bool:
        """Whether all that another selection means is meant."""
        if self.picks and self.picks != other.picks:
            return False
        return not self.path or other.path == self.path or other.path.startswith(f"{self.path}.")

    def meets(self, other: Selection) -> bool:
        """Whether a parameter may be meant by both."""
        if any(one.is_opposite_of(two) for one in self.picks for two in other.picks):
            return False
        shorter, longer = sorted((self.path, other.path), key=len)
        return not shorter or longer == shorter or longer.startswith(f"{shorter}.")


@dataclass(frozen=True)
class Freezing:
    """Parameters of a model that were taken out of training, without those that were put back or replaced since."""

    allocation: Allocation
    selection: Selection
    node: ast.AST
    module: Module = field(repr=False)
    without: tuple[Selection, ...] = ()

    @property
    def path(self) -> str:
        return self.selection.path

    def includes(self, name: str, classes: frozenset[str] = frozenset()) -> bool | None:
        """Whether a parameter of the model is frozen."""
        found = self.selection.includes(name, classes)
        for item in self.without:
            back = item.includes(name, classes)
            if back:
                return False
            if back is None and found:
                found = None
        return found

    @property
    def includes_norms(self) -> bool | None:
        """Whether norm layers are frozen of which nothing but their kind is known: True, or None for some or none."""
        path = f"{self.path}." if self.path else ""
        names = (("bn1", "BatchNorm2d"), ("norm1", "BatchNorm2d"), ("1", "BatchNorm2d"), ("conv1", "Conv2d"))
        found = {self.includes(f"{path}\x7f.{name}.weight", frozenset((cls,))) for name, cls in names}
        return True if found == {True} else None


def selection(run: Interpreter, some: SomeParameters, node: ast.AST, state: State, given: ast.expr | None) -> Selection:
    """The parameters that are meant at a place in the program, by the loops and conditions around it.

    `given` is an expression on their names that decides for each of them.
    """
    picks = list(picks_around(run, node, state, some))
    if given is not None:
        of, variable = next((_loop_names(loop) for loop, _ in reversed(run.loops)), ("", ""))
        picks.append(_pick(run, given, False, of, variable, some, state))
    elif some.some and not picks:
        picks.append(Pick(ast.Constant(None), True, ""))
    return Selection(some.model.path, tuple(dict.fromkeys(picks)))


def frozen(known: Iterable[Freezing], added: Freezing) -> frozenset[Freezing]:
    """What is frozen after more is."""
    kept = (
        item for item in known if item.allocation is not added.allocation or not added.selection.covers(item.selection)
    )
    return frozenset((*kept, added))


def unfrozen(known: Iterable[Freezing], allocation: Allocation, back: Selection) -> frozenset[Freezing]:
    """What is frozen after some parameters are put back into training, or replaced by new ones."""
    made = []
    for item in known:
        if item.allocation is not allocation or not back.meets(item.selection) or back in item.without:
            made.append(item)
        elif not back.covers(item.selection):
            made.append(replace(item, without=(*item.without, back)))
    return frozenset(made)


# Conditions ------------------------------------------------------------------------------------------------


def picks_around(run: Interpreter, node: ast.AST, state: State, some: SomeParameters) -> Iterator[Pick]:
    """The conditions around a place that differ from one parameter or module of a loop to the next."""
    chain = [*run.calls, node]
    for loop, _ in run.loops:
        of, variable = _loop_names(loop)
        if not of:
            continue
        if isinstance(loop, ast.For | ast.AsyncFor):
            place = next((item for item in chain if _holds(loop, item)), None)
            own = _names_in(loop.target) | {
                item.id
                for statement in loop.body
                for item in ast.walk(statement)
                if isinstance(item, ast.Name) and isinstance(item.ctx, ast.Store)
            }
            tests = [] if place is None else list(_tests(loop.body, place))
        else:
            assert isinstance(loop, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp)
            own = _names_in(loop.generators[0].target)
            tests = [(test, True) for test in loop.generators[0].ifs]
        for test, holds in tests:
            if _names_in(test) & own:
                yield _pick(run, test, holds, of, variable, some, state)


def _pick(
    run: Interpreter, test: ast.expr, holds: bool, of: str, variable: str, some: SomeParameters, state: State
) -> Pick:
    known = []
    for name in sorted(_names_in(test) - {variable}):
        found = run.look_up(name, state)
        match found:
            case Const(data=data):
                known.append((name, data))
            case Items(parts=parts) if all(isinstance(part, Const) for part in parts):
                known.append((name, tuple(part.data for part in parts if isinstance(part, Const))))
    wrapped = any(wrap in ("ddp", "dp") for wrap in some.model.wraps)
    return Pick(test, holds, of, variable, tuple(known), "module." if wrapped and not some.model.path else "")


def _loop_names(loop: ast.AST) -> tuple[str, str]:
    """What of a model a loop goes over, and the name that it gives to the name of each."""
    if isinstance(loop, ast.For | ast.AsyncFor):
        target, iterable = loop.target, loop.iter
    elif isinstance(loop, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        target, iterable = loop.generators[0].target, loop.generators[0].iter
    else:
        return "", ""
    calls = [item for item in ast.walk(iterable) if isinstance(item, ast.Call)]
    found = next((match for call in calls if (match := _COLLECTION.fullmatch(last_name(call.func)))), None)
    if found is None:
        return "", ""
    is_named = found[0].startswith("named_") and iterable in calls and last_name(iterable.func) == found[0]
    if is_named and isinstance(target, ast.Tuple) and isinstance(target.elts[0], ast.Name):
        return found[1], target.elts[0].id
    return found[1], ""


def _tests(body: list[ast.stmt], place: ast.AST) -> Iterator[tuple[ast.expr, bool]]:
    """The conditions on the way to a place in some statements, each with what it must give."""
    leaving = (ast.Continue, ast.Break, ast.Return)
    for statement in body:
        if not _holds(statement, place):
            if isinstance(statement, ast.If) and not statement.orelse and isinstance(statement.body[-1], leaving):
                yield statement.test, False
            continue
        if isinstance(statement, ast.If):
            in_body = any(_holds(item, place) for item in statement.body)
            yield statement.test, in_body
            yield from _tests(statement.body if in_body else statement.orelse, place)
            return
        for name in ("body", "orelse", "finalbody"):
            inner = getattr(statement, name, None)
            if isinstance(inner, list):
                yield from _tests([item for item in inner if isinstance(item, ast.stmt)], place)
        return


def _holds(node: ast.AST, inner: ast.AST) -> bool:
    return any(item is inner for item in ast.walk(node))


def _names_in(node: ast.AST) -> set[str]:
    return {item.id for item in ast.walk(node) if isinstance(item, ast.Name)}


# What conditions give --------------------------------------------------------------------------------------


def _met(pick: Pick, name: str, classes: frozenset[str]) -> bool | None:
    """Whether a parameter meets a condition: itself, or a module that it belongs to."""
    parts = name.split(".")[:-1]
    match pick.of:
        case "parameters":
            names = [name]
        case "children":
            names = parts[:1]
        case "modules":
            names = [".".join(parts[:count]) for count in range(len(parts) + 1)]
        case _:
            return None
    if any(isinstance(item, ast.Call) and last_name(item.func) == "isinstance" for item in ast.walk(pick.test)):
        names = names[-1:]  # the kind of a layer is asked for
    found = []
    for item in names:
        known = dict(pick.known) | ({pick.variable: pick.prefix + item} if pick.variable else {})
        value = _evaluated(pick.test, known, classes)
        found.append(None if value is _UNKNOWN else bool(value) is pick.holds)
    return True if True in found else None if None in found or not found else False


def _evaluated(node: ast.expr, known: dict[str, Any], classes: frozenset[str]) -> Any:
    """The value of a condition on names, `_UNKNOWN` where it asks for anything else."""
    match node:
        case ast.Constant(value=data):
            return data
        case ast.Name(id=name):
            return known.get(name, _UNKNOWN)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            values = [_evaluated(item, known, classes) for item in items]
            return _UNKNOWN if _UNKNOWN in values else tuple(values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = _evaluated(operand, known, classes)
            return _UNKNOWN if value is _UNKNOWN else not value
        case ast.BoolOp(op=operation, values=operands):
            decides = isinstance(operation, ast.Or)
            values = [_evaluated(item, known, classes) for item in operands]
            if any(value is not _UNKNOWN and bool(value) is decides for value in values):
                return decides
            return _UNKNOWN if any(value is _UNKNOWN for value in values) else not decides
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            return _compared(comparison, _evaluated(left, known, classes), _evaluated(right, known, classes))
        case ast.Call(func=ast.Name(id="any" | "all" as function), args=[ast.GeneratorExp() as made]):
            return _over(made, known, classes, is_any=function == "any")
        case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
            names = [last_name(item) for item in (kinds.elts if isinstance(kinds, ast.Tuple) else [kinds])]
            if classes.intersection(names):
                return True
            return False if classes and all(map(_TORCH_LAYER.fullmatch, names)) else _UNKNOWN
        case ast.Call(func=ast.Attribute(value=receiver, attr=method), args=arguments, keywords=[]):
            return _text(
                method, _evaluated(receiver, known, classes), [_evaluated(x, known, classes) for x in arguments]
            )
        case ast.Subscript(value=inner, slice=ast.Constant(value=int() as position)):
            value = _evaluated(inner, known, classes)
            if value is not _UNKNOWN and isinstance(value, str | tuple | list) and -len(value) <= position < len(value):
                return value[position]
    return _UNKNOWN


def _compared(comparison: ast.cmpop, left: Any, right: Any) -> Any:
    if left is _UNKNOWN or right is _UNKNOWN:
        return _UNKNOWN
    match comparison:
        case ast.Eq():
            return left == right
        case ast.NotEq():
            return left != right
        case ast.In() | ast.NotIn() if isinstance(right, tuple | list) or (
            isinstance(left, str) and isinstance(right, str)
        ):
            return (left in right) is isinstance(comparison, ast.In)
    return _UNKNOWN


def _over(made: ast.GeneratorExp, known: dict[str, Any], classes: frozenset[str], *, is_any: bool) -> Any:
    """`any(word in name for word in words)`."""
    generator = made.generators[0]
    items = _evaluated(generator.iter, known, classes)
    if (
        len(made.generators) > 1
        or generator.ifs
        or not isinstance(items, tuple)
        or not isinstance(generator.target, ast.Name)
    ):
        return _UNKNOWN
    values = [_evaluated(made.elt, {**known, generator.target.id: item}, classes) for item in items]
    if any(value is not _UNKNOWN and bool(value) is is_any for value in values):
        return is_any
    return _UNKNOWN if any(value is _UNKNOWN for value in values) else not is_any


def _text(method: str, text: Any, arguments: list[Any]) -> Any:
    """A method of a text."""
    if not isinstance(text, str) or any(item is _UNKNOWN for item in arguments):
        return _UNKNOWN
    match method, arguments:
        case (("startswith" | "endswith"), [str() | tuple() as given]):
            return text.startswith(given) if method == "startswith" else text.endswith(given)
        case "split", [str() as separator] if separator:
            return tuple(text.split(separator))
        case "lower", []:
            return text.lower()
        case "find", [str() as given]:
            return text.find(given)
    return _UNKNOWN
