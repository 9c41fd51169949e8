"""Siblings: what the rest of a project says about a line that an edit would change for others too."""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
import types
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from weakref import WeakKeyDictionary

from torch import nn

from bnlint import overlay
from bnlint.diagnostic import Span
from bnlint.graph.build import BuildFailure, build
from bnlint.graph.frames import is_user_file
from bnlint.graph.modules import walk
from bnlint.graph.spans import span_of_module
from bnlint.source.definitions import Definitions, last_name, required_arguments
from bnlint.source.file import SourceFile

_BUILT = 24  # models of a file that are built at most: zoos have hundreds, of the same few widths
# Calls that fetch published weights, of torch.hub, its predecessor and torchvision.
_FETCHING = frozenset(("load_url", "load_state_dict_from_url", "load_file_from_url", "get_state_dict"))
_offering: WeakKeyDictionary[SourceFile, bool] = WeakKeyDictionary()  # asked for each of a file's findings
_STATISTICS = re.compile(rb"(?<!\bself)\.running_(mean|var)\b")


def other_widths(source: SourceFile, span: Span | None) -> frozenset[int]:
    """The widths of the norms that the call at a span makes in the models that the file can build without arguments."""
    wanted = str(source.path.resolve())
    module = next((item for item in list(sys.modules.values()) if getattr(item, "__file__", None) == wanted), None)
    if module is None or span is None:
        return frozenset()
    return _widths_of(module, tuple(_builders(source))).get(span, frozenset())


def offers_weights(source: SourceFile) -> bool:
    """Whether a file can fetch published weights for its models: other parameters would not fit them any more."""
    if source not in _offering:
        calls = (node for node in ast.walk(source.tree) if isinstance(node, ast.Call))
        _offering[source] = any(last_name(call.func) in _FETCHING for call in calls)
    return _offering[source]


def reads_statistics(source: SourceFile) -> bool:
    """Whether what is imported of the project reads the running statistics of norms, as one that folds them does."""
    root = _root(source)
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    own = {Path(name) for name in files if isinstance(name, str) and is_user_file(name, (root,))}
    return any(_mentions_statistics(file, file.stat().st_mtime_ns) for file in own if file.is_file())


def _root(source: SourceFile) -> str:
    """The folder around the outermost package that a file belongs to."""
    folder = source.path.resolve().parent
    while (folder / "__init__.py").exists() and folder.parent != folder:
        folder = folder.parent
    return f"{folder}{os.sep}"


@functools.cache
def _mentions_statistics(file: Path, _time: int) -> bool:
    return _STATISTICS.search(overlay.read_bytes(file)) is not None


def _builders(source: SourceFile) -> Iterator[str]:
    """The functions and classes of a file that give a model when they are called without arguments."""
    definitions = Definitions(source.tree)
    for name, function in definitions.functions.items():
        gives = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
        called = isinstance(function, ast.FunctionDef) and gives and not required_arguments(function.args)
        if called and definitions.builds(name) and not definitions.trains(name):
            yield name
    for name in definitions.classes:
        constructor = definitions.constructor(name) if definitions.is_module_class(name) else None
        if constructor is not None and not required_arguments(constructor.args, method=True):
            yield name


@functools.cache
def _widths_of(module: types.ModuleType, names: tuple[str, ...]) -> Mapping[Span, frozenset[int]]:
    """By the span that made them: the widths of the norms in what these names of a module build."""
    found: dict[Span, set[int]] = defaultdict(set)
    for make in [value for name in names if callable(value := vars(module).get(name))][:_BUILT]:
        try:
            model = build(make, (f"{Path(str(module.__file__)).parent}{os.sep}",)).model
        except BuildFailure:
            continue
        for _, part in walk(model) if isinstance(model, nn.Module) else ():
            span, width = span_of_module(part), getattr(part, "num_features", getattr(part, "num_channels", None))
            if span is not None and isinstance(width, int):
                found[span].add(width)
    return {span: frozenset(widths) for span, widths in found.items()}
