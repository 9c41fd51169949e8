"""Construction: the call in the user's file that built a module, and what an edit of it has to keep to."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from bnlint.diagnostic import Edit, Span
from bnlint.graph.layer import Layer, NormCall
from bnlint.source.edits import POSITIONS, replace_argument
from bnlint.source.file import SourceFile

ReadSource = Callable[[Path], SourceFile | None]


@dataclass(frozen=True, eq=False)
class Construction:
    """The call that built a norm layer of torch under the name of its class.

    An edit of it changes all `layers` that it built; `calls` are the recorded calls of these. `recorded` says that the
    forward passes were recorded in full, `loads_weights` that the model asks for a checkpoint while it is built: its
    names and shapes are settled then.
    """

    source: SourceFile
    call: ast.Call
    layers: tuple[Layer, ...]
    calls: tuple[NormCall, ...]
    recorded: bool
    loads_weights: bool


def constructing_call(
    span: Span | None, module: nn.Module, read_source: ReadSource
) -> tuple[SourceFile, ast.Call] | None:
    """The call at a span, where it calls the module's class of torch by its name.

    A helper or a class of the user has a signature of its own, whatever it is called: its arguments mean what they
    like.
    """
    found = call_at(span, read_source)
    cls = _own_class(module)
    is_of_torch = cls.__module__.startswith("torch.nn.")
    return found if found is not None and is_of_torch and called_name(found[1]) == cls.__name__ else None


def call_at(span: Span | None, read_source: ReadSource) -> tuple[SourceFile, ast.Call] | None:
    """The file of a span and the call that stands at it."""
    source = None if span is None else read_source(Path(span.path))
    if span is None or source is None:
        return None
    call = source.call_at(span.line, span.column, span.end_line, span.end_column)
    return None if call is None else (source, call)


def module_argument(span: Span | None, module: nn.Module, name: str, value: str, read: ReadSource) -> Edit | None:
    """The edit that writes `name=value` into the call that built a module.

    None where the call states another value than the module has: what gave it that one stands elsewhere.
    """
    found, positions = constructing_call(span, module, read), POSITIONS.get(_own_class(module).__name__, ())
    if found is None or not positions:
        return None
    source, call = found
    position = positions.index(name) if name in positions else None
    stated = _passed(call, name, position)
    if not _agrees(_default(module, name) if stated is None else stated, getattr(module, name, None)):
        return None
    return replace_argument(source, call, name, value, position=position)


def function_argument(span: Span | None, name: str, current: object, value: str, read: ReadSource) -> Edit | None:
    """The edit that writes another value for an argument that a norm function gets by keyword."""
    found = call_at(span, read)
    stated = None if found is None else _passed(found[1], name, None)
    if found is None or stated is None or not _agrees(stated, current):
        return None
    return replace_argument(*found, name, value)


def called_name(call: ast.Call) -> str:
    """The last part of the called name."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module was built with, before parametrization put another in front of it."""
    cls = type(module)
    is_put = cls.__name__.startswith("Parametrized") and cls.__module__ == "torch.nn.utils.parametrize"
    return cls.__mro__[1] if is_put else cls


def _passed(call: ast.Call, name: str, position: int | None) -> ast.expr | None:
    keyword = next((item.value for item in call.keywords if item.arg == name), None)
    if keyword is not None or position is None:
        return keyword
    return call.args[position] if position < len(call.args) else None


def _default(module: nn.Module, name: str) -> object:
    parameter = inspect.signature(_own_class(module)).parameters.get(name)
    return None if parameter is None else parameter.default


def _agrees(stated: object, current: object) -> bool:
    """Whether an argument and an attribute may be one value; what is no plain value says nothing."""
    if isinstance(stated, ast.AST):
        try:
            stated = ast.literal_eval(stated)
        except (ValueError, TypeError):  # arithmetic
            return True
    plain = (bool, int, float, type(None))
    return not isinstance(stated, plain) or not isinstance(current, plain) or stated == current
