"""Functions: what the parameters of the script's own functions are given, and what they return."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.source.definitions import Function, dotted, last_name
from bnlint.training.script import defaults
from bnlint.training.script.index import Binding, Place, Scope, Site, argument
from bnlint.training.script.values import (
    Context,
    Instance,
    Known,
    Unknown,
    Value,
)

if TYPE_CHECKING:
    from bnlint.training.script.constants import Constants

_MOST_CALLERS = 24
# Calls that run a function which they are given.
INDIRECT = ("spawn", "start_processes", "Process", "launch", "Thread")


def find_callers(constants: Constants, function: ast.AST) -> Iterator[Site]:
    """The calls of a function of the file; of a constructor, those of its class."""
    scope = constants.index.scopes[function]
    cls = scope.enclosing_class
    assert isinstance(function, Function)
    if cls is None:
        for site in constants.index.named.get(function.name, ()):
            if isinstance(site.call.func, ast.Name) and _is_bound_to(site.place.scope, function.name, function):
                yield site
        return
    if function.name in ("__init__", "__new__"):
        names = [cls.name, *(item.name for item in _subclasses(constants, cls))]
        for name in names:
            yield from (site for site in constants.index.named.get(name, ()) if isinstance(site.call.func, ast.Name))
        yield from _super_calls(constants, function)
        return
    rivals = constants.index.methods[function.name]
    called = "__call__" if function.name in ("forward", "__call__") else function.name
    for site in constants.index.named.get(called, ()):
        if not isinstance(site.call.func, ast.Attribute):
            continue
        receiver = site.call.func.value
        owner = site.place.scope.enclosing_class
        if isinstance(receiver, ast.Name) and receiver.id in ("self", "cls") and owner is not None:
            if owner is cls or cls in bases(constants, owner) or owner in bases(constants, cls):
                yield site
            continue
        found = constants.value(receiver, site.place)
        if isinstance(found, Known) and isinstance(found.data, Instance):
            if found.data.cls is cls or cls in bases(constants, found.data.cls):
                yield site
        elif isinstance(found, Unknown) and len(rivals) == 1:
            yield site


def _super_calls(constants: Constants, function: Function) -> Iterator[Site]:
    cls = constants.index.scopes[function].enclosing_class
    for site in constants.index.named.get(function.name, ()):
        owner = site.place.scope.enclosing_class
        if owner is not None and owner is not cls and cls in bases(constants, owner):
            yield site


def bases(constants: Constants, cls: ast.ClassDef) -> tuple[ast.ClassDef, ...]:
    """The classes of the file that a class derives from, itself left out."""
    found: list[ast.ClassDef] = []
    pending = [cls]
    while pending:
        for base in pending.pop().bases:
            for binding in constants.index.module.bindings.get(dotted(base) or "", ()):
                if isinstance(binding.node, ast.ClassDef) and binding.node not in (cls, *found):
                    found.append(binding.node)
                    pending.append(binding.node)
    return tuple(found)


def _subclasses(constants: Constants, cls: ast.ClassDef) -> Iterator[ast.ClassDef]:
    for node in constants.index.scopes:
        if isinstance(node, ast.ClassDef) and node is not cls and cls in bases(constants, node):
            yield node


def parameter_value(constants: Constants, binding: Binding, name: str, context: Context) -> Value:
    """What a function's parameter is given by the call that the context ends in, else by all of its calls."""
    scope = binding.place.scope
    function = scope.function
    if function is None:
        return Unknown(f"{name} is a parameter", None)
    cls = scope.enclosing_class
    arguments = [*function.args.posonlyargs, *function.args.args]
    position = next((number for number, item in enumerate(arguments) if item.arg == name), None)
    static = any(last_name(item) == "staticmethod" for item in function.decorator_list)
    if cls is not None and not static:
        if position == 0:
            return Known(_self(constants, function, cls, context), None)
        position = None if position is None else position - 1
    if context and function is called_by(constants, context[-1]):
        return _passed(constants, context[-1], function, name, position, context[:-1])
    sites = [site for site in constants.callers(function)[:_MOST_CALLERS] if constants.runs(site.place)[0] is not False]
    if not sites:
        return _default(constants, function, name)
    return constants.joined([_passed(constants, site, function, name, position, ()) for site in sites], None)


def _self(constants: Constants, function: Function, cls: ast.ClassDef, context: Context) -> Instance:
    if context and function is called_by(constants, context[-1]):
        site = context[-1]
        if function.name == "__init__" and site.name == cls.name:
            return Instance(cls, site, context[:-1])
        if isinstance(site.call.func, ast.Attribute):
            receiver = constants.value(site.call.func.value, site.place, context[:-1])
            if isinstance(receiver, Known) and isinstance(receiver.data, Instance):
                return receiver.data
    return Instance(cls)


def called_by(constants: Constants, site: Site) -> ast.AST | None:
    """The function of the file that a call runs, told by its callers."""
    function = site.call.func
    if isinstance(function, ast.Name):
        scope = site.place.scope.find(function.id)
        for binding in reversed(scope.bindings.get(function.id, []) if scope is not None else []):
            if isinstance(binding.node, Function):
                return binding.node
            if isinstance(binding.node, ast.ClassDef):
                return constructor(constants, binding.node)
        return None
    methods = constants.index.methods.get(site.name, [])
    return next((method for method in methods if site in constants.callers(method)), None)


def constructor(constants: Constants, cls: ast.ClassDef) -> Function | None:
    """The `__init__` that a class of the file runs."""
    for item in (cls, *bases(constants, cls)):
        for node in item.body:
            if isinstance(node, Function) and node.name == "__init__":
                return node
    return None


def _passed(
    constants: Constants, site: Site, function: Function, name: str, position: int | None, context: Context
) -> Value:
    given, certain = constants.argument(site, name, position, context)
    if given is not None:
        return given
    if not certain:
        return Unknown(f"{name} may be among the options that {constants.line(site.call)} passes", site.call)
    return _default(constants, function, name)


def _default(constants: Constants, function: Function, name: str) -> Value:
    option = defaults.option_of(function, name)
    if option is not None:
        found = constants.value(option.node, Place(constants.index.module, 0)) if option.node is not None else None
        if isinstance(found, Known):
            return replace(found, default=option.name)
        return Unknown(f"{option.name} has no default", None)
    node = defaults.default_of(function, name)
    if node is None:
        return Unknown(f"{name} is given by whoever calls {function.name}", None)
    found = constants.value(node, constants.index.definitions[function])
    if isinstance(found, Known):
        owner = constants.index.scopes[function].enclosing_class
        called = owner.name if owner is not None and function.name == "__init__" else function.name
        return replace(found, default=f"{called}({name}=)")
    return found


def returned(constants: Constants, function: Function, site: Site, context: Context) -> Value:
    """What a call of a function of the file returns."""
    scope = constants.index.scopes[function]
    if isinstance(function, ast.AsyncFunctionDef) or site in context or len(context) > 6:
        return Unknown(f"{function.name}() is known only when the script runs", site.call)
    inside = (*context, site)
    values: list[Value] = []
    for statement, place in scope.returns:
        state, taint, _ = constants.holds(place.guards, inside)
        if state is False:
            continue
        found: Value = Known(None, statement.value)
        if statement.value is not None:
            found = constants.value(statement.value, place, inside)
        values.append(found.tainted(taint) if isinstance(found, Known) else found)
        if state is True:
            break
    if not values:
        return Unknown(f"{function.name}() returns nothing", site.call)
    return constants.joined(values, site.call)


def add_indirect(constants: Constants, site: Site) -> None:
    """`spawn(train, args=(4,))` and `Process(target=train, args=(4,))` call a function of the file."""
    rank = site.name in ("spawn", "start_processes")
    target = argument(site.call, "fn" if rank else "target", 0)
    given = argument(site.call, "args", 1 if rank else None)
    if not isinstance(target, ast.Name):
        return
    passed: list[ast.expr] = [ast.Starred(ast.Name("args"))] if given is None and not rank else []
    if isinstance(given, ast.Tuple | ast.List):
        passed = list(given.elts)
    elif given is not None:
        passed = [ast.Starred(given)]
    if rank:
        passed.insert(0, ast.Name("the rank of the process"))
    call = ast.copy_location(ast.Call(target, passed, []), site.call)
    for item in passed[:1]:
        ast.copy_location(item, site.call)
    constants.index.add(call, site.place)


def _is_bound_to(scope: Scope, name: str, function: ast.AST) -> bool:
    found = scope.find(name)
    return found is not None and any(binding.node is function for binding in found.bindings.get(name, ()))
