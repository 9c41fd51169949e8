"""Own evaluations: where a model's classes set its batch norms to evaluation mode, which `model.train()` undoes."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bnlint.program.code_names import names_in, user_of
from bnlint.source.definitions import Function
from bnlint.source.file import SourceFile

if TYPE_CHECKING:
    from torch import nn

    from bnlint.graph.layer import Layer


ReadSource = Callable[[str], SourceFile | None]


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


def own_evaluations(
    layers: Iterable[Layer], modules: Mapping[str, nn.Module], read_source: ReadSource
) -> tuple[OwnEvaluation, ...]:
    """The calls of `eval()` in the constructors of a captured model that set some of these layers."""
    found: dict[ast.Call, tuple[list[Layer], type, SourceFile, str]] = {}
    for layer in layers:
        for module, owner in _owners(modules, layer.path):
            place = None if _is_copy(module, owner) else _call_in_constructor(owner, read_source)
            if place is not None:
                call, source, doubt = place
                found.setdefault(call, ([], owner, source, doubt))[0].append(layer)
                break
    made = []
    for call, (own, owner, source, doubt) in found.items():
        around = [cls for layer in own for _, cls in _owners(modules, layer.path)]
        overriding = next((cls.__name__ for cls in around if "train" in vars(cls)), None)
        doubt = doubt or (f"{overriding} overrides train()" if overriding else "")
        is_lightning = any(cls.__name__ == "LightningModule" for item in around for cls in item.__mro__)
        made.append(OwnEvaluation(tuple(own), owner.__name__, call, source, is_lightning, doubt))
    return tuple(made)


def _owners(modules: Mapping[str, nn.Module], path: str) -> Iterator[tuple[nn.Module, type]]:
    """The modules around a module with their classes, the nearest first, without torch's and their frameworks' own."""
    while path:
        path = path.rpartition(".")[0]
        for cls in type(modules[path]).__mro__:
            if cls.__module__.partition(".")[0] not in ("torch", "builtins", "lightning", "pytorch_lightning"):
                yield modules[path], cls


def _is_copy(module: nn.Module, cls: type) -> bool:
    """Whether a module only holds the copy of a model, as for its moving average, which no training switches."""
    constructor = vars(cls).get("__init__")
    code = getattr(constructor, "__code__", None)
    return len(module._modules) == 1 and not module._parameters and code is not None and "deepcopy" in names_in(code)


def _call_in_constructor(cls: type, read_source: ReadSource) -> tuple[ast.Call, SourceFile, str] | None:
    """The call of `eval()` that the constructor of a class reaches; and whether other methods call it, too."""
    methods = {name: item for name, item in vars(cls).items() if hasattr(item, "__code__")}
    reached, pending = {"__init__"}, ["__init__"]
    while pending:
        current = methods.get(pending.pop())
        for name in names_in(current.__code__) if current is not None else ():
            if name in methods and name not in reached:
                reached.add(name)
                pending.append(name)
    evaluating = {
        name: function for name, item in methods.items() if (function := user_of(("eval",), item)) is not None
    }
    inside = [name for name in evaluating if name in reached]
    if not inside:
        return None
    others = sorted(name for name in evaluating if name not in reached and name != "train")
    place = _call_of_eval(evaluating[inside[0]], read_source)
    doubt = f"{cls.__name__}.{others[0]}() calls eval(), too" if others else ""
    return None if place is None else (*place, doubt)


def _call_of_eval(function: Callable[..., Any], read_source: ReadSource) -> tuple[ast.Call, SourceFile] | None:
    code = function.__code__
    source = read_source(code.co_filename)
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
