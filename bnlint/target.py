"""Targets: what a user names ("model.py", "model.py:Net(3)", "timm.models:resnet50") -> what builds a module."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from bnlint.errors import TargetError, UsageError, text_of
from bnlint.files import split_file
from bnlint.graph.arguments import Answers, arguments_answered
from bnlint.graph.build import BuildFailure, Built, build, seeded, state_kept
from bnlint.graph.initialisation import initialise
from bnlint.graph.modules import walk
from bnlint.graph.writes import writes_answered
from bnlint.loading import (
    NO_DOWNLOADS,
    advice_on_refusal,
    execute,
    first_in_path,
    imports,
    is_download,
    place_of,
    roots_of,
)
from bnlint.script_targets import BuiltVariable, ScriptTargets
from bnlint.source.definitions import is_model_name
from bnlint.source.discover import Candidates, Unbuildable, find_candidates
from bnlint.source.file import SourceFile, display_path


@dataclass(frozen=True, eq=False)
class LoadedTarget:
    """One model to check.

    `name` is how it is shown, `make` constructs it, `source` is the file that it was named in, `roots` the folders of
    the user's files. `explicit` says that the user named this very object,
    `one_of_several` that its file may hold other models as well. `notes` are sentences for the reader.
    """

    name: str
    make: Callable[[], Any]
    source: SourceFile | None
    roots: tuple[str, ...]
    explicit: bool
    class_name: str = ""
    one_of_several: bool = False
    notes: tuple[str, ...] = ()

    def build(self) -> Built:
        """Build the model; raises `TargetError` (BN901) with the reason and the next step."""
        try:
            with arguments_answered(Answers()):
                built = _built(self.make, self.roots)
        except BuildFailure as failure:
            raise _cannot_build(self, failure) from failure
        if not issubclass(type(built.model), nn.Module):  # a class may say anything of itself
            kind = type(built.model).__name__
            raise TargetError(
                f"{self.name} gives a value of type {kind}, not an nn.Module",
                "name a function or class that gives the module itself",
                code="BN901",
                path=None if self.source is None else display_path(self.source.path),
                line=None if self.source is None else _definition_line(self),
            )
        if "_modules" not in vars(built.model):
            raise TargetError(
                f"{type(built.model).__name__} does not call super().__init__(), so it is no working nn.Module",
                "call super().__init__() first in its __init__",
                code="BN901",
                path=None if self.source is None else display_path(self.source.path),
                line=None if self.source is None else _definition_line(self),
            )
        return built

    def rebuild(self) -> nn.Module:
        """Build the model once more on the CPU with real values."""
        with arguments_answered(Answers()):
            model = _built(self.make, self.roots, values=True).model
        assert isinstance(model, nn.Module)
        with state_kept():
            seeded(0)
            initialise(model)  # one that the file has made while it was imported
        return model


def _built(make: Callable[[], Any], roots: tuple[str, ...], *, values: bool = False) -> Built:
    """`build` for user code that may write: its log file must not decide whether a model can be checked."""
    with writes_answered(roots):
        return build(make, roots, values=values)


@dataclass(frozen=True)
class NothingToCheck:
    """A file without a model in it; `reason` is a sentence for the reader."""

    name: str
    reason: str


def load_targets(spec: str) -> Iterator[LoadedTarget | TargetError | NothingToCheck]:
    """Everything that a spec names, in the order of the file.

    An error that concerns one of several objects is yielded, one that concerns the whole spec is raised. Raises
    `UsageError` for a spec of another form, `TargetError` (BN900) when its module cannot be imported.
    """
    file = split_file(spec)
    if file is not None:
        path, expression = file
        source = SourceFile.read(Path(path))
        try:
            if expression is None:
                yield from _discover(source, path)
            else:
                yield _named_in_file(source, spec, expression)
        except RecursionError as error:
            shown = display_path(source.path)
            raise TargetError(
                f"{shown} is nested too deeply to be read",
                "split its longest if-elif chain or expression",
                code="BN900",
            ) from error
        return
    module_name, _, expression = spec.partition(":")
    yield _importable(spec, module_name, expression)


# One object ------------------------------------------------------------------------------------------------------


def _named_in_file(source: SourceFile, spec: str, expression: str) -> LoadedTarget:
    name, call = _parsed(spec, expression)
    scripts = ScriptTargets(source, spec.partition(".py:")[0] + ".py")
    variable = scripts.named(name) or (scripts.named_at_the_top(name) if call is not None else None)
    if variable is not None:
        if call is not None and call[0]:
            raise UsageError(f"{name} is a variable of a script: {spec!r} gives it arguments without names", _GIVEN)
        return _variable(scripts, scripts.one(variable, {} if call is None else call[1]), spec, explicit=True)
    try:
        namespace, notes = _executed(source, (name.split(".")[0],))
    except TargetError:
        variable = scripts.named_at_the_top(name)
        if variable is None:
            raise
        return _variable(scripts, scripts.one(variable, {}), spec, explicit=True)
    found = _look_up(namespace, name, spec, display_path(source.path))
    return LoadedTarget(
        name=spec,
        make=_maker(found, call),
        source=source,
        roots=roots_of(source.path),
        explicit=True,
        class_name=_class_name(found),
        notes=notes,
    )


_GIVEN = "name the variables or options that they are for, as in train.py:main.model(num_classes=10)"


def _executed(source: SourceFile, wanted: tuple[str, ...] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Execute what defines and builds models in a file, its command line answered with its defaults."""
    answers = Answers()
    with arguments_answered(answers):
        namespace, notes = execute(source, wanted)
    return namespace, (*notes, *answers.notes())


def _variable(
    scripts: ScriptTargets, built: BuiltVariable, name: str, *, explicit: bool = False, several: bool = False
) -> LoadedTarget:
    return LoadedTarget(
        name=name,
        make=built.make,
        source=scripts.source,
        roots=scripts.roots,
        explicit=explicit,
        class_name=type(built.module).__name__,
        one_of_several=several,
        notes=built.notes,
    )


def _importable(spec: str, module_name: str, expression: str) -> LoadedTarget:
    name, call = _parsed(spec, expression)
    first_in_path(str(Path.cwd()))
    with imports(spec, (str(Path.cwd()) + os.sep,), []):
        module = importlib.import_module(module_name)
    found = _look_up(vars(module), name, spec, module_name)
    file = getattr(sys.modules.get(module_name.partition(".")[0]), "__file__", None)
    package = str(Path.cwd()) if file is None else str(Path(file).parent)
    return LoadedTarget(
        name=spec,
        make=_maker(found, call),
        source=None,
        roots=(package + os.sep, str(Path.cwd()) + os.sep),
        explicit=True,
        class_name=_class_name(found),
    )


def _parsed(spec: str, expression: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """The dotted name in a target and the literal arguments behind it."""
    hint = "write path.py:Net, path.py:Net(num_classes=10) or package.module:factory, with literal arguments"
    try:
        node = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"cannot read the object in the target {spec!r}", hint) from error
    call = node if isinstance(node, ast.Call) else None
    name = ast.unparse(call.func if call else node)
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"cannot read the object in the target {spec!r}", hint)
    if call is None:
        return name, None
    try:
        args = [ast.literal_eval(arg) for arg in call.args]
        kwargs = {str(item.arg): ast.literal_eval(item.value) for item in call.keywords if item.arg is not None}
    except ValueError as error:
        raise UsageError(f"the arguments in the target {spec!r} are not all literals", hint) from error
    if len(kwargs) != len(call.keywords):
        raise UsageError(f"the arguments in the target {spec!r} are not all literals", hint)
    return name, (args, kwargs)


def _look_up(namespace: Any, name: str, spec: str, where: str) -> Any:
    head, *rest = name.split(".")
    if head not in namespace:
        import difflib

        near = difflib.get_close_matches(head, [key for key in namespace if not key.startswith("_")], n=1)
        raise TargetError(
            f"there is no {head!r} in {where}",
            f"did you mean {near[0]!r}?" if near else "name an object that the file defines at its top level",
            code="BN900",
        )
    found = namespace[head]
    for part in rest:
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise TargetError(f"{spec}: {error}", "check the name", code="BN900") from error
    return found


def _maker(found: Any, call: tuple[list[Any], dict[str, Any]] | None) -> Callable[[], Any]:
    if isinstance(found, nn.Module) and call is None:
        return lambda: found
    if not callable(found):
        return lambda: found
    args, kwargs = call or ([], {})
    return lambda: found(*args, **kwargs)


def _class_name(found: Any) -> str:
    if isinstance(found, nn.Module):
        return type(found).__name__
    return getattr(found, "__name__", "")


# A whole file ----------------------------------------------------------------------------------------------------


def _discover(source: SourceFile, shown: str) -> Iterator[LoadedTarget | TargetError | NothingToCheck]:
    """The models that a script builds, then those that the file offers and no script model covers."""
    scripts = ScriptTargets(source, shown)
    names: set[str] = set()
    for built in scripts.in_functions():
        names.add(built.model.name)
        yield _variable(scripts, built, f"{shown}:{built.model.name}", several=True)
    candidates = _uncovered(find_candidates(source), scripts)
    problem: TargetError | None = None
    try:
        known = scripts.covered | scripts.tried
        for item in _offered(source, shown, candidates, known):
            if isinstance(item, LoadedTarget):
                names.add(item.name.rpartition(":")[2])
            yield item
    except TargetError as error:
        problem = error
    for built in scripts.at_the_top(names):
        names.add(built.model.name)
        yield _variable(scripts, built, f"{shown}:{built.model.name}", several=True)
    if problem is not None:
        if not (names or scripts.failures):
            raise problem
        rest = _not_imported(problem, candidates, scripts)
        if rest is not None:
            yield rest
    yield from scripts.failures


def _uncovered(candidates: Candidates, scripts: ScriptTargets) -> Candidates:
    """The candidates that no model of the script is built with, nor would be."""
    covered = scripts.covered
    return replace(
        candidates,
        factories=tuple(item for item in candidates.factories if item.name not in covered),
        root_classes=tuple(item for item in candidates.root_classes if item.name not in covered),
        unbuildable=tuple(item for item in candidates.unbuildable if item.name not in covered | scripts.attempted),
    )


def _not_imported(error: TargetError, candidates: Candidates, scripts: ScriptTargets) -> TargetError | None:
    """What a file offers besides the models of its script, and why it was not looked at."""
    instances = filter(is_model_name, candidates.instances)
    factories = [item.name for item in candidates.factories if item.returns]
    classes = [item.name for item in candidates.root_classes]
    said = scripts.covered | scripts.attempted | scripts.tried
    names = [name for name in dict.fromkeys((*instances, *factories, *classes)) if name not in said]
    if not names:
        return None
    return TargetError(
        f"{', '.join(names)} {'was' if len(names) == 1 else 'were'} not checked: {error.message}",
        error.hint,
        code="BN901",
        path=error.path,
        line=error.line,
        module=f"{scripts.shown}:{names[0]}",
        details=error.details,
        optional=True,
    )


def _offered(
    source: SourceFile, shown: str, candidates: Candidates, covered: set[str]
) -> Iterator[LoadedTarget | TargetError | NothingToCheck]:
    """Module instances, then factories, then root classes; an object that a former one covers is left out."""
    if not (candidates.instances or candidates.factories or candidates.root_classes):
        if not covered:
            yield NothingToCheck(shown, f"{shown} defines no nn.Module that could be checked")
        return
    namespace, notes = _executed(source, None)
    roots = roots_of(source.path)
    without_arguments = [root for root in candidates.root_classes if not root.required]
    several = len(candidates.instances) + len(candidates.factories) + len(without_arguments) > 1
    failures: list[TargetError] = []
    found = 0

    def target(name: str, make: Callable[[], Any], class_name: str) -> LoadedTarget:
        return LoadedTarget(f"{shown}:{name}", make, source, roots, False, class_name, several, notes)

    for name, module in _instances(candidates, namespace):
        covered.add(type(module).__name__)
        found += 1
        yield target(name, lambda module=module: module, type(module).__name__)  # type: ignore[misc]
    for factory in candidates.factories:
        function = namespace.get(factory.name)
        if not callable(function):
            continue
        attempt = target(factory.name, function, "")
        try:
            built = _built(function, roots)
        except BuildFailure as failure:
            failures.append(_cannot_build(attempt, failure))
            continue
        if isinstance(built.model, nn.Module):
            covered.add(type(built.model).__name__)
            covered.update(type(part).__name__ for _, part in walk(built.model))
            found += 1
            yield target(factory.name, function, type(built.model).__name__)
    for root in without_arguments:
        cls = namespace.get(root.name)
        if root.name in covered or not isinstance(cls, type) or not issubclass(cls, nn.Module) or _is_loss(cls):
            continue
        found += 1
        yield target(root.name, cls, root.name)
    for item in candidates.unbuildable:
        builders = [builder for builder in candidates.builders if item.name in builder.returns]
        for builder in builders if item.name not in covered else ():
            function = namespace.get(builder.name)
            if callable(function) and _builds_module(function, roots):
                others = f"{len(builders) - 1} more functions build {item.name}: name one to check it"
                notes = (*notes, others) if len(builders) > 1 else notes
                covered.add(item.name)
                found += 1
                yield target(builder.name, function, item.name)
                break
        if item.name not in covered:
            failures.append(_needs_arguments(target(item.name, lambda: None, item.name), item))
    yield from failures
    if not (found or failures or covered):
        yield NothingToCheck(shown, f"{shown} defines no nn.Module that could be checked")


def _builds_module(function: Callable[[], Any], roots: tuple[str, ...]) -> bool:
    try:
        return isinstance(_built(function, roots).model, nn.Module)
    except BuildFailure:
        return False


def _instances(candidates: Candidates, namespace: dict[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that the file binds at its top level, without those that are part of another one."""
    modules = {
        name: value
        for name in candidates.instances
        if isinstance(value := namespace.get(name), nn.Module) and not _is_loss(type(value))
    }
    real = (module for module in modules.values() if issubclass(type(module), nn.Module))
    parts = {id(part) for module in real for _, part in walk(module) if part is not module}
    seen: set[int] = set()
    for name, module in modules.items():
        if id(module) not in parts and id(module) not in seen:
            seen.add(id(module))
            yield name, module


def _is_loss(cls: type) -> bool:
    return issubclass(cls, nn.modules.loss._Loss) or cls.__name__.endswith(("Loss", "Criterion"))


def _needs_arguments(target: LoadedTarget, item: Unbuildable) -> TargetError:
    example = ", ".join(f"{name}=..." for name in item.required)
    return TargetError(
        f"{item.reason}, so it was not built",
        f"name them, as in bnlint check '{target.name}({example})', or add a function build_model() that returns it"
        if item.required
        else f"add a function build_model() that only builds, or name the model's class instead of {item.name}",
        code="BN901",
        path=item.span.path,
        line=item.span.line,
        module=target.name,
        optional=bool(item.required),
    )


# What went wrong -------------------------------------------------------------------------------------------------


def _cannot_build(target: LoadedTarget, failure: BuildFailure) -> TargetError:
    path, line = place_of(failure.cause, target.roots)
    cause = failure.cause
    if path is None and target.source is not None:
        path, line = display_path(target.source.path), _definition_line(target)
    reason = f"{type(cause).__name__}: {text_of(cause)}"
    hint = f"name the arguments it needs, as in bnlint check '{target.name}(...)', or add a build_model() that works"
    if failure.weights:
        hint = f"{failure.weights[-1]}; name a way to build it that needs no checkpoint"
    if is_download(cause):
        hint = NO_DOWNLOADS
    if isinstance(cause, ImportError):
        hint = "install what is missing into the environment that bnlint runs in"
    if isinstance(cause, SystemExit):
        reason = f"it ends the process with status {cause.code!r}"
    hint = advice_on_refusal(cause) or hint
    return TargetError(
        f"{target.name.rpartition(':')[2]} cannot be built: {reason}",
        hint,
        code="BN901",
        path=path,
        line=line,
        module=target.name,
        details=failure.details,
    )


def _definition_line(target: LoadedTarget) -> int | None:
    """The line that defines or binds the object of a target in its file."""
    assert target.source is not None
    wanted = target.name.rpartition(".py:")[2].partition("(")[0].partition(".")[0]
    for node in target.source.tree.body:
        names = [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []
        if isinstance(node, ast.Assign):
            names = [item.id for item in node.targets if isinstance(item, ast.Name)]
        if wanted in names:
            return node.lineno
    return None
