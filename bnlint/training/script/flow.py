"""Flow: which assignment of a name reaches a place of the script."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnlint.source.definitions import Function
from bnlint.training.script import functions, objects, ranks
from bnlint.training.script.index import Binding, Place, Scope, argument
from bnlint.training.script.values import (
    Built,
    Context,
    Defined,
    Imported,
    Instance,
    Known,
    Options,
    Ranks,
    Table,
    Unknown,
    Value,
    same,
)

if TYPE_CHECKING:
    from bnlint.training.script.constants import Constants


def name_value(constants: Constants, node: ast.Name, name: str, place: Place, context: Context) -> Value:
    """What a name stands for at a place."""
    scope = place.scope.find(name)
    if scope is None:
        return Known(Imported(name), node)
    bindings = scope.bindings.get(name, [])
    if is_inline(place.scope, scope):  # a comprehension sees what its statement sees
        found = reaching(constants, bindings, Place(scope, place.order, place.guards, place.loops), context)
    else:
        found = _from_elsewhere(constants, name, bindings, context)
    values = []
    for binding, taint in found:
        bound = bound_value(constants, binding, name, context if is_inline(place.scope, scope) else ())
        values.append(bound.tainted(taint) if isinstance(bound, Known) else bound)
    if not values:
        return Unknown(f"{name} has no value yet", node)
    joined = constants.joined(values, node)
    if isinstance(joined, Unknown) and ranks.NAMES.fullmatch(name) and not joined.alternatives:
        return Known(Ranks(), node)
    return joined


def reaching(
    constants: Constants, bindings: Sequence[Binding], use: Place, context: Context
) -> list[tuple[Binding, str | None]]:
    """The bindings that may reach a use, latest first, each with the default that lets it."""
    found: list[tuple[Binding, str | None]] = []
    taint: str | None = None
    covered: set[frozenset[tuple[int, bool]]] = set()
    for binding in reversed(bindings):
        late = binding.place.order >= use.order or binding.place.scope is not use.scope
        if late and not _may_come_first(binding, use):
            continue
        state, default, unknown = constants.holds(binding.place.guards, context, use.guards)
        taint = taint or default
        if state is False:
            continue
        found.append((binding, taint))
        if not late and (state is True or covers(covered, unknown)):
            break
    return found


def _from_elsewhere(
    constants: Constants, name: str, bindings: Sequence[Binding], context: Context
) -> list[tuple[Binding, str | None]]:
    """The bindings of another scope's name: any of them, except those that a later one is computed from."""
    found: list[tuple[Binding, str | None]] = []
    taint: str | None = None
    for binding in reversed(bindings):
        state, default, _ = constants.holds(binding.place.guards, context)
        taint = taint or default
        if state is False:
            continue
        found.append((binding, taint))
        if state is True and _reads(binding, name):
            break
    return found


def bound_value(constants: Constants, binding: Binding, name: str, context: Context) -> Value:
    """What a binding gives a name."""
    if binding.origin is not None:
        return Known(Imported(binding.origin), None)
    match binding.node:
        case ast.arg():
            return functions.parameter_value(constants, binding, name, context)
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef() as definition:
            return Known(Defined(definition), None)
        case ast.AugAssign(target=ast.Name() | ast.Attribute() as target, op=operation, value=value):
            before = constants.value(target, binding.place, context)
            return constants.binary(value, type(operation), before, constants.value(value, binding.place, context))
    if binding.value is None:
        return Unknown(f"{name} changes while the script runs", None)
    found = constants.value(binding.value, binding.place, context)
    for position in binding.path:
        if isinstance(found, Unknown):
            return found
        data = found.data
        if not isinstance(data, tuple) or position >= len(data):
            return _part(constants, found, position)
        part = data[position]
        found = part.tainted(found.decided_by) if isinstance(part, Known) else part
    return found


def _part(constants: Constants, found: Known, position: int) -> Value:
    """One of several results of a library's call, such as the parts of random_split."""
    if isinstance(found.data, Built) and found.data.origin.rpartition(".")[2] == "random_split":
        return Known(replace(found.data, origin=f"{found.data.origin}[{position}]"), found.node, found.default)
    return Unknown("it is one of several results that are known only when the script runs", found.node)


def meaning(constants: Constants, node: ast.expr, place: Place) -> tuple[ast.expr, Place] | None:
    """The one expression that a name, an attribute or a parameter stands for, and where that stands."""
    match node:
        case ast.Name(id=name):
            scope = place.scope.find(name)
            bindings = scope.bindings.get(name, []) if scope is not None else []
            if scope is None or not is_inline(place.scope, scope):
                found = _from_elsewhere(constants, name, bindings, ())
            else:
                found = reaching(constants, bindings, Place(scope, place.order, place.guards, place.loops), ())
            if len(found) != 1:
                return None
            binding = found[0][0]
        case ast.Attribute(attr=name):
            binding_of = _single_store(constants, node, name, place)
            if binding_of is None:
                return None
            binding = binding_of
        case _:
            return None
    if isinstance(binding.node, ast.arg):
        return _passed_expression(constants, binding, name)
    if isinstance(binding.node, ast.AugAssign):
        made = constants.combined.get(binding.node)
        if made is None:
            combined = ast.BinOp(binding.node.target, binding.node.op, binding.node.value)
            made = constants.combined[binding.node] = ast.copy_location(combined, binding.node)
        return made, binding.place
    if binding.value is None or binding.path:
        return None
    return binding.value, binding.place


def _single_store(constants: Constants, node: ast.Attribute, name: str, place: Place) -> Binding | None:
    """The one store that an attribute's value is from, if its object is told."""
    owner = constants.value(node.value, place)
    if not isinstance(owner, Known) or not isinstance(owner.data, Options | Instance | Table):
        return None
    data = owner.data

    def matches(other: Any) -> bool:
        return same(data, other) or (
            isinstance(data, Instance) and isinstance(other, Instance) and data.cls is other.cls
        )

    stores = [
        store
        for store in constants.index.attributes.get(name, ())
        if objects.is_stored_in(constants, store, matches, ())
    ]
    local = [store for store in stores if store.place.scope is place.scope]
    reached = objects.last_stores(constants, local, place, ()) if local else []
    if not reached and len(stores) == 1:
        reached = [(stores[0], None)]
    if len(reached) != 1 or constants.holds(reached[0][0].place.guards, (), place.guards)[0] is not True:
        return None
    return reached[0][0].binding


def _passed_expression(constants: Constants, binding: Binding, name: str) -> tuple[ast.expr, Place] | None:
    function = binding.place.scope.function
    sites = constants.callers(function) if function is not None else ()
    if function is None or len(sites) != 1:
        return None
    arguments = [*function.args.posonlyargs, *function.args.args]
    position = next((number for number, item in enumerate(arguments) if item.arg == name), None)
    if position is not None and binding.place.scope.enclosing_class is not None:
        position -= 1
    given = argument(sites[0].call, name, position)
    return None if given is None else (given, sites[0].place)


def is_inline(inner: Scope, outer: Scope) -> bool:
    """Whether only comprehensions and lambdas lie between two scopes."""
    scope: Scope | None = inner
    while scope is not None and scope is not outer:
        if isinstance(scope.node, ast.ClassDef | Function | ast.Module):
            return False
        scope = scope.parent
    return scope is outer


def _may_come_first(binding: Binding, use: Place) -> bool:
    """Whether a later statement can have run before a use: in a loop around both, or in another function."""
    if binding.place.scope is not use.scope:
        return binding.place.order != use.order
    return any(loop in use.loops for loop in binding.place.loops)


def covers(covered: set[frozenset[tuple[int, bool]]], unknown: frozenset[tuple[int, bool]]) -> bool:
    """Whether the conditions met so far leave no case out: `if a: ... else: ...`."""
    pending = [unknown]
    while pending:
        current = pending.pop()
        if not current:
            return True
        if current in covered:
            continue
        covered.add(current)
        for test, holds in current:
            opposite = (current - {(test, holds)}) | {(test, not holds)}
            if opposite in covered:
                pending.append(current - {(test, holds)})
    return False


def _reads(binding: Binding, name: str) -> bool:
    if isinstance(binding.node, ast.AugAssign):
        return True
    return binding.value is not None and any(
        isinstance(item, ast.Name) and item.id == name for item in ast.walk(binding.value)
    )
