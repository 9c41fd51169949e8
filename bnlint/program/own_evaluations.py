"""Own evaluations: where a model's classes set its batch norms to evaluation mode, which `model.train()` undoes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType
from typing import TYPE_CHECKING, Any

from bnlint.source.definitions import Function
from bnlint.source.file import SourceFile

if TYPE_CHECKING:
    from bnlint.context import Context
    from bnlint.graph.layer import Layer


@dataclass(frozen=True)
class OwnEvaluation:
    """A call of `eval()` that runs while a model is built, and the batch norms that it does not hold on to.

    `doubt` says why it may hold all the same.
    """

    layers: tuple[Layer, ...]
    class_name: str
    call: ast.Call = field(repr=False)
    source: SourceFile = field(repr=False)
    is_lightning: bool = False
    doubt: str = ""


def own_evaluations(context: Context) -> tuple[OwnEvaluation, ...]:
    """The calls of `eval()` in the constructors of a captured model, with the batch norms that `train()` sets back."""
    found: dict[ast.Call, tuple[list[Layer], type, SourceFile, str]] = {}
    for layer in context.batch_norms(tracking=True, training=True):
        if layer.custom or layer.momentum == 0 or not context.was_evaluating(layer):
            continue
        for owner in _owners(context, layer.path):
            place = _call_in_constructor(context, owner)
            if place is not None:
                call, source, doubt = place
                found.setdefault(call, ([], owner, source, doubt))[0].append(layer)
                break
    made = []
    for call, (layers, owner, source, doubt) in found.items():
        around = [cls for layer in layers for cls in _owners(context, layer.path)]
        overriding = next((cls.__name__ for cls in around if "train" in vars(cls)), None)
        doubt = doubt or (f"{overriding} overrides train()" if overriding else "")
        is_lightning = any(cls.__name__ == "LightningModule" for item in around for cls in item.__mro__)
        made.append(OwnEvaluation(tuple(layers), owner.__name__, call, source, is_lightning, doubt))
    return tuple(made)


def _owners(context: Context, path: str) -> Iterator[type]:
    """The classes of the modules around a module, the nearest first, without torch's and their frameworks' own."""
    while path:
        path = path.rpartition(".")[0]
        for cls in type(context.modules[path]).__mro__:
            if cls.__module__.partition(".")[0] not in ("torch", "builtins", "lightning", "pytorch_lightning"):
                yield cls


def _call_in_constructor(context: Context, cls: type) -> tuple[ast.Call, SourceFile, str] | None:
    """The call of `eval()` that the constructor of a class reaches; and whether other methods call it, too."""
    methods = {name: item for name, item in vars(cls).items() if hasattr(item, "__code__")}
    reached, pending = {"__init__"}, ["__init__"]
    while pending:
        current = methods.get(pending.pop())
        for name in _names(current.__code__) if current is not None else ():
            if name in methods and name not in reached:
                reached.add(name)
                pending.append(name)
    evaluating = {name: function for name, item in methods.items() if (function := _evaluating(item)) is not None}
    inside = [name for name in evaluating if name in reached]
    if not inside:
        return None
    others = sorted(name for name in evaluating if name not in reached and name != "train")
    place = _call_of_eval(context, evaluating[inside[0]])
    doubt = f"{cls.__name__}.{others[0]}() calls eval(), too" if others else ""
    return None if place is None else (*place, doubt)


def _evaluating(function: Any) -> Callable[..., Any] | None:
    """The function that calls `eval()`: itself, or one of its file that it uses (`self.apply(freeze)`)."""
    names = _names(function.__code__)
    if "eval" in names:
        return function  # type: ignore[no-any-return]
    for name in sorted(names):
        other = function.__globals__.get(name)
        code = getattr(other, "__code__", None)
        if code is not None and "eval" in _names(code):
            return other  # type: ignore[no-any-return]
    return None


def _names(code: CodeType) -> set[str]:
    """The names that some code uses, that of functions in it included."""
    inner = (_names(item) for item in code.co_consts if isinstance(item, CodeType))
    return set(code.co_names).union(*inner)


def _call_of_eval(context: Context, function: Callable[..., Any]) -> tuple[ast.Call, SourceFile] | None:
    code = function.__code__
    source = context.read_source(code.co_filename)
    if source is None:
        return None
    for node in ast.walk(source.tree):
        if isinstance(node, Function) and node.name == code.co_name:
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            if first == code.co_firstlineno:
                for item in ast.walk(node):
                    match item:
                        case ast.Call(func=ast.Attribute(attr="eval"), args=[]):
                            return item, source
    return None
