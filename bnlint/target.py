"""Targets: what a user names ("model.py", "model.py:Net(3)", "timm.models:resnet50") -> functions that build a module."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bnlint.errors import TargetError, UsageError
from bnlint.files import split_file
from bnlint.graph.build import (
    Built,
    BuildFailure,
    WeightsNotLoaded,
    build,
    rng_kept,
    weights_answered,
    without_initialisation,
)
from bnlint.graph.devices import devices_answered
from bnlint.graph.frames import is_internal, is_user_file
from bnlint.graph.spans import construction_spans
from bnlint.source.discover import Candidates, Unbuildable, find_candidates
from bnlint.source.file import SourceFile, display_path
from bnlint.source.slice import module_slice


@dataclass(frozen=True, eq=False)
class LoadedTarget:
    """One model to check.

    `name` is how it is shown, `make` constructs it, `source` is the file that it was named in, `roots` the folders of
    the user's files. `explicit` says that the user named this very object. `notes` are sentences for the reader.
    """

    name: str
    make: Callable[[], Any]
    source: SourceFile | None
    roots: tuple[str, ...]
    explicit: bool
    class_name: str = ""
    notes: tuple[str, ...] = ()

    def build(self) -> Built:
        """Build the model; raises `TargetError` (BN901) with the reason and the next step."""
        try:
            built = build(self.make, self.roots)
        except BuildFailure as failure:
            raise _cannot_build(self, failure) from failure
        if not isinstance(built.model, nn.Module):
            kind = type(built.model).__name__
            raise TargetError(
                f"{self.name} gives a value of type {kind}, not an nn.Module",
                "name a function or class that gives the module itself",
                code="BN901",
                path=None if self.source is None else display_path(self.source.path),
                line=None if self.source is None else _definition_line(self),
            )
        return built

    def rebuild(self) -> nn.Module:
        """Build the model once more on the CPU with real values."""
        model = build(self.make, self.roots, values=True).model
        assert isinstance(model, nn.Module)
        return model


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
        if expression is None:
            yield from _discover(source, path)
        else:
            yield _named_in_file(source, spec, expression)
        return
    module_name, _, expression = spec.partition(":")
    yield _importable(spec, module_name, expression)


# One object ------------------------------------------------------------------------------------------------------


def _named_in_file(source: SourceFile, spec: str, expression: str) -> LoadedTarget:
    name, call = _parsed(spec, expression)
    namespace, notes = _execute(source, wanted=(name.split(".")[0],))
    found = _look_up(namespace, name, spec, display_path(source.path))
    return LoadedTarget(
        name=spec,
        make=_maker(found, call),
        source=source,
        roots=_roots(source.path),
        explicit=True,
        class_name=_class_name(found),
        notes=notes,
    )


def _importable(spec: str, module_name: str, expression: str) -> LoadedTarget:
    name, call = _parsed(spec, expression)
    _first_in_path(os.getcwd())
    with _imports(spec, (os.getcwd() + os.sep,), []):
        module = importlib.import_module(module_name)
    found = _look_up(vars(module), name, spec, module_name)
    file = getattr(sys.modules.get(module_name.partition(".")[0]), "__file__", None)
    package = os.getcwd() if file is None else str(Path(file).parent)
    return LoadedTarget(
        name=spec,
        make=_maker(found, call),
        source=None,
        roots=(package + os.sep, os.getcwd() + os.sep),
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
    """Module instances, then factories, then root classes; an object that a former one covers is left out."""
    candidates = find_candidates(source)
    if not (candidates.instances or candidates.factories or candidates.root_classes):
        yield NothingToCheck(shown, f"{shown} defines no nn.Module that could be checked")
        return
    namespace, notes = _execute(source, wanted=None)
    roots = _roots(source.path)
    covered: set[str] = set()
    failures: list[TargetError] = []
    found = 0

    def target(name: str, make: Callable[[], Any], class_name: str) -> LoadedTarget:
        return LoadedTarget(f"{shown}:{name}", make, source, roots, False, class_name, notes)

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
            built = build(function, roots)
        except BuildFailure as failure:
            failures.append(_cannot_build(attempt, failure))
            continue
        if isinstance(built.model, nn.Module):
            covered.add(type(built.model).__name__)
            covered.update(type(part).__name__ for part in built.model.modules())
            found += 1
            yield target(factory.name, function, type(built.model).__name__)
    roots_without_arguments = (root for root in candidates.root_classes if not root.required)
    for root in roots_without_arguments:
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
    if not found and not failures:
        yield NothingToCheck(shown, f"{shown} defines no nn.Module that could be checked")


def _builds_module(function: Callable[[], Any], roots: tuple[str, ...]) -> bool:
    try:
        return isinstance(build(function, roots).model, nn.Module)
    except BuildFailure:
        return False


def _instances(candidates: Candidates, namespace: dict[str, Any]) -> Iterator[tuple[str, nn.Module]]:
    """The modules that the file binds at its top level, without those that are part of another one."""
    modules = {
        name: value
        for name in candidates.instances
        if isinstance(value := namespace.get(name), nn.Module) and not _is_loss(type(value))
    }
    parts = {id(part) for module in modules.values() for part in module.modules() if part is not module}
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


# Running the user's module ---------------------------------------------------------------------------------------


def _execute(source: SourceFile, wanted: tuple[str, ...] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Execute the slice of a file that defines and builds models; its namespace and notes for the reader."""
    path = source.path.resolve()
    part = module_slice(source, wanted)
    root, name, package = _identity(source)
    notes: list[str] = []
    _forget_local_modules()
    # inside a package Python looks in the package's root, for a script in the script's folder
    folders = (str(root), os.getcwd(), str(path.parent)) if package else (str(path.parent), os.getcwd())
    for folder in reversed(dict.fromkeys(folders)):
        _first_in_path(folder)
    weights: list[WeightsNotLoaded] = []
    with _remembered(set(sys.modules), _roots(path)), _imports(display_path(source.path), _roots(path), weights):
        if package:
            _import_parents(package, root, notes)
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
            return vars(sys.modules[name]), tuple(notes)  # its own package has imported it already
        code = compile(part.tree, str(path), "exec", dont_inherit=True)
        namespace = _run(code, name, path, package, set())
    notes += dict.fromkeys(str(item) for item in weights)
    return namespace, tuple(notes)


def _run(code: types.CodeType, name: str, path: Path, package: str, tried: set[str]) -> dict[str, Any]:
    """Execute a module; a folder above the file that holds a module it misses is added to the path."""
    module = types.ModuleType(name)
    module.__file__ = str(path)
    module.__package__ = package
    sys.modules[name] = module
    try:
        exec(code, vars(module))  # the user's definitions and models: what bnlint is for
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        folder = next((str(above) for above in path.parents[1:5] if _holds(above, missing)), None)
        if folder is None or missing in tried:
            raise
        _first_in_path(folder)
        return _run(code, name, path, package, {*tried, missing})
    return vars(module)


def _holds(folder: Path, module: str) -> bool:
    return bool(module) and ((folder / f"{module}.py").is_file() or (folder / module / "__init__.py").is_file())


def _first_in_path(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


@contextmanager
def _imports(shown: str, roots: tuple[str, ...], weights: list[WeightsNotLoaded]) -> Iterator[None]:
    """The conditions under which user code is imported; what it raises becomes a `TargetError` (BN900)."""
    argv = sys.argv
    sys.argv = [shown.partition(":")[0]]
    try:
        with ExitStack() as stack:
            stack.enter_context(rng_kept())
            stack.enter_context(weights_answered(weights))
            stack.enter_context(construction_spans(roots))
            stack.enter_context(without_initialisation())
            stack.enter_context(devices_answered())
            yield
    except (Exception, SystemExit) as error:
        raise _cannot_import(shown, roots, error) from error
    finally:
        sys.argv = argv


def _identity(source: SourceFile) -> tuple[Path, str, str]:
    """The folder to import from, the module's name and its package ("" outside any)."""
    path = source.path.resolve()
    levels = max((node.level for node in ast.walk(source.tree) if isinstance(node, ast.ImportFrom)), default=0)
    if not levels:
        return path.parent, path.stem, ""
    root, parts, climbed = path.parent, [path.stem], 0
    while climbed < levels or (root / "__init__.py").exists():
        if root.parent == root:
            break
        parts.insert(0, root.name)
        root = root.parent
        climbed += 1
    if parts[-1] == "__init__":
        parts.pop()
        return root, ".".join(parts), ".".join(parts)
    return root, ".".join(parts), ".".join(parts[:-1])


def _import_parents(package: str, root: Path, notes: list[str]) -> None:
    """Import the packages around a file; one that fails is replaced by an empty one, so that the file can be read."""
    folder = root
    name = ""
    for part in package.split("."):
        folder, name = folder / part, f"{name}.{part}" if name else part
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            stand_in = types.ModuleType(name)
            stand_in.__path__ = [str(folder)]
            sys.modules[name] = stand_in
            notes.append(
                f"{display_path(folder / '__init__.py')} was passed over: {type(error).__name__}: {_first_line(error)}"
            )


_local_modules: set[str] = set()


@contextmanager
def _remembered(before: set[str], roots: tuple[str, ...]) -> Iterator[None]:
    """Remember which of the user's own modules were imported."""
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if name not in before and isinstance(file, str) and is_user_file(file, roots):
                _local_modules.add(name)


def _forget_local_modules() -> None:
    """Forget what former targets imported from their own folders: two projects may both have a `layers.py`."""
    for name in _local_modules:
        sys.modules.pop(name, None)
    _local_modules.clear()


# What went wrong -------------------------------------------------------------------------------------------------


def _cannot_import(shown: str, roots: tuple[str, ...], error: BaseException) -> TargetError:
    if isinstance(error, (TargetError, UsageError)):
        raise error
    path, line = _place(error, roots)
    if isinstance(error, SystemExit):
        message = f"the file ends the process while it is imported (exit status {error.code!r})"
        hint = "move the call that exits under `if __name__ == '__main__':`, or give the arguments it asks for a default"
    elif isinstance(error, ImportError):
        message = f"import fails: {_first_line(error)}"
        hint = "install what is missing into the environment that bnlint runs in, or run bnlint from the project's root"
    else:
        message = f"the file raises while it is imported: {type(error).__name__}: {_first_line(error)}"
        hint = "make the file importable: try `python -c` with the same import"
    return TargetError(
        message,
        hint,
        code="BN900",
        path=path or (shown if shown.endswith(".py") else None),
        line=line,
        details="".join(traceback.format_exception(error)),
    )


def _cannot_build(target: LoadedTarget, failure: BuildFailure) -> TargetError:
    path, line = _place(failure.cause, target.roots)
    cause = failure.cause
    if path is None and target.source is not None:
        path, line = display_path(target.source.path), _definition_line(target)
    reason = f"{type(cause).__name__}: {_first_line(cause)}"
    hint = f"name the arguments it needs, as in bnlint check '{target.name}(...)', or add a build_model() that works"
    if isinstance(cause, ImportError):
        hint = "install what is missing into the environment that bnlint runs in"
    if isinstance(cause, SystemExit):
        reason = f"it ends the process with status {cause.code!r}"
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


def _place(error: BaseException, roots: tuple[str, ...]) -> tuple[str | None, int | None]:
    """The innermost line of the user's files in a traceback, else the innermost outside torch."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_internal(frame.filename)]
    own = [frame for frame in frames if is_user_file(frame.filename, roots)] or frames
    if not own or own[-1].filename.startswith("<"):
        return None, None
    return display_path(Path(own[-1].filename)), own[-1].lineno


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"


def _roots(path: Path) -> tuple[str, ...]:
    """The folders of the user's files around a file: its outermost package's parent, and the working folder."""
    root = path.resolve().parent
    while (root / "__init__.py").exists() and root.parent != root:
        root = root.parent
    return tuple(dict.fromkeys((str(root) + os.sep, os.getcwd() + os.sep)))
