"""Candidates: what in a file could be a model, read from its source; running it tells whether it is one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from bnlint.diagnostic import Span
from bnlint.source.definitions import (
    Definitions,
    Function,
    dotted,
    is_factory_name,
    last_name,
    module_statements,
    required_arguments,
)
from bnlint.source.file import SourceFile


@dataclass(frozen=True)
class Factory:
    """A function without required arguments that is named as model factories are.

    `returns` names the classes of the file that it constructs: they and the factory are one target.
    """

    name: str
    span: Span
    returns: tuple[str, ...]


@dataclass(frozen=True)
class RootClass:
    """A module class that is no part of another. `required` names the arguments that building it takes."""

    name: str
    span: Span
    required: tuple[str, ...]

    @property
    def line(self) -> int:
        return self.span.line


@dataclass(frozen=True)
class Unbuildable:
    """A model that cannot be built without being told how, and why."""

    name: str
    span: Span
    reason: str
    required: tuple[str, ...]


@dataclass(frozen=True)
class Candidates:
    """The models that a file may offer, each group in file order.

    `instances` are the module-level names that an assignment binds to a model; a name that only stands for
    another instance (a copy, a wrapper) is left out.
    """

    instances: tuple[str, ...]
    factories: tuple[Factory, ...]
    root_classes: tuple[RootClass, ...]
    unbuildable: tuple[Unbuildable, ...]
    builders: tuple[Factory, ...] = ()

    def __bool__(self) -> bool:
        """Whether the file may offer any model."""
        return bool(self.instances or self.factories or self.root_classes or self.unbuildable)


def find_candidates(source: SourceFile) -> Candidates:
    """Read the candidates from a file without running it."""
    definitions = Definitions(source.tree)
    factories: list[Factory] = []
    unbuildable: list[tuple[int, Unbuildable]] = []
    for name, function in definitions.functions.items():
        if not is_factory_name(name) or isinstance(function, ast.AsyncFunctionDef):
            continue
        span = source.name_span(function)
        built = tuple(sorted(definitions.builds(name)))
        required = required_arguments(function.args)
        if definitions.trains(name):
            if built:
                reason = f"{name}() trains, so it is not called"
                unbuildable.append((function.lineno, Unbuildable(name, span, reason, required)))
        elif not required:
            factories.append(Factory(name, span, built))
        elif definitions.returns_model(function):
            unbuildable.append((function.lineno, Unbuildable(name, span, _required(name, required), required)))
    roots: list[RootClass] = []
    for name in _root_names(source.tree, definitions):
        node = definitions.classes[name]
        constructor = definitions.constructor(name)
        required = required_arguments(constructor.args, method=True) if constructor else ()
        span = source.name_span(node)
        roots.append(RootClass(name, span, required))
        if required:
            unbuildable.append((node.lineno, Unbuildable(name, span, _required(name, required), required)))
    return Candidates(
        _instances(source.tree, definitions),
        tuple(factories),
        tuple(roots),
        tuple(item for _, item in sorted(unbuildable, key=lambda pair: pair[0])),
        tuple(_builders(source, definitions, {root.name for root in roots if root.required})),
    )


def _builders(source: SourceFile, definitions: Definitions, wanted: set[str]) -> Iterator[Factory]:
    """Functions that build a class which takes arguments, under names of their own, as `resnet18()` does."""
    for name, function in definitions.functions.items():
        built = wanted & definitions.builds(name)
        gives = any(isinstance(node, ast.Return) and node.value is not None for node in ast.walk(function))
        if is_factory_name(name) or isinstance(function, ast.AsyncFunctionDef) or not built or not gives:
            continue
        if not required_arguments(function.args) and not definitions.trains(name):
            yield Factory(name, source.name_span(function), tuple(sorted(built)))


def _required(name: str, required: tuple[str, ...]) -> str:
    noun = "argument" if len(required) == 1 else "arguments"
    return f"{name}() requires the {noun} {', '.join(required)}"


def _instances(tree: ast.Module, definitions: Definitions) -> tuple[str, ...]:
    known: dict[str, None] = {}
    aliases: set[str] = set()
    for statement in module_statements(tree.body):
        names = definitions.model_targets(statement, (*known, *aliases))
        if not names or not isinstance(statement, (ast.Assign, ast.AnnAssign)) or statement.value is None:
            continue
        inner = definitions.unwrapped(statement.value)
        if isinstance(inner, ast.Name) and inner.id in {*known, *aliases}:
            aliases |= set(names) - known.keys()
        else:
            known.update(dict.fromkeys(names))
    return tuple(known)


def _root_names(tree: ast.Module, definitions: Definitions) -> list[str]:
    """The module classes of the file that no other module class uses and that do not only serve as a base."""
    modules = {name for name in definitions.classes if definitions.is_module_class(name)}
    parts: set[str] = set()
    bases: set[str] = set()
    for name, node in definitions.classes.items():
        bases |= {dotted(base) or "" for base in node.bases} - {name}
        if name in modules:
            parts |= _used_classes(node, modules) - {name}
    built: set[str] = set()
    for item in ast.walk(tree):
        if not isinstance(item, ast.Call):
            continue
        called = dotted(item.func)
        if called in modules:
            built.add(called)
        if called in definitions.classes or called in definitions.functions:
            # A class that is passed on, as in ResNet(BasicBlock, [2, 2]), is a part of what is built.
            arguments = [*item.args, *(keyword.value for keyword in item.keywords)]
            parts |= {node.id for node in arguments if isinstance(node, ast.Name) and node.id in modules}
    return [
        name
        for name, node in definitions.classes.items()
        if definitions.is_candidate_class(name)
        and name not in parts
        and (name not in bases or name in built)
        and not _is_abstract(node)
    ]


def _used_classes(node: ast.ClassDef, modules: set[str]) -> set[str]:
    """The module classes that the body of a class names, other than in type tests and annotations."""
    found: set[str] = set()
    pending: list[ast.AST] = [*node.body, *(keyword.value for keyword in node.keywords)]
    while pending:
        current = pending.pop()
        match current:
            case ast.Name(id=name) if name in modules:
                found.add(name)
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass" | "super")):
                pass
            case ast.arg():
                pass
            case ast.AnnAssign(value=value):
                pending += [value] if value is not None else []
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                pending += [current.args, *current.body, *current.decorator_list]
            case _:
                pending += ast.iter_child_nodes(current)
    return found


def _is_abstract(node: ast.ClassDef) -> bool:
    methods = (item for item in node.body if isinstance(item, Function))
    return any(last_name(decorator).startswith("abstract") for item in methods for decorator in item.decorator_list)
