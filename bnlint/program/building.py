"""Building: the models that a script constructs or is handed, and the modes that they begin in."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program.model_layers import layers_at
from bnlint.program.models import FRAMEWORK_SETS, NORMS, mode_of
from bnlint.program.state import State
from bnlint.program.values import Allocation, ClassRef, Model, Symbol, Unknown, Value
from bnlint.source.definitions import is_model_name, last_name

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def build(
    run: Interpreter,
    node: ast.Call,
    state: State,
    *,
    training: bool | None = True,
    cls: ClassRef | None = None,
    origin: str = "",
    parts: Sequence[Value] = (),
    why: str = "",
) -> Model:
    """A model that a call constructs."""
    kept = tuple(part for part in parts if isinstance(part, Model))
    pretrained = _is_pretrained(node)
    allocation = run.allocate(node, cls=cls, origin=origin, parts=kept, pretrained=pretrained)
    if cls is not None:
        if run.classes.is_managed(cls):
            training, why = None, FRAMEWORK_SETS
        elif _evaluates_itself(run, cls):
            training = False
    if training and kept:
        training, why = _mode_of_parts(run, allocation, kept, state)
    for key in [key for key in state.modes if key[0] is allocation]:
        del state.modes[key]  # built anew in the next pass of a loop
    state.frozen = frozenset(item for item in state.frozen if item.allocation is not allocation)
    state.modes[allocation, ""] = run.mode(training, node, explicit=False, why=why)
    if cls is not None:
        _set_up(run, allocation, cls, state)
    return Model(allocation)


def _mode_of_parts(
    run: Interpreter, allocation: Allocation, parts: Sequence[Model], state: State
) -> tuple[bool | None, str]:
    """The mode of a new module around others, which are in the mode that they were in."""
    parts = [part for part in parts if layers_at(run, part).mode_dependent is not False]
    modes = {mode_of(state, part).training for part in parts}
    if modes <= {True}:
        return True, ""
    cls = allocation.cls
    own = run.classes.layers(cls) if cls is not None else run.classes.layers_in(allocation.node, allocation.module)
    if len(modes) == 1 and own.mode_dependent is False:
        return modes.pop(), mode_of(state, parts[0]).why
    return None, "its parts are not in one mode"


def _is_pretrained(node: ast.Call) -> bool:
    for keyword in node.keywords:
        if keyword.arg in ("pretrained", "weights"):
            return not (isinstance(keyword.value, ast.Constant) and keyword.value.value in (None, False))
    return "from_pretrained" in last_name(node.func)


def _evaluates_itself(run: Interpreter, cls: ClassRef) -> bool:
    """Whether the constructor of a class ends with the model in evaluation mode."""
    constructor = run.classes.method(cls, "__init__")
    if constructor is None or isinstance(constructor.node, ast.Lambda):
        return False
    return any(
        isinstance(item, ast.Call) and ast.unparse(item.func) in ("self.eval", "super().eval")
        for item in ast.walk(constructor.node)
    )


def _set_up(run: Interpreter, allocation: Allocation, cls: ClassRef, state: State) -> None:
    """What the constructor of a module class does to the modes of its parts, as far as it does so in any case."""
    constructor = run.classes.method(cls, "__init__")
    if constructor is None or isinstance(constructor.node, ast.Lambda):
        return
    given = _constants(constructor.node, allocation.node)
    for item in _certain(run, cls, constructor.node.body, given, {constructor.node.name}):
        found: tuple[str, ast.Call] | None = None
        match item:
            case ast.For(target=ast.Name(id=name), iter=ast.Call(func=ast.Attribute(value=owner, attr="modules"))):
                found = _norms_in_evaluation(item, name, owner)
            case ast.Expr(
                value=ast.Call(func=ast.Attribute(value=ast.Attribute() as part, attr="eval"), args=[]) as call
            ):
                found = ast.unparse(part), call
        if found is not None and found[0].startswith("self") and "(" not in found[0] and "[" not in found[0]:
            where = replace(run.mode(False, found[1], explicit=True), module=constructor.module)
            state.modes[allocation, found[0].removeprefix("self").removeprefix(".")] = where


def _constants(constructor: ast.FunctionDef | ast.AsyncFunctionDef, call: ast.AST) -> dict[str, object]:
    """The literals that a constructor gets for its parameters, by their names."""
    names = [item.arg for item in (*constructor.args.posonlyargs, *constructor.args.args)]
    defaults = constructor.args.defaults
    given: dict[str, ast.expr] = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
    if isinstance(call, ast.Call):
        given |= dict(zip(names[1:], call.args, strict=False))
        given |= {item.arg: item.value for item in call.keywords if item.arg is not None}
    return {name: value.value for name, value in given.items() if isinstance(value, ast.Constant)}


def _certain(
    run: Interpreter, cls: ClassRef, body: Sequence[ast.stmt], given: dict[str, object], seen: set[str]
) -> Iterator[ast.stmt]:
    """The statements that run in any case, those of the methods that they call on `self` included."""
    for statement in body:
        match statement:
            case ast.If(test=ast.Name(id=name)) if name in given:
                inner = statement.body if given[name] else statement.orelse
                yield from _certain(run, cls, inner, given, seen)
            case ast.With(body=inner) | ast.Try(body=inner):
                yield from _certain(run, cls, inner, given, seen)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name))) if name not in seen:
                method = run.classes.method(cls, name)
                if method is not None and not isinstance(method.node, ast.Lambda):
                    yield from _certain(run, cls, method.node.body, {}, seen | {name})
        yield statement


def _norms_in_evaluation(loop: ast.For, name: str, owner: ast.expr) -> tuple[str, ast.Call] | None:
    """`for m in self.modules(): if isinstance(m, nn.BatchNorm2d): m.eval()`: whose norms, and the call."""
    for item in ast.walk(loop):
        match item:
            case ast.If(test=test, body=body) if re.search(r"[Nn]orm", ast.unparse(test)):
                for call in (inner for statement in body for inner in ast.walk(statement)):
                    match call:
                        case ast.Call(func=ast.Attribute(value=ast.Name(id=called), attr="eval")) if called == name:
                            return f"{ast.unparse(owner)}{NORMS}", call
    return None


def parameter(run: Interpreter, name: str, annotation: ast.expr | None, node: ast.AST, state: State) -> Value:
    """What a function is handed by callers who are not known, by the name and the annotation of its parameter."""
    words = "" if annotation is None else ast.unparse(annotation)
    if name in ("self", "cls"):
        return Unknown(run.symbol(node))
    if is_model_name(name) or re.search(r"\bModule\b", words):
        allocation = run.allocate(node, name=name, is_parameter=True)
        if (allocation, "") not in state.modes:
            state.modes[allocation, ""] = run.mode(
                None, node, explicit=False, why=f"the caller sets the mode of {name}"
            )
        return Model(allocation)
    return Unknown(Symbol(f"{run.symbol(node).text}:{name}"))
