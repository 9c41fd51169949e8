"""Calls: what the calls of a script return, as far as their arguments tell."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bnlint.source.definitions import Function, dotted
from bnlint.training.script import defaults, functions, objects, ranks
from bnlint.training.script.index import Place, Site
from bnlint.training.script.values import (
    Built,
    Context,
    Defined,
    Imported,
    Instance,
    Known,
    Options,
    Parser,
    PerRank,
    Ranks,
    Table,
    TimesRanks,
    Unknown,
    Value,
    is_scalar,
)

if TYPE_CHECKING:
    from bnlint.training.script.constants import Constants

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "round": round,
    "abs": abs,
    "max": max,
    "min": min,
    "math.sqrt": math.sqrt,
    "math.ceil": math.ceil,
    "math.floor": math.floor,
    "numpy.sqrt": math.sqrt,
    "numpy.ceil": math.ceil,
    "numpy.floor": math.floor,
}
_TEXT_METHODS = ("lower", "upper", "strip", "startswith", "endswith")
# Calls that hand on what they are given, for what is asked of it here.
_PASSES = frozenset(
    ("iter", "enumerate", "tqdm", "trange", "cycle", "list", "deepcopy", "track", "ProgressBar", "data_prefetcher")
)
_TABLES = re.compile(
    r"dict|(Simple|Arg)?Namespace|(easy|attr|add|dot)_?dict|Box|Munch|Bunch|ConfigDict|DotMap|AttributeDict|Dict", re.I
)


def call_value(constants: Constants, node: ast.Call, place: Place, context: Context) -> Value:
    """What a call returns; of a library's call, what was called and with what."""
    site = constants.index.site(node) or Site(node, place)
    name = site.name
    origin = constants.origin(node.func, place)
    if isinstance(node.func, ast.Attribute):
        found = _method(constants, node, node.func, place, context)
        if found is not None:
            return found
    if ranks.COUNTS.fullmatch(origin) or ranks.is_environment_variable(node):
        return Known(Ranks(), node)
    if origin in ("len",) and node.args:
        return _length(constants, node, place, context)
    called = functions.called_by(constants, site) if isinstance(node.func, ast.Name | ast.Attribute) else None
    if isinstance(called, Function) and called.name != "__init__":
        return functions.returned(constants, called, site, context)
    if isinstance(node.func, ast.Name):
        scope = place.scope.find(node.func.id)
        for binding in reversed(scope.bindings.get(node.func.id, []) if scope is not None else []):
            if isinstance(binding.node, ast.ClassDef):
                return Known(Instance(binding.node, site, context), node)
    if origin in _FUNCTIONS:
        return _builtin(constants, node, origin, place, context)
    if origin.endswith("ArgumentParser") and not origin.endswith("HfArgumentParser"):
        return Known(Parser(), node)
    if origin == "vars" and node.args:
        return constants.value(node.args[0], place, context)
    if origin == "getattr" and len(node.args) >= 2:
        return _getattr(constants, node, place, context)
    if (parsed := defaults.parsed_class(node, origin)) is not None:
        return _parsed(constants, node, [parsed], place, context)[0]
    if _TABLES.fullmatch(name) and not any(isinstance(item, ast.Starred) for item in node.args):
        return _table(constants, node, place, context)
    if name in _PASSES and node.args and name != "trange":
        return constants.value(node.args[0], place, context)
    return Known(Built(origin or name, site, context), node)


def _method(
    constants: Constants, node: ast.Call, function: ast.Attribute, place: Place, context: Context
) -> Value | None:
    """A method of something that is known; None where it is nothing of that kind."""
    name = function.attr
    if name in ("parse_args_into_dataclasses", "parse_json_file", "parse_yaml_file", "parse_dict"):
        receiver = constants.value(function.value, place, context)
        if isinstance(receiver, Known) and isinstance(receiver.data, Built) and receiver.data.site.call.args:
            first = receiver.data.site.call.args[0]
            classes = first.elts if isinstance(first, ast.Tuple | ast.List) else [first]
            return Known(_parsed(constants, node, classes, receiver.data.site.place, context), node)
        return None
    if name in ("parse_args", "parse_known_args", "add_argument_group", "add_subparsers", "add_parser"):
        receiver = constants.value(function.value, place, context)
        is_parser = isinstance(receiver, Known) and isinstance(receiver.data, Parser)
        if name in ("parse_args", "parse_known_args"):
            if not is_parser and not (isinstance(receiver, Unknown) and constants.options):
                return None
            if node.args and not _parses_nothing(constants, node.args[0], place):
                return Unknown("its arguments stand in the call", node)
            options = Known(Options(), node)
            return Known((options, Unknown("the rest of the command line", node)), node) if "known" in name else options
        return Known(Parser(), node) if is_parser else None
    if name in ("get", *_TEXT_METHODS):
        receiver = constants.value(function.value, place, context)
        if not isinstance(receiver, Known):
            return None
        if name == "get" and isinstance(receiver.data, Table) and node.args:
            return _get(constants, node, receiver, place, context)
        if isinstance(receiver.data, str) and name in _TEXT_METHODS:
            given = [constants.value(item, place, context) for item in node.args]
            texts = [item.data for item in given if isinstance(item, Known) and isinstance(item.data, str)]
            if len(texts) == len(given) and len(texts) <= 1:
                made = getattr(receiver.data, name)(*texts)
                return replace(receiver, data=made, node=receiver.node)
        return None
    if name in ("prepare", "setup_dataloaders", "setup") and node.args:
        values = tuple(constants.value(item, place, context) for item in node.args)
        return values[0] if len(values) == 1 else Known(values, node)
    if name in ("to", "cuda", "cpu", "half", "float", "train", "eval"):
        receiver = constants.value(function.value, place, context)
        return receiver if isinstance(receiver, Known) and isinstance(receiver.data, Built | Instance) else None
    return None


def _parses_nothing(constants: Constants, node: ast.expr, place: Place) -> bool:
    """Whether a parser gets the command line: no argument, None, an empty list, `sys.argv[1:]` or a parameter."""
    match node:
        case ast.Constant(value=None) | ast.List(elts=[]):
            return True
        case ast.List():
            return False
        case ast.Subscript(value=inner):
            return dotted(inner) == "sys.argv"
    found = constants.value(node, place)
    return not isinstance(found, Known) or found.data is None or isinstance(found.data, Imported)


def _get(constants: Constants, node: ast.Call, receiver: Known, place: Place, context: Context) -> Value:
    key = constants.value(node.args[0], place, context)
    if not isinstance(key, Known) or not isinstance(key.data, str):
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    found = objects.entry(constants, receiver.data, key.data, place, context, attribute=False)
    if found is None and len(node.args) > 1:
        return constants.value(node.args[1], place, context)
    return found or Known(None, node)


def _getattr(constants: Constants, node: ast.Call, place: Place, context: Context) -> Value:
    name = constants.value(node.args[1], place, context)
    if not isinstance(name, Known) or not isinstance(name.data, str):
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    found = objects.member(constants, constants.value(node.args[0], place, context), name.data, node, place, context)
    if isinstance(found, Unknown) and len(node.args) > 2:
        return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    return found


def _length(constants: Constants, node: ast.Call, place: Place, context: Context) -> Value:
    found = constants.value(node.args[0], place, context)
    if isinstance(found, Known) and isinstance(found.data, str):
        return Known(len(found.data), node, found.default)
    return Unknown(f"{constants.text(node)} is known only when the script runs", node)


def _builtin(constants: Constants, node: ast.Call, origin: str, place: Place, context: Context) -> Value:
    given = [constants.value(item, place, context) for item in node.args]
    if len(given) == 1 and isinstance(given[0], Known) and origin in ("int", "float", "round", "max", "min"):
        data = given[0].data
        if isinstance(data, PerRank | TimesRanks | Ranks):
            return given[0]
        if isinstance(data, tuple) and origin in ("max", "min"):
            given = list(data)
    known = [item for item in given if isinstance(item, Known)]
    if len(known) < len(given) or node.keywords or not given:
        reason = next((item.reason for item in given if isinstance(item, Unknown)), None)
        return Unknown(reason or f"{constants.text(node)} is known only when the script runs", node)
    for item in known:
        if not is_scalar(item.data) or item.data is None:
            return Unknown(f"{constants.text(node)} is known only when the script runs", node)
    try:
        made = _FUNCTIONS[origin](*(item.data for item in known))
    except (TypeError, ValueError, OverflowError):
        return Unknown(f"{constants.text(node)} cannot be computed", node)
    default = next((item.default for item in known if item.default), None)
    if len(known) == 1 and origin in ("int", "float", "str", "bool") and known[0].arithmetic is None:
        return replace(known[0], data=made)
    return Known(made, node, default, node)


def _table(constants: Constants, node: ast.Call, place: Place, context: Context) -> Value:
    entries: dict[str, Value] = {}
    for item in (*node.args, *(keyword.value for keyword in node.keywords if keyword.arg is None)):
        inner = constants.value(item, place, context)
        if not isinstance(inner, Known) or not isinstance(inner.data, Table):
            return Unknown(f"{constants.text(node)} is known only when the script runs", node)
        entries |= inner.data.entries
    for keyword in node.keywords:
        if keyword.arg is not None:
            entries[keyword.arg] = constants.value(keyword.value, place, context)
    return Known(Table(node, entries, place), node)


def _parsed(
    constants: Constants, node: ast.Call, classes: Sequence[ast.expr], place: Place, context: Context
) -> tuple[Value, ...]:
    """What HfArgumentParser and its like make of data classes: objects with the classes' defaults."""
    made: list[Value] = []
    for item in classes:
        found = constants.value(item, place, context)
        if isinstance(found, Known) and isinstance(found.data, Defined) and isinstance(found.data.node, ast.ClassDef):
            made.append(Known(Instance(found.data.node), node))
        elif isinstance(found, Known) and isinstance(found.data, Imported):
            made.append(Known(Built(found.data.origin, Site(node, place)), node, f"{found.data.origin} options"))
        else:
            made.append(Unknown(f"{constants.text(item)} is known only when the script runs", item))
    return tuple(made)
