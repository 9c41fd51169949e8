"""Scope: which names some code binds, needs when it runs, and needs when what it defines is called."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from bnlint.source.definitions import Function
from bnlint.source.names import bound_name, imported_names


def stores(target: ast.expr) -> Iterator[str]:
    """The names that an assignment target binds."""
    return (node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))


def binds(statement: ast.stmt) -> Iterator[str]:
    """The module-level names that a statement binds."""
    for node in _own_scope([statement]):
        name = bound_name(node)
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_names(node)
        elif name is not None and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del)):
            yield name


def _own_scope(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """The nodes of the same scope: not the inside of functions, classes, lambdas and comprehensions."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        yield node
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                pass
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                pass
            case _:
                pending += ast.iter_child_nodes(node)


def needs(nodes: Iterable[ast.AST]) -> frozenset[str]:
    """The names that running some code needs from outside it; annotations of functions apart."""
    found: set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        match node:
            case ast.For(target=target, iter=iterable, body=body, orelse=other):
                pending.append(iterable)
                found |= _in_order([*body, *other], frozenset(stores(target)))
            case ast.While(test=test, body=body, orelse=other) | ast.If(test=test, body=body, orelse=other):
                pending.append(test)
                found |= _in_order([*body, *other])
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                pending += node.args.defaults
                pending += [item for item in node.args.kw_defaults if item is not None]
                pending += [] if isinstance(node, ast.Lambda) else node.decorator_list
            case ast.ClassDef(bases=bases, keywords=keywords, decorator_list=decorators, body=body):
                pending += [*bases, *keywords, *decorators]
                found |= _in_order(body)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                targets = {name for generator in node.generators for name in stores(generator.target)}
                found |= needs(ast.iter_child_nodes(node)) - targets
            case ast.AugAssign(target=ast.Name(id=name), value=value):
                found.add(name)
                pending.append(value)
            case ast.Name(id=name):
                if not isinstance(node.ctx, ast.Store):
                    found.add(name)
            case _:
                pending += ast.iter_child_nodes(node)
    return frozenset(found)


def annotated(statement: ast.stmt) -> frozenset[str]:
    """The names in the annotations that a definition evaluates, those of methods included."""
    found: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()  # a method may name what its class has defined above it
    pending: list[ast.stmt] = [statement]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef(returns=returns) | ast.AsyncFunctionDef(returns=returns):
                written = [item.annotation for item in _arguments(node) if item.annotation is not None]
                found |= needs([*written, *([] if returns is None else [returns])])
            case ast.ClassDef(body=body):
                pending += body
                own |= frozenset(name for item in body for name in binds(item))
    return found - own


def _arguments(function: Function | ast.Lambda) -> list[ast.arg]:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return [item for item in every if item is not None]


def _in_order(body: Iterable[ast.stmt], bound: frozenset[str] = frozenset()) -> frozenset[str]:
    """The names that statements need from outside, when each sees what those before it have bound."""
    found: frozenset[str] = frozenset()
    for statement in body:
        found |= needs([statement]) - bound
        bound |= frozenset(binds(statement))
    return found


def needs_later(statement: ast.stmt) -> set[str]:
    """The module-level names that the functions in a statement need once they are called."""
    found: set[str] = set()
    pending: list[ast.AST] = [statement]
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                found |= _free_names(node)
            case _:
                pending += ast.iter_child_nodes(node)
    return found


def _free_names(function: Function | ast.Lambda) -> set[str]:
    """The names that a function takes from outside, those of the functions in it included."""
    body: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    local = {item.arg for item in _arguments(function)}
    loaded: set[str] = set()
    outside: set[str] = set()
    pending = body
    while pending:
        node = pending.pop()
        match node:
            case ast.Global(names=names):
                outside |= set(names)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                loaded |= _free_names(node) | needs([node])
                if isinstance(node, Function):
                    local.add(node.name)
            case ast.ClassDef():
                local.add(node.name)
                loaded |= needs([node]) | needs_later(node)
            case ast.Name(id=name):
                (local if isinstance(node.ctx, ast.Store) else loaded).add(name)
            case ast.Import() | ast.ImportFrom():
                local.update(imported_names(node))
            case ast.ExceptHandler(name=str() as name):
                local.add(name)
                pending += ast.iter_child_nodes(node)
            case _:
                pending += ast.iter_child_nodes(node)
    return (loaded - local) | (loaded & outside)
