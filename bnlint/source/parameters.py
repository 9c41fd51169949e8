"""Parameters: the values that the parameters of a function have, once the call that leads to it is reached."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnlint.source.definitions import Function
from bnlint.source.frame import Frame, Missing, is_size
from bnlint.source.needed import uses
from bnlint.source.plan import defaults_of
from bnlint.source.script_models import ModelScript
from bnlint.training.script.defaults import option_of
from bnlint.training.script.index import Place
from bnlint.training.script.values import Known


@dataclass(frozen=True)
class _Passed:
    """What a call passes, by parameter: values, and the reasons for those that are missing."""

    values: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, Missing] = field(default_factory=dict)


def bind_parameters(outer: Frame, inner: Frame) -> None:
    """Give a function's parameters the values that its call passes, as far as the body needs them."""
    body = inner.plan.body
    function = body.function
    assert function is not None
    arguments = function.args
    positional = [item.arg for item in (*arguments.posonlyargs, *arguments.args)]
    keywords = [item.arg for item in arguments.kwonlyargs]
    for name in (*positional, *keywords):
        inner.names.pop(name, None)  # a parameter hides a global of its name
        inner.missing.pop(name, None)
    passed = _Passed()
    if body.self_name is not None:
        positional = positional[1:]
        _bind_self(outer, inner, body.self_name)
    if body.call is not None:
        _pass(outer, body.call, positional, passed)
    defaults = defaults_of(arguments)
    for name in (*positional, *keywords):
        _bind(inner, function, name, defaults.get(name), passed)
    inner.missing |= {name: missing for name, missing in passed.lost.items() if "." in name}
    for rest, empty in ((arguments.vararg, ()), (arguments.kwarg, {})):
        if rest is not None:
            inner.names[rest.arg] = empty


def _bind(inner: Frame, function: Function, name: str, default: ast.expr | None, passed: _Passed) -> None:
    """Bind one parameter: to what the user states, to what the call passes, to its default, or to nothing."""
    given, script = inner.request.given, inner.request.script
    if name in given:
        inner.names[name] = given[name]
    elif name in passed.values:
        inner.names[name] = passed.values[name]
    elif name in passed.lost and _known(script, function, name) is None:
        missing = passed.lost[name]
        inner.missing[name] = replace(missing, wanted=missing.wanted or (name if is_size(name) else None))
    else:
        _bind_default(inner, function, name, default)


def _bind_default(inner: Frame, function: Function, name: str, default: ast.expr | None) -> None:
    if default is not None and option_of(function, name) is None and inner.lacks(uses(default)) is None:
        with contextlib.suppress(Exception, SystemExit):  # the script's own code raises: it has no such default
            inner.names[name] = inner.evaluate(default)
            return
    known = _known(inner.request.script, function, name)
    if known is not None:
        inner.names[name] = known.data
        return
    inner.missing[name] = Missing(_unknown(function, name), function.lineno, wanted=name)


def _known(script: ModelScript, function: Function, name: str) -> Known | None:
    """A parameter's value as the source tells it: a number, a text or a truth value."""
    constants = script.reading.constants
    scope = constants.index.scopes.get(function)
    if scope is None:
        return None
    found = constants.value(ast.copy_location(ast.Name(name, ast.Load()), function), Place(scope, 10**9))
    if not isinstance(found, Known):
        return None
    return found if found.data is None or isinstance(found.data, bool | int | float | str) else None


def _unknown(function: Function, name: str) -> str:
    if any("hydra" in ast.unparse(item) for item in function.decorator_list):
        return f"{name} is the configuration that Hydra composes when {function.name}() starts"
    return f"{name} is given by whoever calls {function.name}()"


# Objects -----------------------------------------------------------------------------------------------


def _bind_self(outer: Frame, inner: Frame, name: str) -> None:
    """Bind a method's first parameter: to the object that the method is called on, else to a new one without state."""
    body = inner.plan.body
    call = body.call
    assert body.cls is not None and body.function is not None
    if body.function.name == "__init__" or call is None or not isinstance(call.func, ast.Attribute):
        _bind_new(inner, name, body.cls)
        return
    receiver = call.func.value
    missing = outer.lacks(uses(receiver))
    if missing is not None:
        inner.missing[name] = missing
        return
    try:
        inner.names[name] = outer.evaluate(receiver)
    except (Exception, SystemExit) as error:  # the script's own code: it may raise anything, or end the run
        inner.missing[name] = outer.because(call, error)
        return
    if isinstance(receiver, ast.Name) and receiver.id == outer.plan.body.self_name:
        inner.missing |= _attributes(outer, receiver, name)


def _bind_new(inner: Frame, name: str, definition: ast.ClassDef) -> None:
    cls = inner.names.get(definition.name)
    if isinstance(cls, type):
        inner.names[name] = object.__new__(cls)
        return
    reason = f"the class {definition.name} is not defined"
    inner.missing[name] = inner.lacks([definition.name]) or Missing(reason, definition.lineno)


# Arguments ---------------------------------------------------------------------------------------------


def _pass(outer: Frame, call: ast.Call, names: Sequence[str], passed: _Passed) -> None:
    """Note the values that a call passes."""
    if _pass_positional(outer, call, names, passed):
        for keyword in call.keywords:
            value, missing = _argument(outer, keyword.value)
            if keyword.arg is not None:
                _note(outer, keyword.value, keyword.arg, (value, missing), passed)
            elif isinstance(value, Mapping):
                passed.values.update((str(name), item) for name, item in value.items())


def _pass_positional(outer: Frame, call: ast.Call, names: Sequence[str], passed: _Passed) -> bool:
    """Note what a call passes by position; False where an unknown number of arguments leaves the others open."""
    position = 0
    for item in call.args:
        if isinstance(item, ast.Starred):
            values, missing = _argument(outer, item.value)
            if missing is not None or not isinstance(values, tuple | list):
                spread = missing or Missing("its arguments are spread over the call", call.lineno)
                passed.lost.update(dict.fromkeys(names[position:], spread))
                return False
            passed.values.update(zip(names[position:], values, strict=False))
            position += len(values)
            continue
        if position < len(names):
            _note(outer, item, names[position], _argument(outer, item), passed)
        position += 1
    return True


def _note(outer: Frame, node: ast.expr, parameter: str, found: tuple[Any, Missing | None], passed: _Passed) -> None:
    value, missing = found
    if missing is not None:
        passed.lost[parameter] = missing
        return
    passed.values[parameter] = value
    passed.lost.update(_attributes(outer, node, parameter))


def _argument(outer: Frame, node: ast.expr) -> tuple[Any, Missing | None]:
    if isinstance(node, ast.Name) and not node.id.isidentifier():
        return 0, None  # the rank that `spawn` passes first: the first process
    return outer.result(node)


def _attributes(outer: Frame, node: ast.expr, parameter: str) -> dict[str, Missing]:
    """What an object lacks that is passed as a parameter: `args.classes`, under the parameter's name."""
    if not isinstance(node, ast.Name):
        return {}
    start = f"{node.id}."
    return {
        f"{parameter}.{name.removeprefix(start)}": missing
        for name, missing in outer.missing.items()
        if name.startswith(start)
    }
