"""A small follower of assignments, for tests: what a few lines mean to the algebra of tensors, and to PyTorch."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from bnlint.program import tensors
from bnlint.program.module import Module
from bnlint.program.values import Const, Imported, Items, Tensor, Unknown, Value
from bnlint.source.file import SourceFile

IMPORTS = {"torch": "torch", "F": "torch.nn.functional", "len": "len"}


def module_of(text: str) -> Module:
    return Module(SourceFile.parse(text, Path("script.py")), 0)


def run(text: str, names: Mapping[str, Any]) -> dict[str, Any]:
    """The names after the lines were run for real."""
    namespace = {"torch": torch, "F": F, **names}
    exec(compile(text, "script.py", "exec"), namespace)  # the lines of a test
    return namespace


def follow(text: str, names: Mapping[str, Value]) -> dict[str, Value]:
    """The names after the lines, as values of the program."""
    module = module_of(text)
    found = dict(names)
    for statement in module.source.tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                found[name] = _value(value, found, module)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=value):
                whole = _value(value, found, module)
                parts = tensors.unpacked(whole, len(targets)) or [Unknown()] * len(targets)
                found |= {ast.unparse(target): part for target, part in zip(targets, parts, strict=True)}
            case _:
                raise AssertionError(ast.unparse(statement))
    return found


def _value(node: ast.expr, names: dict[str, Value], module: Module) -> Value:
    match node:
        case ast.Constant(value=data):
            return Const(data)
        case ast.Name(id=name):
            return names[name] if name in names else Imported(IMPORTS[name], module)
        case ast.Attribute(value=inner, attr=name):
            owner = _value(inner, names, module)
            if isinstance(owner, Imported):
                return owner.attribute(name)
            return tensors.attribute(owner, name) or Unknown()
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return Items(tuple(_arguments(items, names, module)))
        case ast.Subscript(value=inner, slice=index):
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            return tensors.subscript(
                _value(inner, names, module), [_index(part, names, module) for part in parts], node, module
            )
        case ast.BinOp(left=left, op=operation, right=right):
            one, other = _value(left, names, module), _value(right, names, module)
            if isinstance(one, Const) and isinstance(other, Const):
                return Const(eval(ast.unparse(ast.BinOp(ast.Constant(one.data), operation, ast.Constant(other.data)))))
            return tensors.binary(operation, one, other, node, module)
        case ast.Compare(left=left, ops=[comparison], comparators=[right]):
            return tensors.binary(comparison, _value(left, names, module), _value(right, names, module), node, module)
        case ast.UnaryOp(op=operation, operand=operand):
            inner_value = _value(operand, names, module)
            if isinstance(inner_value, Const):
                return Const(-inner_value.data)
            return tensors.unary(operation, inner_value, node, module)
        case ast.Call(func=function, args=args, keywords=keywords):
            given = _arguments(args, names, module)
            named = {str(item.arg): _value(item.value, names, module) for item in keywords}
            if isinstance(function, ast.Attribute):
                receiver = _value(function.value, names, module)
                if not isinstance(receiver, Imported):
                    return tensors.method(receiver, function.attr, given, named, node, module) or Unknown()
            called = _value(function, names, module)
            assert isinstance(called, Imported)
            return tensors.function(called.origin, given, named, node, module) or Unknown()
    raise AssertionError(ast.unparse(node))


def _arguments(items: list[ast.expr], names: dict[str, Value], module: Module) -> list[Value]:
    found: list[Value] = []
    for item in items:
        value = _value(item.value if isinstance(item, ast.Starred) else item, names, module)
        found += value.parts if isinstance(item, ast.Starred) and isinstance(value, Items) else [value]
    return found


def _index(part: ast.expr, names: dict[str, Value], module: Module) -> Any:
    if isinstance(part, ast.Slice):
        bounds = (part.lower, part.upper, part.step)
        return tuple(None if bound is None else _value(bound, names, module) for bound in bounds)
    if isinstance(part, ast.Constant) and part.value is Ellipsis:
        return Ellipsis
    return _value(part, names, module)


def tensor_of(value: Value) -> Tensor:
    assert isinstance(value, Tensor)
    return value
