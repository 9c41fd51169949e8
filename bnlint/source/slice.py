"""Slice: the statements of a file that define and build models, without those that train or print."""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from bnlint.source.definitions import (
    Definitions,
    dotted,
    is_factory_name,
    is_main_guard,
    last_name,
    root_name,
)
from bnlint.source.device_checks import DeviceChecks
from bnlint.source.effects import KEPT_CONTEXTS, Effects, Kind, reads
from bnlint.source.file import SourceFile
from bnlint.source.scope import annotated, binds, needs, needs_later, stores
from bnlint.source.wrappers import without_process_group

Node = TypeVar("Node", bound=ast.AST)


@dataclass(frozen=True)
class Slice:
    """What of a module is executed.

    `tree` is ready for `compile` and keeps the original positions; `lost` are the loops that are left out although
    they fill what is built, by line and name.
    """

    tree: ast.Module
    lost: tuple[tuple[int, str], ...]


@dataclass(eq=False)
class _Unit:
    """A statement that is kept or skipped as a whole, and what is run in its place.

    `loads` are the names that running it needs, `later` those that calling what it defines needs; `changes`
    are names whose objects it configures without binding them.
    """

    statement: ast.stmt
    run: ast.stmt
    index: int
    kind: Kind
    binds: frozenset[str]
    changes: frozenset[str]
    loads: frozenset[str]
    later: frozenset[str] = frozenset()
    conditional: bool = False
    contexts: tuple[_Unit, ...] = ()


@dataclass(frozen=True)
class _Around:
    """What a nested statement inherits from the statements around it."""

    loads: frozenset[str] = frozenset()
    conditional: bool = False
    effect: bool = False
    in_handler: bool = False
    contexts: tuple[_Unit, ...] = ()

    def under(self, *tests: ast.expr, effect: bool = False, in_handler: bool = False) -> _Around:
        return replace(
            self,
            loads=self.loads | needs(tests),
            conditional=True,
            effect=self.effect or effect,
            in_handler=in_handler,
        )


def module_slice(source: SourceFile, wanted: Collection[str] | None = None) -> Slice:
    """The part of a file to execute to get its models; `wanted` are names that it must bind as well."""
    tree = DeviceChecks(source).removed(source.tree)
    units = _Units(tree, frozenset(wanted or ()))
    kept = units.kept()
    body = _emitted(tree.body, units, kept)
    return Slice(ast.Module(body=body, type_ignores=[]), tuple(dict.fromkeys(_lost(tree, kept))))


def _lost(tree: ast.Module, kept: Collection[_Unit]) -> Iterator[tuple[int, str]]:
    """The loops that are left out although they fill what a kept statement after them is built from."""
    run = [unit.statement for unit in kept]
    for loop in tree.body:
        if not isinstance(loop, (ast.For, ast.While)) or loop in run:
            continue
        last = loop.end_lineno or loop.lineno
        used = {name for unit in kept if unit.statement.lineno > last for name in unit.loads}
        filled = {
            root_name(node.func.value)
            for node in ast.walk(loop)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _FILLING
        }
        yield from ((loop.lineno, name) for name in sorted(used) if name in filled)


_FILLING = ("append", "extend", "insert", "add", "add_module", "update")


class _Units:
    """The statements of a module as units, and which of them are kept."""

    def __init__(self, tree: ast.Module, wanted: frozenset[str]) -> None:
        self.definitions = Definitions(tree)
        self.wanted = wanted
        self.items: list[_Unit] = []
        self.by_statement: dict[ast.stmt, _Unit] = {}
        self.effects = Effects(self.definitions)
        # Names that a function binds through `global`, or the main guard: nothing kept may count on them.
        self._bound_late = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
        self._lazy_annotations = any(
            isinstance(item, ast.ImportFrom)
            and item.module == "__future__"
            and any(alias.name == "annotations" for alias in item.names)
            for item in tree.body
        )
        self._collect(tree.body, _Around())
        self._by_name: dict[str, list[_Unit]] = {}
        for unit in self.items:
            for name in unit.binds | unit.changes:
                self._by_name.setdefault(name, []).append(unit)

    # Reading -------------------------------------------------------------------------------------------

    def _collect(self, body: list[ast.stmt], around: _Around) -> None:
        for statement in body:
            match statement:
                case ast.If(orelse=other) if is_main_guard(statement):
                    self._bound_late.update(name for item in statement.body for name in binds(item))
                    self._collect(other, around)
                case ast.If(test=test, body=inner, orelse=other):
                    nested = around.under(test, effect=self.definitions.has_effect(test))
                    self._collect(inner, nested)
                    self._collect(other, nested)
                case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                    self._collect(inner, around.under())
                    for handler in handlers:
                        types = [handler.type] if handler.type is not None else []
                        self._collect(handler.body, around.under(*types, in_handler=True))
                    self._collect(other, around.under())
                    self._collect(final, around.under())
                case ast.With(body=inner):
                    header = self._add_context(statement, around)
                    kept_with_body = all(
                        KEPT_CONTEXTS.fullmatch(dotted(_called(item.context_expr)) or "") for item in statement.items
                    )
                    contexts = (*around.contexts, header) if kept_with_body else around.contexts
                    self._collect(inner, replace(around, contexts=contexts))
                case _:
                    self._add(statement, around)

    def _add_context(self, statement: ast.With, around: _Around) -> _Unit:
        expressions = [item.context_expr for item in statement.items]
        names = frozenset(name for item in statement.items if item.optional_vars for name in stores(item.optional_vars))
        effect = around.effect or any(self.definitions.has_effect(item) for item in expressions)
        unit = _Unit(
            statement,
            statement,
            len(self.items),
            Kind.EFFECT if effect else Kind.SETTING,
            names,
            frozenset(),
            around.loads | frozenset(needs(expressions)),
            conditional=around.conditional,
            contexts=around.contexts,
        )
        self._register(unit)
        return unit

    def _add(self, statement: ast.stmt, around: _Around) -> None:
        run = without_process_group(statement)
        kind = Kind.EFFECT if around.effect else self.effects.kind(run, in_handler=around.in_handler)
        loads = around.loads | needs([run])
        if not self._lazy_annotations:
            loads |= annotated(run)
        unit = _Unit(
            statement,
            run,
            len(self.items),
            kind,
            frozenset(binds(run)),
            frozenset() if kind is Kind.EFFECT else frozenset(self.effects.changes([run])),
            loads,
            frozenset(needs_later(run)),
            around.conditional,
            around.contexts,
        )
        self._register(unit)

    def _register(self, unit: _Unit) -> None:
        self.items.append(unit)
        self.by_statement[unit.statement] = unit

    # Choosing ------------------------------------------------------------------------------------------

    def kept(self) -> set[_Unit]:
        """The units to execute."""
        needed: set[_Unit] = set()
        pending = list(self._roots())
        while pending:
            unit = pending.pop()
            if unit in needed or unit.kind is Kind.EFFECT:
                continue
            needed.add(unit)
            pending += unit.contexts
            for name in unit.loads:
                pending += self._before(name, unit.index)
            for name in unit.later:
                pending += self._by_name.get(name, [])
        kept = needed | {unit for unit in self.items if unit.kind is Kind.DEFINITION}
        if not self.effects.models and all(
            unit.kind is not Kind.EFFECT or self.effects.is_harmless(unit.run) for unit in self.items
        ):
            # A module that others import. What reads its globals by name cannot be seen in it: timm's
            # register_model looks up `default_cfgs`.
            kept |= {unit for unit in self.items if unit.kind is Kind.SETTING and not reads(unit.run)}
        return self._runnable(kept)

    def _roots(self) -> Iterator[_Unit]:
        exported = self.effects.models | self.wanted
        for unit in self.items:
            if unit.kind is Kind.MODEL or exported & unit.changes or self.wanted & unit.binds:
                yield unit
            match unit.statement:
                case ast.ClassDef(name=name) if self.definitions.is_candidate_class(name):
                    yield unit
                case ast.FunctionDef(name=name) as function:
                    decorators = [item.func if isinstance(item, ast.Call) else item for item in function.decorator_list]
                    registered = any("regist" in last_name(item) for item in decorators)
                    if registered or (is_factory_name(name) and not self.definitions.trains(name)):
                        yield unit

    def _before(self, name: str, index: int) -> Iterator[_Unit]:
        """The units before a use that bind or configure a name, back to the last certain binding."""
        for unit in reversed(self._by_name.get(name, [])):
            if unit.index >= index or unit.kind is Kind.EFFECT:
                continue
            yield unit
            if name in unit.binds and name not in unit.changes and not unit.conditional:
                return

    def _runnable(self, kept: set[_Unit]) -> set[_Unit]:
        """The kept units without those that need a name which only skipped statements bind."""
        bound = self._bound_late.union(*(unit.binds for unit in self.items))
        while True:
            available: set[str] = set()
            lost: set[_Unit] = set()
            for unit in self.items:
                if unit not in kept:
                    continue
                missing = (unit.loads & bound) - available
                if any(not hasattr(builtins, name) for name in missing) or not kept.issuperset(unit.contexts):
                    lost.add(unit)
                else:
                    available |= unit.binds
            if not lost:
                return kept
            kept = kept - lost


def _called(expression: ast.expr) -> ast.expr:
    return expression.func if isinstance(expression, ast.Call) else expression


# Emitting ----------------------------------------------------------------------------------------------


def _emitted(body: list[ast.stmt], units: _Units, kept: set[_Unit]) -> list[ast.stmt]:
    """The kept statements of a body, in new compound statements that hold kept ones only."""
    result: list[ast.stmt] = []
    for statement in body:
        match statement:
            case ast.If(body=inner, orelse=other):
                guarded = is_main_guard(statement)
                first = [] if guarded else _emitted(inner, units, kept)
                second = _emitted(other, units, kept)
                if guarded:
                    result += second
                elif first or second:
                    result.append(_copied(statement, body=first or [_nothing(statement)], orelse=second))
            case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                first = _emitted(inner, units, kept)
                second, third = _emitted(other, units, kept), _emitted(final, units, kept)
                if not first:
                    result += [*second, *third]
                    continue
                caught = [
                    _copied(handler, body=_emitted(handler.body, units, kept) or [_nothing(handler)])
                    for handler in handlers
                ]
                result.append(_copied(statement, body=first, handlers=caught, orelse=second, finalbody=third))
            case ast.With(body=inner):
                first = _emitted(inner, units, kept)
                if units.by_statement[statement] in kept:
                    result.append(_copied(statement, body=first or [_nothing(statement)]))
                else:
                    result += first
            case _:
                if units.by_statement[statement] in kept:
                    result.append(units.by_statement[statement].run)
    return result


def _copied(node: Node, **fields: object) -> Node:
    """A copy of a node with other fields; the source's own tree stays as it is."""
    result = copy.copy(node)
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _nothing(place: ast.stmt | ast.excepthandler) -> ast.stmt:
    return ast.copy_location(ast.Pass(), place)
