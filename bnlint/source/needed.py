"""Needed: the statements of a body that the values of some variables depend on, found backwards.

A name stands for a variable with all its attributes ("model"), a dotted one for a single attribute ("args.arch").
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bnlint.source.definitions import dotted, root_name
from bnlint.source.effects import Effects
from bnlint.source.scope import annotated, binds, needs, needs_later, stores

Expand = Callable[[str], Iterable[str]]


@dataclass(frozen=True, eq=False)
class _Unit:
    """A statement without statements of its own, or the head of one that has some.

    `whole` are the variables that it binds or may change anywhere, `attributes` single attributes that it sets.
    """

    statement: ast.stmt
    whole: frozenset[str]
    attributes: frozenset[str]
    uses: frozenset[str]
    around: tuple[_Unit, ...]


def uses(node: ast.AST, names: frozenset[str] | None = None) -> frozenset[str]:
    """The names that running some code reads; an attribute alone where only that is read."""
    roots = needs([node]) if names is None else names
    attributes: dict[str, set[str]] = {}
    whole: set[str] = set()
    inner: set[ast.AST] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
            inner.add(item.value)
            if not isinstance(item.ctx, ast.Store):
                attributes.setdefault(item.value.id, set()).add(f"{item.value.id}.{item.attr}")
        elif isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Store) and item not in inner:
            whole.add(item.id)
    return frozenset(found for root in roots for found in ([root] if root in whole else attributes.get(root, [root])))


def statement_uses(statement: ast.stmt) -> frozenset[str]:
    """The names that a statement reads when it runs; of a definition, those that its calls do not need."""
    return uses(statement, needs([statement]) | annotated(statement))


def made(statement: ast.stmt) -> tuple[str, ...]:
    """The variables that a statement binds and the attributes that it sets, an item of one for the whole."""
    found = dict.fromkeys(binds(statement))
    for target in _targets(statement):
        if isinstance(target, ast.Attribute | ast.Subscript):
            name = dotted(target) or root_name(target) or ""
            found[".".join(name.split(".")[:2])] = None
    return tuple(name for name in found if name)


def is_inside(name: str, names: Iterable[str]) -> bool:
    """Whether a variable or attribute is among some names, itself or by a part or a whole of it."""
    root, dot, _ = name.partition(".")
    return any(other in (name, root) or (not dot and other.startswith(f"{root}.")) for other in names)


def needed(
    body: Sequence[ast.stmt],
    wanted: Iterable[str],
    effects: Effects,
    expand: Expand = lambda name: (),
    always: Callable[[ast.stmt], bool] = lambda statement: False,
) -> tuple[frozenset[ast.stmt], frozenset[str]]:
    """The statements that some variables need, the compound ones around them included, and all names they read.

    `expand` gives what a name stands for besides: the attributes that `self.build` reads; `always` tells statements
    that run in any case.
    """
    units = list(_units(body, effects, ()))
    names: set[str] = set()
    pending = list(wanted)
    kept: set[_Unit] = set()
    for unit in units:
        if always(unit.statement):
            kept.add(unit)
            pending += unit.uses
    while pending:
        name = pending.pop()
        if name in names:
            continue
        names.add(name)
        pending += expand(name)
        for unit in units:
            if unit not in kept and _makes(unit, name):
                for item in (unit, *unit.around):
                    kept.add(item)
                    pending += item.uses
    return frozenset(unit.statement for unit in kept), frozenset(names)


def _makes(unit: _Unit, name: str) -> bool:
    root, dot, _ = name.partition(".")
    if root in unit.whole or name in unit.attributes:
        return True
    return not dot and any(item.startswith(f"{root}.") for item in unit.attributes)


def _units(body: Sequence[ast.stmt], effects: Effects, around: tuple[_Unit, ...]) -> Iterator[_Unit]:
    for statement in body:
        match statement:
            case ast.For() | ast.While() if effects.is_simple_loop(statement):
                yield _leaf(statement, effects, around)
            case ast.If(test=test, body=inner, orelse=other) | ast.While(test=test, body=inner, orelse=other):
                head = _Unit(statement, frozenset(), frozenset(), uses(test), around)
                yield head
                yield from _units([*inner, *other], effects, (*around, head))
            case ast.For(target=target, iter=iterable) | ast.AsyncFor(target=target, iter=iterable):
                head = _Unit(statement, frozenset(stores(target)), frozenset(), uses(iterable), around)
                yield head
                yield from _units([*statement.body, *statement.orelse], effects, (*around, head))
            case ast.With(items=items, body=inner) | ast.AsyncWith(items=items, body=inner):
                bound = frozenset(name for item in items if item.optional_vars for name in stores(item.optional_vars))
                # A context without a name is entered when it can be: what it reads is not worth a search.
                read = frozenset(name for item in items if item.optional_vars for name in uses(item.context_expr))
                head = _Unit(statement, bound, frozenset(), read, around)
                yield head
                yield from _units(inner, effects, (*around, head))
            case ast.Try(body=inner, handlers=handlers, orelse=other, finalbody=final):
                head = _Unit(statement, frozenset(), frozenset(), frozenset(), around)
                yield head
                nested = [*inner, *(item for handler in handlers for item in handler.body), *other, *final]
                yield from _units(nested, effects, (*around, head))
            case _:
                yield _leaf(statement, effects, around)


def _leaf(statement: ast.stmt, effects: Effects, around: tuple[_Unit, ...]) -> _Unit:
    whole: set[str] = set(binds(statement))
    attributes: set[str] = set()
    for target in _targets(statement):
        name = dotted(target)
        if name is not None and "." in name:
            attributes.add(".".join(name.split(".")[:2]))
        elif (root := root_name(target)) is not None and not isinstance(target, ast.Name):
            attribute = _first_attribute(target)
            (whole if attribute is None else attributes).add(attribute or root)
    match statement:
        case ast.Expr(value=ast.Call(func=function) as call):
            changed = effects.changed_by(call)
            receiver = _first_attribute(function.value) if isinstance(function, ast.Attribute) else None
            if receiver is not None and root_name(receiver_of(call)) in changed:
                attributes.add(receiver)
            else:
                whole |= changed
        case ast.For() | ast.While():
            whole |= set(effects.changes([statement]))
        case ast.Assign(value=value):
            whole |= {name for name in effects.changes([statement]) if name in effects.definitions.groups.values()}
            if effects.refused(value) is not None:  # it will not run: what it reads is of no interest
                return _Unit(statement, frozenset(whole), frozenset(attributes), frozenset(), around)
    reads = uses(statement, needs([statement]) | annotated(statement) | needs_later(statement))
    return _Unit(statement, frozenset(whole), frozenset(attributes), reads, around)


def receiver_of(call: ast.Call) -> ast.expr:
    """What a method is called on."""
    assert isinstance(call.func, ast.Attribute)
    return call.func.value


def _first_attribute(node: ast.expr) -> str | None:
    """The variable and first attribute that a chain starts with: "self.model" of `self.model.fc[0]`."""
    last: str | None = None
    while True:
        match node:
            case ast.Attribute(attr=attribute):
                last, node = attribute, node.value
            case ast.Subscript():
                last, node = None, node.value
            case ast.Name(id=name):
                return None if last is None else f"{name}.{last}"
            case _:
                return None


def _targets(statement: ast.stmt) -> Iterator[ast.expr]:
    match statement:
        case ast.Assign(targets=targets):
            pending: list[ast.expr] = list(targets)
        case ast.AnnAssign() | ast.AugAssign():
            pending = [statement.target]
        case _:
            return
    while pending:
        target = pending.pop()
        if isinstance(target, ast.Tuple | ast.List):
            pending += target.elts
        else:
            yield target
