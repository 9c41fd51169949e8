"""Constants: what the expressions of a script evaluate to, without running any of it."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from bnlint.source.definitions import dotted
from bnlint.source.file import SourceFile
from bnlint.training.script import calls, defaults, flow, functions, objects
from bnlint.training.script.index import Guard, Index, Place, Scope, Site, argument, spreads, text_of
from bnlint.training.script.values import (
    Context,
    Known,
    Options,
    PerRank,
    Ranks,
    Table,
    TimesRanks,
    Unknown,
    Value,
    in_words,
    is_scalar,
    same,
)

_DEEPEST = 40  # nested look-ups; more is a chain that nobody writes
_MOST_STEPS = 60_000
_LARGEST = 10**15

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


class Constants:
    """The values of a script's expressions."""

    def __init__(self, source: SourceFile, index: Index) -> None:
        self.source = source
        self.index = index
        self.options = defaults.Declared(index, self)
        self._known: dict[tuple[int, int, Context], tuple[ast.expr, Value]] = {}
        self._active: set[tuple[int, int, Context]] = set()
        self._origins: dict[tuple[str, Scope], str] = {}
        self.combined: dict[ast.AugAssign, ast.BinOp] = {}  # by `x *= 2`: the product that it stands for
        self._depth = 0
        self._steps = 0
        self._callers: dict[ast.AST, tuple[Site, ...]] = {}
        self._alive: dict[int, tuple[bool | None, str | None]] = {}
        for name in functions.INDIRECT:
            for site in tuple(index.named.get(name, ())):
                functions.add_indirect(self, site)

    def line(self, node: ast.AST | None) -> str:
        """Where a node stands, as "line 12"."""
        return f"line {getattr(node, 'lineno', 1)}"

    def text(self, node: ast.expr) -> str:
        """An expression as it stands in the file, on one short line."""
        return text_of(self.source, node)

    def origin(self, expression: ast.expr, place: Place) -> str:
        """The full name behind a dotted name: `nn.Linear` -> "torch.nn.Linear"; empty where there is none."""
        name = dotted(expression)
        if name is None:
            return ""
        key = (name, place.scope)
        if key not in self._origins:
            self._origins[key] = self._full_name(name, place)
        return self._origins[key]

    def _full_name(self, name: str, place: Place) -> str:
        first, dot, rest = name.partition(".")
        scope = place.scope.find(first)
        if scope is not None:
            found = scope.bindings.get(first, [])
            origin = next((binding.origin for binding in reversed(found) if binding.origin), None)
            if origin is not None:
                return f"{origin}{dot}{rest}"
        return name

    # Expressions ---------------------------------------------------------------------------------------

    def value(self, expression: ast.expr, place: Place, context: Context = ()) -> Value:
        """What an expression stands for at a place, reached through some calls."""
        key = (id(expression), place.order, context)
        if key in self._known:
            return self._known[key][1]
        self._steps += 1
        if key in self._active:
            return Unknown("it depends on itself", expression)
        if self._depth >= _DEEPEST or self._steps > _MOST_STEPS:
            return Unknown("it is computed in too many steps", expression)
        self._active.add(key)
        self._depth += 1
        try:
            found = self._evaluate(expression, place, context)
        finally:
            self._depth -= 1
            self._active.discard(key)
        self._known[key] = expression, found  # with the expression: another one must not get its id
        return found

    def argument(
        self, site: Site, name: str, position: int | None = None, context: Context = ()
    ) -> tuple[Value | None, bool]:
        """What a call passes for a parameter (None: nothing) and whether that is certain.

        A mapping that the call spreads over its keywords may hold the parameter.
        """
        given = argument(site.call, name, position)
        if given is not None:
            return self.value(given, site.place, context), True
        if position is not None and any(isinstance(item, ast.Starred) for item in site.call.args[: position + 1]):
            return Unknown("it is one of several arguments that are spread over the call", site.call), True
        for spread in spreads(site.call):
            table = self.value(spread, site.place, context)
            if isinstance(table, Known) and isinstance(table.data, Options):  # `**vars(args)`
                if self.options.declares(name):
                    return objects.option(self, name, spread, site.place, context), True
                continue
            if not isinstance(table, Known) or not isinstance(table.data, Table):
                return None, False
            item = objects.entry(self, table.data, name, site.place, context, attribute=False)
            if item is not None:
                return (item.tainted(table.decided_by) if isinstance(item, Known) else item), True
        return None, True

    def _evaluate(self, node: ast.expr, place: Place, context: Context) -> Value:
        match node:
            case ast.Constant(value=data):
                return Known(data, node)
            case ast.Name(id=name):
                return flow.name_value(self, node, name, place, context)
            case ast.Attribute():
                return objects.attribute_value(self, node, place, context)
            case ast.Subscript():
                return objects.subscript_value(self, node, place, context)
            case ast.Call():
                return calls.call_value(self, node, place, context)
            case ast.Tuple(elts=items) | ast.List(elts=items):
                if any(isinstance(item, ast.Starred) for item in items):
                    return Unknown("it is put together when the script runs", node)
                return Known(tuple(self.value(item, place, context) for item in items), node)
            case ast.Dict(keys=keys, values=values):
                return self._dict(node, keys, values, place, context)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                truth, taint = self.truth(operand, place, context)
                if truth is None:
                    return Unknown(f"{self.text(node)} is known only when the script runs", node)
                return Known(not truth, node, unless=taint)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.value(operand, place, context)
                if isinstance(inner, Known) and inner.number is not None:
                    return replace(inner, data=-inner.data, node=node)
                return inner if isinstance(inner, Unknown) else Unknown("it is no number", node)
            case ast.BinOp(left=left, op=operation, right=right):
                first, second = self.value(left, place, context), self.value(right, place, context)
                return self.binary(node, type(operation), first, second)
            case ast.Compare() | ast.BoolOp():
                truth, taint = self.truth(node, place, context)
                if truth is None:
                    return Unknown(f"{self.text(node)} is known only when the script runs", node)
                if isinstance(node, ast.BoolOp):
                    return self._chosen(node, place, context)
                return Known(truth, node, unless=taint)
            case ast.IfExp(test=test, body=body, orelse=other):
                truth, taint = self.truth(test, place, context)
                if truth is not None:
                    found = self.value(body if truth else other, place, context)
                    return found.tainted(taint) if isinstance(found, Known) else found
                return self.joined([self.value(body, place, context), self.value(other, place, context)], node)
            case ast.NamedExpr(value=inner) | ast.Await(value=inner):
                return self.value(inner, place, context)
        return Unknown(f"{self.text(node)} is known only when the script runs", node)

    def _chosen(self, node: ast.BoolOp, place: Place, context: Context) -> Value:
        """`a or b` is the first operand that decides."""
        wanted = isinstance(node.op, ast.Or)
        taint: str | None = None
        for operand in node.values:
            truth, default = self.truth(operand, place, context)
            taint = taint or default
            if truth is None:
                return Unknown(f"{self.text(node)} is known only when the script runs", node)
            if truth is wanted or operand is node.values[-1]:
                found = self.value(operand, place, context)
                return found.tainted(taint) if isinstance(found, Known) else found
        return Unknown("it has no operands", node)

    def _dict(
        self,
        node: ast.Dict,
        keys: Sequence[ast.expr | None],
        values: Sequence[ast.expr],
        place: Place,
        context: Context,
    ) -> Value:
        entries: dict[str, Value] = {}
        for key, value in zip(keys, values, strict=True):
            if key is None:
                inner = self.value(value, place, context)
                if not isinstance(inner, Known) or not isinstance(inner.data, Table):
                    return Unknown("it spreads a mapping that is known only when the script runs", node)
                entries |= inner.data.entries
            elif isinstance(key, ast.Constant):
                entries[str(key.value)] = self.value(value, place, context)
        return Known(Table(node, entries, place), node)

    def binary(self, node: ast.expr, operation: type[ast.operator], first: Value, second: Value) -> Value:
        for value in (first, second):
            if isinstance(value, Unknown):
                return Unknown(value.reason, node)
        assert isinstance(first, Known) and isinstance(second, Known)
        default, unless = first.default or second.default, first.unless or second.unless
        one, other = first.data, second.data
        if isinstance(other, Ranks) and operation in (ast.Div, ast.FloorDiv):
            if isinstance(one, TimesRanks):
                return one.share
            if first.number is not None:
                return Known(PerRank(first), node, default)
        if operation is ast.Mult and (isinstance(one, Ranks) or isinstance(other, Ranks)):
            share = second if isinstance(one, Ranks) else first
            if isinstance(share.data, PerRank):
                return share.data.total
            if share.number is not None:
                return Known(TimesRanks(share), node, default)
        if first.number is None or second.number is None:
            if isinstance(one, str) and isinstance(other, str) and operation is ast.Add and len(one + other) < 1000:
                return Known(one + other, node, default)
            return Unknown(f"{self.text(node)} is known only when the script runs", node)
        made = _computed(operation, one, other)
        if made is None:
            return Unknown(f"{self.text(node)} cannot be computed", node)
        return Known(made, node, default, node, unless)

    # Conditions ----------------------------------------------------------------------------------------

    def truth(self, test: ast.expr, place: Place, context: Context = ()) -> tuple[bool | None, str | None]:
        """Whether a condition holds (None: nobody can tell) and the parameter whose default decides it."""
        match test:
            case ast.BoolOp(op=operation, values=values):
                deciding = isinstance(operation, ast.Or)
                unknown, taint = False, None
                for value in values:
                    truth, default = self.truth(value, place, context)
                    if truth is deciding:
                        return deciding, default
                    taint = taint or default
                    unknown = unknown or truth is None
                return (None, None) if unknown else (not deciding, taint)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                truth, taint = self.truth(operand, place, context)
                return (None if truth is None else not truth), taint
            case ast.Compare(left=left, ops=[comparison], comparators=[right]):
                return self._compared(left, comparison, right, place, context)
            case _:
                found = self.value(test, place, context)
                if isinstance(found, Known) and (
                    found.data is None or isinstance(found.data, bool | int | float | str)
                ):
                    return bool(found.data), found.decided_by
                if isinstance(found, Known) and isinstance(found.data, tuple):
                    return None, None  # a list may have grown since
                return None, None

    def _compared(
        self, left: ast.expr, comparison: ast.cmpop, right: ast.expr, place: Place, context: Context
    ) -> tuple[bool | None, str | None]:
        first, second = self.value(left, place, context), self.value(right, place, context)
        if not isinstance(first, Known) or not isinstance(second, Known):
            return None, None
        taint = first.decided_by or second.decided_by
        one, other = first.data, second.data
        if isinstance(comparison, ast.Is | ast.IsNot):
            if not (one is None or other is None or (isinstance(one, bool) and isinstance(other, bool))):
                return None, None
            return (one is other) is isinstance(comparison, ast.Is), taint
        if isinstance(comparison, ast.In | ast.NotIn):
            return self._contained(one, other, isinstance(comparison, ast.In)), taint
        if not (is_scalar(one) and is_scalar(other)):
            return None, None
        try:
            return _COMPARE[type(comparison)](one, other), taint
        except TypeError:
            return None, None

    def _contained(self, one: Any, other: Any, wanted: bool) -> bool | None:
        if isinstance(one, str) and isinstance(other, str):
            return (one in other) is wanted
        if isinstance(one, str) and isinstance(other, Table):
            return (one in other.entries) is wanted
        if not is_scalar(one) or not isinstance(other, tuple):
            return None
        items = [item.data for item in other if isinstance(item, Known) and is_scalar(item.data)]
        if any(item == one for item in items):
            return wanted
        return None if len(items) < len(other) else not wanted

    def holds(
        self, guards: Sequence[Guard], context: Context = (), beside: Sequence[Guard] = ()
    ) -> tuple[bool | None, str | None, frozenset[tuple[int, bool]]]:
        """Whether all conditions hold, except those that hold `beside` too; and which of them nobody can tell."""
        common = {guard.key for guard in beside}
        taint: str | None = None
        unknown: set[tuple[int, bool]] = set()
        for guard in guards:
            if guard.key in common:
                continue
            if (guard.key[0], not guard.holds) in common and guard.test is not None:
                return False, taint, frozenset()
            truth, default = (None, None) if guard.test is None else self.truth(guard.test, guard.place, context)
            if truth is None:
                unknown.add(guard.key)
                continue
            taint = taint or default
            if truth is not guard.holds:
                return False, taint, frozenset()
        return (None if unknown else True), taint, frozenset(unknown)

    def runs(self, place: Place, context: Context = ()) -> tuple[bool | None, str | None]:
        """Whether a statement runs, and the parameter whose default decides it.

        A function that the file calls only where nothing runs does not run either.
        """
        state, taint, _ = self.holds(place.guards, context)
        if state is False:
            return False, taint
        called, default = self.is_called(place.scope)
        if called is False:
            return False, default
        return (None if state is None or called is None else True), taint or default

    def is_called(self, scope: Scope) -> tuple[bool | None, str | None]:
        """Whether the file calls the function around a scope somewhere that runs; True where it calls it nowhere."""
        function = next((item for item in scope.inwards() if item.function is not None), None)
        if function is None or function.function is None:
            return True, None
        key = id(function)
        if key in self._alive:
            return self._alive[key]
        self._alive[key] = (True, None)  # a recursive call says nothing
        skipped: list[str | None] = []
        covered: set[frozenset[tuple[int, bool]]] = set()
        found: tuple[bool | None, str | None] = (True, None)
        sites = self.callers(function.function)
        for site in sites:
            state, taint, unknown = self.holds(site.place.guards)
            called, default = self.is_called(site.place.scope)
            if state is False or called is False:
                skipped.append(taint if state is False else default)
            elif called is True and (state is True or flow.covers(covered, unknown)):
                break
        else:
            if sites:
                skips_all = len(skipped) == len(sites)
                found = (False, next(filter(None, skipped), None)) if skips_all else (None, None)
        self._alive[key] = found
        return found

    # Names ---------------------------------------------------------------------------------------------

    def joined(self, values: Sequence[Value], node: ast.expr | None) -> Value:
        """One value where all agree; what is written down is a better witness than a default."""
        known = [value for value in values if isinstance(value, Known)]
        unknown = next((value for value in values if isinstance(value, Unknown)), None)
        alternatives = tuple(known) + tuple(
            item for value in values if isinstance(value, Unknown) for item in value.alternatives
        )
        if unknown is not None:
            return Unknown(unknown.reason, unknown.node or node, alternatives)
        first = min(known, key=lambda value: value.decided_by is not None)
        if all(same(first.data, value.data) for value in known):
            return first
        other = next(value for value in known if not same(first.data, value.data))
        lines = " or ".join(f"{in_words(item.data)} ({self.line(item.node)})" for item in (first, other))
        return Unknown(f"it may be {lines}", node, alternatives)

    def callers(self, function: ast.AST) -> tuple[Site, ...]:
        """The calls of a function or method of the file, or of a class for its constructor."""
        if function not in self._callers:
            self._callers[function] = ()
            self._callers[function] = tuple(functions.find_callers(self, function))
        return self._callers[function]


def _computed(operation: type[ast.operator], one: Any, other: Any) -> int | float | None:
    try:
        if operation is ast.Pow:
            if abs(other) > 64 or abs(one) > _LARGEST:
                return None
            made = one**other
        else:
            made = _BINARY[operation](one, other)
    except (KeyError, ArithmeticError, TypeError, ValueError):
        return None
    return made if isinstance(made, int | float) and abs(made) <= _LARGEST**2 else None
