"""Elements: what loops bind their targets to, and what unpacking takes a value apart into."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bnlint.program import events, tensors
from bnlint.program.values import (
    Batch,
    Choice,
    Const,
    Items,
    Loader,
    Model,
    SomeModules,
    SomeParameters,
    Symbol,
    Table,
    Tensor,
    Unknown,
    Value,
    forwards_of,
    joined,
    models_in,
)

if TYPE_CHECKING:
    from bnlint.program.interpreter import Interpreter


def note_use(run: Interpreter, iterable: Value, node: ast.AST) -> None:
    """Say which loaders a loop goes over."""
    match iterable:
        case Loader():
            run.emit(events.LoaderUsed(run.where(node), frozenset(), iterable))
        case Items(parts=parts) | Choice(values=parts):
            for part in parts:
                note_use(run, part, node)


def is_never_empty(iterable: Value) -> bool:
    """Whether a loop over a value runs at least once, as over the modules of a model."""
    match iterable:
        case SomeModules() | SomeParameters():
            return True
        case Items(parts=parts):
            return any(is_never_empty(part) for part in parts) or len(parts) > 4
    return False


def element_of(run: Interpreter, iterable: Value, node: ast.AST) -> Value:
    """What a loop over a value binds in each pass."""
    match iterable:
        case Loader():
            return Batch(iterable)
        case SomeModules() | SomeParameters():
            return iterable
        case Zipped(parts=parts):
            return Items(tuple(element_of(run, part, node) for part in parts))
        case Items(parts=parts) if parts:
            found = parts[0]
            for part in parts[1:]:
                found = joined(found, part)
            return found
        case Table(parts=parts):
            return Unknown(run.symbol(node))
        case Choice(values=values):
            found = element_of(run, values[0], node)
            for value in values[1:]:
                found = joined(found, element_of(run, value, node))
            return found
        case Tensor():
            return Tensor(forwards=iterable.forwards, loader=iterable.loader)
        case Model():  # an nn.Sequential or ModuleList: its layers
            return SomeModules(iterable)
    return Unknown(Symbol(f"{run.symbol(node).text}:item", True), models_in(iterable))


def unpacked(run: Interpreter, value: Value, targets: Sequence[ast.expr], node: ast.AST) -> list[Value]:
    """The parts that several targets take of a value."""
    count = len(targets)
    starred = next((number for number, target in enumerate(targets) if isinstance(target, ast.Starred)), None)
    match value:
        case Items(parts=parts) if starred is None and len(parts) == count:
            return list(parts)
        case Items(parts=parts) if starred is not None and len(parts) >= count - 1:
            behind = count - starred - 1
            return [*parts[:starred], Unknown(), *parts[len(parts) - behind :]]
        case Batch():
            part = Batch(value.loader, part=True)
            return [Unknown() if isinstance(target, ast.Starred) else part for target in targets]
        case SomeParameters() | SomeModules():
            return _named_parts(value, count)
        case Choice(values=values):
            options = [unpacked(run, item, targets, node) for item in values]
            first = options[0]
            for other in options[1:]:
                first = [joined(one, two) for one, two in zip(first, other, strict=True)]
            return first
        case Model():
            return [Unknown(run.symbol(node))] * count
    found = tensors.unpacked(value, count)
    if found is not None:
        if starred is None:
            return found
        # How many the starred target takes is not known.
        rest = [replace(part, outputs=frozenset()) if isinstance(part, Tensor) else part for part in found[starred:]]
        return [*found[:starred], *rest]
    forwards = forwards_of(value)
    if forwards:
        return [Tensor(forwards=forwards)] * count
    symbol = value.symbol if isinstance(value, Unknown) and value.symbol is not None else run.symbol(node)
    models = models_in(value)
    return [Unknown(Symbol(f"{symbol.text}[{number}]", symbol.varies), models) for number in range(count)]


def _named_parts(value: SomeParameters | SomeModules, count: int) -> list[Value]:
    """`for name, parameter in model.named_parameters()`."""
    if count != 2:
        return [Unknown()] * count
    if isinstance(value, SomeModules):
        return [SomeParameters(value.model, is_name=True), value]
    return [SomeParameters(value.model, is_name=True), value]


class Zipped(Items):
    """What `zip(...)` and `enumerate(...)` give: one item of each part in every pass."""


def constant(value: Value) -> object:
    """The literal behind a value; a lone object for none, which equals nothing."""
    return value.data if isinstance(value, Const) else object()
