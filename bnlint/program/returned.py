"""Returned: the activation that the class of a model applies last, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnlint.program.losses import own_nodes
from bnlint.program.methods import ACTIVATIONS
from bnlint.program.module import Module
from bnlint.program.values import ClassRef, Model, ModelOutput

_PLAIN = ("view", "reshape", "flatten", "squeeze", "unsqueeze", "float", "contiguous")  # leave the values as they are


def returned_activation(output: ModelOutput) -> tuple[str, ast.AST, Module] | None:
    """The activation behind a model's output with its place; None where the source does not show one for certain."""
    allocation = output.call.model.allocation
    if output.call.model.path:
        return None
    if allocation.cls is not None:
        return _of_class(allocation.cls, output)
    last = allocation.parts[-1] if allocation.origin.endswith(".Sequential") and allocation.parts else None
    if not isinstance(last, Model) or output.place:
        return None
    name = ACTIVATIONS.get(last.allocation.origin.rpartition(".")[2])
    return None if name is None else (name, last.allocation.node, last.allocation.module)


def _of_class(cls: ClassRef, output: ModelOutput) -> tuple[str, ast.AST, Module] | None:
    forward = next(
        (item for item in cls.node.body if isinstance(item, ast.FunctionDef) and item.name == "forward"), None
    )
    if forward is None:
        return None
    returns = [item for item in own_nodes(forward) if isinstance(item, ast.Return)]
    if len(returns) != 1 or returns[0] not in forward.body:
        return None  # several: which one training takes is not told from the source
    value = returns[0].value
    for key in output.place:
        if (
            not isinstance(value, ast.Tuple)
            or not isinstance(key, int)
            or not -len(value.elts) <= key < len(value.elts)
        ):
            return None
        value = value.elts[key]
    found = None if isinstance(value, ast.Tuple) else _activation(value, cls, forward)
    return None if found is None else (*found, cls.module)


def _activation(value: ast.expr | None, cls: ClassRef, forward: ast.FunctionDef) -> tuple[str, ast.AST] | None:
    for _ in range(8):
        match value:
            case ast.Name(id=name):
                value = _last_value(name, forward)
            case ast.Call(func=ast.Attribute(value=inner, attr=name)) if name in _PLAIN:
                value = inner
            case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
                made = _constructed(name, cls)
                return None if made is None else _layer(made, cls.module)
            case ast.Call(func=ast.Attribute(value=inner, attr=name)):
                known = ACTIVATIONS.get(name)
                origin = _origin(inner, cls.module)
                is_library = origin is None or origin in ("torch", "torch.nn.functional")
                return (known, value) if known is not None and name.islower() and is_library else None
            case _:
                return None
    return None


def _last_value(name: str, forward: ast.FunctionDef) -> ast.expr | None:
    """What a name is bound to by the last statement of a forward that binds it; None for one behind a condition."""
    stores = [item for item in own_nodes(forward) if isinstance(item, ast.Name) and item.id == name]
    bound = [item for item in stores if not isinstance(item.ctx, ast.Load)]
    if not bound:
        return None
    last = max(bound, key=lambda item: item.lineno)
    for statement in forward.body:
        match statement:
            case ast.Assign(targets=[target], value=value) if target is last:
                return value
    return None


def _constructed(name: str, cls: ClassRef) -> ast.Call | None:
    """The call that constructs an attribute of a class, if there is only one such assignment."""
    values = [
        item.value
        for item in ast.walk(cls.node)
        if isinstance(item, ast.Assign)
        for target in item.targets
        if isinstance(target, ast.Attribute) and target.attr == name and ast.unparse(target.value) == "self"
    ]
    return values[0] if len(values) == 1 and isinstance(values[0], ast.Call) else None


def _layer(made: ast.Call, module: Module) -> tuple[str, ast.AST] | None:
    """The activation that a layer is, or an nn.Sequential ends with."""
    origin = _origin(made.func, module) or ""
    if origin == "torch.nn.Sequential" and made.args:
        last = made.args[-1]
        return _layer(last, module) if isinstance(last, ast.Call) else None
    name = ACTIVATIONS.get(origin.removeprefix("torch.nn.")) if origin.startswith("torch.nn.") else None
    return None if name is None else (name, made)


def _origin(node: ast.expr, module: Module) -> str | None:
    """The full name of a dotted name that begins with an import."""
    parts = list(_parts(node))
    if not parts or parts[0] not in module.origins:
        return None
    return ".".join([module.origins[parts[0]], *parts[1:]])


def _parts(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.Name(id=name):
            yield name
        case ast.Attribute(value=inner, attr=name):
            inside = list(_parts(inner))
            yield from [*inside, name] if inside else []
