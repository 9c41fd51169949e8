"""Norm edits: the splices that make another norm of the call that constructs one, at the place where it stands."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from bnlint.diagnostic import Edit
from bnlint.source.definitions import dotted
from bnlint.source.edits import (
    POSITIONS,
    CommentLosingEdit,
    add_argument,
    has_own_comment,
    insert_before_argument,
    is_pure,
    is_written_out,
    remove_arguments,
    replace_span,
)
from bnlint.source.file import SourceFile, display_path
from bnlint.source.names import bound_name

# What the arguments of a batch or instance norm are called in another norm; what has no word there is left out.
_GROUP = MappingProxyType({"num_features": "num_channels", "eps": "eps", "affine": "affine"})
_LAYER = MappingProxyType({"num_features": "normalized_shape", "eps": "eps", "affine": "elementwise_affine"})
_KEPT = ("device", "dtype")
_NN = "torch.nn"


def as_group_norm(source: SourceFile, call: ast.Call, groups: int) -> tuple[Edit, ...]:
    """The splices that make a GroupNorm of the call of a batch or instance norm; none where it is not certain."""
    return _as_other(source, call, "GroupNorm", _GROUP, f"{groups}, ")


def as_layer_norm(source: SourceFile, call: ast.Call) -> tuple[Edit, ...]:
    """The splices that make a LayerNorm over its width of the call of a batch norm; none where it is not certain."""
    return _as_other(source, call, "LayerNorm", _LAYER, "")


def width_of(call: ast.Call) -> ast.expr | None:
    """The expression that a call passes for the width of a batch or instance norm."""
    given = next((item.value for item in call.keywords if item.arg == "num_features"), None)
    return given or (call.args[0] if call.args else None)


def _as_other(source: SourceFile, call: ast.Call, name: str, words: Mapping[str, str], first: str) -> tuple[Edit, ...]:
    """Another class with the arguments that both have; `first` goes in front of the width."""
    called = dotted(call.func)
    old = (called or "").rpartition(".")[2]
    width, arguments = width_of(call), _arguments(call, old)
    renamed = other_name(source, call, name)
    if arguments is None or width is None or renamed is None or not is_written_out(source, call):
        return ()
    dropped = [item for item, word in arguments if word not in words and word not in _KEPT]
    if not all(is_pure(item.value if isinstance(item, ast.keyword) else item) for item in dropped):
        return ()
    if any(has_own_comment(source, item) for item in dropped):
        return ()
    edits = [_rename(source, call.func, renamed)]
    for item, word in arguments:
        if isinstance(item, ast.keyword) and words.get(word, word) != word:
            start = source.start_of(item)
            before = f"num_groups={first}" if first else ""
            edits.append(Edit(edits[0].path, start, (start[0], start[1] + len(word)), before + words[word]))
        elif word == "num_features" and first:
            assert isinstance(item, ast.expr)
            edits.append(insert_before_argument(source, call, item, first))
    if old.startswith("Instance") and all(word != "affine" for _, word in arguments):
        # Its default is False, that of the other norms True.
        text = f"{words['affine']}=False"
        if dropped:
            edits.append(replace_span(source, dropped.pop(0), text))
        else:
            added = add_argument(source, call, text)
            edits += [] if added is None else [added]
    edits += remove_arguments(source, call, dropped)
    return () if any(isinstance(edit, CommentLosingEdit) for edit in edits) else tuple(edits)


def _rename(source: SourceFile, function: ast.expr, name: str) -> Edit:
    """Write another name over that of a class, and leave the package in front of it as it is written."""
    last, end = name.rpartition(".")[2], source.end_of(function)
    if isinstance(function, ast.Attribute):
        return Edit(display_path(source.path), (end[0], end[1] - len(function.attr)), end, last)
    return replace_span(source, function, name)


def _arguments(call: ast.Call, class_name: str) -> list[tuple[ast.expr | ast.keyword, str]] | None:
    """The arguments of a call with their names; None where *args or **kwargs may pass others, or where one has none."""
    names = POSITIONS.get(class_name, ())
    if any(isinstance(item, ast.Starred) for item in call.args) or len(call.args) > len(names):
        return None
    if any(item.arg is None for item in call.keywords):
        return None
    by_position: list[tuple[ast.expr | ast.keyword, str]] = list(zip(call.args, names, strict=False))
    return by_position + [(item, str(item.arg)) for item in call.keywords]


# Names -----------------------------------------------------------------------------------------------------


def other_name(source: SourceFile, call: ast.Call, name: str) -> str | None:
    """What another class of torch.nn is called where a call stands, as "nn.GroupNorm"; None where that is not certain.

    Goes by the imports of the file: a name that anything else in it binds too says nothing.
    """
    called = dotted(call.func)
    if called is None:
        return None
    bound = dict(_bound(source.tree))
    prefix, _, _ = called.rpartition(".")
    if prefix:
        base, _, rest = prefix.partition(".")
        origin = bound.get(base, base if base == "torch" else _NN if prefix == "nn" else None)  # from a star import
        meant = None if origin is None else f"{origin}.{rest}".rstrip(".")
        return f"{prefix}.{name}" if meant == _NN else None
    if bound.get(called) != f"{_NN}.{called}":
        return None
    early = dict(_bound_before(source.tree, call.lineno))
    direct = next((word for word, origin in early.items() if origin == f"{_NN}.{name}" == bound.get(word)), None)
    if direct is not None:
        return direct
    through = next((word for word, origin in early.items() if origin == _NN == bound.get(word)), None)
    return None if through is None else f"{through}.{name}"


def _bound_before(tree: ast.Module, line: int) -> Iterator[tuple[str, str | None]]:
    """The names that the imports at the top level bind above a line."""
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) and statement.lineno < line:
            yield from _imported(statement)


def _bound(tree: ast.Module) -> dict[str, str | None]:
    """By name, in whatever scope: what the imports of the file make of it; None where something else binds it too."""
    found: dict[str, str | None] = {}
    for node in ast.walk(tree):
        pairs: Iterable[tuple[str, str | None]]
        if isinstance(node, ast.Import | ast.ImportFrom):
            pairs = _imported(node)
        else:
            name = bound_name(node)
            pairs = () if name is None else ((name, None),)
        for word, origin in pairs:
            found[word] = origin if found.get(word, origin) == origin else None
    return found


def _imported(statement: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str | None]]:
    """The names that an import binds, each with what it stands for."""
    for alias in statement.names:
        if isinstance(statement, ast.ImportFrom):
            origin = None if statement.level else f"{statement.module}.{alias.name}"
            yield alias.asname or alias.name, origin
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            yield alias.name.partition(".")[0], alias.name.partition(".")[0]
