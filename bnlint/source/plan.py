"""Plan: what of the bodies on the way to a model is run, worked out from the model backwards."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bnlint.source.definitions import dotted
from bnlint.source.effects import Effects, Kind
from bnlint.source.needed import needed, uses
from bnlint.source.scope import binds
from bnlint.source.script_models import Body, ModelScript, flattened


@dataclass(frozen=True, eq=False)
class Plan:
    """What of a body is run, and the names that this reads."""

    body: Body
    statements: frozenset[ast.stmt]
    reads: frozenset[str]
    effects: Effects
    shared: frozenset[str]


def plans(script: ModelScript, way: Sequence[Body], variables: Sequence[str]) -> tuple[Plan, ...]:
    """The plans for the bodies of a way, made from the last one backwards."""
    first = _planned(script, way, variables, frozenset())
    # What the top level defines may read, once it is called, names that the main guard binds.
    return _planned(script, way, variables, first[0].reads)


def _planned(
    script: ModelScript, way: Sequence[Body], variables: Sequence[str], defined: frozenset[str]
) -> tuple[Plan, ...]:
    found: list[Plan] = []
    wanted: set[str] = set(variables)
    outside: set[str] = set()  # what the bodies read of the file's top level
    for body in reversed(way):
        first = body is way[0]
        if body.function is None:
            wanted |= outside | (frozenset() if first else defined)
        effects = Effects(script.local(body))
        effects.models.update(name for name in variables if "." not in name)
        always = _runs_always(effects) if first else _never
        statements, reads = needed(body.statements, sorted(wanted), effects, _expansion(body), always)
        shared = frozenset(
            name for item in flattened(body.statements) if isinstance(item, ast.Global) for name in item.names
        )
        found.append(Plan(body, statements, reads, effects, shared))
        own = frozenset() if body.function is None else parameters_of(body) | _locals(body) - shared
        outside |= {name for name in reads if name.partition(".")[0] not in own}
        wanted = set()
        if body.call is not None:
            wanted = _read_by_call(body, reads)
        if body.cls is not None:
            outside.add(body.cls.name)
        if body.function is not None:
            outside |= {name for item in defaults_of(body.function.args).values() for name in uses(item)}
    return tuple(reversed(found))


def _never(statement: ast.stmt) -> bool:
    return False


def _runs_always(effects: Effects) -> Callable[[ast.stmt], bool]:
    """What of the top level changes the meaning of what follows: star imports, the import path."""

    def runs(statement: ast.stmt) -> bool:
        match statement:
            case ast.ImportFrom(names=[ast.alias(name="*")]):
                return True
            case ast.ImportFrom(module="__future__"):
                return True
            case ast.Expr(value=ast.Call()):
                return effects.kind(statement) is Kind.DEFINITION
        return False

    return runs


def _expansion(body: Body) -> Callable[[str], Iterable[str]]:
    """What a method of the same object reads of it, for `self.build` and a bare `self`."""
    owner = body.self_name
    if owner is None or body.cls is None:
        return lambda name: ()
    methods = {item.name: item for item in body.cls.body if isinstance(item, ast.FunctionDef)}

    def expand(name: str) -> Iterator[str]:
        root, _, attribute = name.partition(".")
        if root != owner or attribute not in methods:
            return
        method = methods[attribute]
        own = method.args.args[0].arg if method.args.args else None
        for item in ast.walk(method):
            if isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name) and item.value.id == own:
                yield f"{owner}.{item.attr}"

    return expand


def parameters_of(body: Body) -> frozenset[str]:
    if body.function is None:
        return frozenset()
    arguments = body.function.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    return frozenset(item.arg for item in every if item is not None)


def _locals(body: Body) -> frozenset[str]:
    return frozenset(name for statement in body.statements for name in binds(statement))


def _read_by_call(body: Body, reads: frozenset[str]) -> set[str]:
    """What a call must know for the parameters that its function reads."""
    call, function = body.call, body.function
    assert call is not None and function is not None
    names = [item.arg for item in (*function.args.posonlyargs, *function.args.args)]
    found: set[str] = set()
    if body.self_name is not None:
        names = names[1:]
        if isinstance(call.func, ast.Attribute) and function.name != "__init__":
            receiver = call.func.value
            own = {name.partition(".")[2] for name in reads if name.startswith(f"{body.self_name}.")}
            root = dotted(receiver)
            found |= {f"{root}.{name}" for name in own} if root is not None and "." not in root else set()
            found |= uses(receiver) if root is None or "." in root or not own else set()
    position = 0
    for item in call.args:
        if isinstance(item, ast.Starred):
            found |= uses(item.value)
            position = len(names)
        elif position < len(names):
            found |= _passed(item, names[position], reads)
            position += 1
    for keyword in call.keywords:
        found |= uses(keyword.value) if keyword.arg is None else _passed(keyword.value, keyword.arg, reads)
    return found


def _passed(node: ast.expr, parameter: str, reads: frozenset[str]) -> frozenset[str]:
    """What an argument reads, an attribute at a time where the function reads its parameter so."""
    read = [name for name in reads if name.partition(".")[0] == parameter]
    if not read:
        return frozenset()
    if isinstance(node, ast.Name) and all("." in name for name in read):
        return frozenset(f"{node.id}.{name.partition('.')[2]}" for name in read)
    return uses(node)


def defaults_of(arguments: ast.arguments) -> dict[str, ast.expr]:
    positional = [*arguments.posonlyargs, *arguments.args]
    found = dict(zip([item.arg for item in positional][::-1], arguments.defaults[::-1], strict=False))
    found |= {
        item.arg: default
        for item, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    }
    return found
