"""Loading: the part of a user's file that defines and builds models is executed, and nothing else of it."""

from __future__ import annotations

import ast
import importlib
import os
import sys
import traceback
import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnlint.errors import TargetError, UsageError, text_of
from bnlint.graph.build import state_kept
from bnlint.graph.converted import conversions_noted
from bnlint.graph.devices import devices_answered
from bnlint.graph.frames import is_internal, is_user_file
from bnlint.graph.initialisation import initialisation_postponed
from bnlint.graph.parallel import wrappers_taken_off
from bnlint.graph.spans import construction_spans
from bnlint.graph.weights import WeightsNotLoaded, weights_answered
from bnlint.graph.writes import writes_answered
from bnlint.isolation.refusals import refusal_in
from bnlint.isolation.sandbox import policy_of_process
from bnlint.source.file import SourceFile, display_path
from bnlint.source.slice import module_slice


def execute(source: SourceFile, wanted: tuple[str, ...] | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Execute the slice of a file that defines and builds models; its namespace and notes for the reader."""
    part = module_slice(source, wanted)
    code = compile(part.tree, str(source.path.resolve()), "exec", dont_inherit=True)
    with opened(source) as module:
        if not module.imported:
            _run(code, module)
    lost = [
        f"the loop in line {line} was not executed, though it fills {name}, of which a model is built"
        for line, name in part.lost
    ]
    return module.namespace, (*module.notes, *dict.fromkeys(map(str, module.weights)), *lost)


@dataclass
class OpenModule:
    """A module of the user's that is being filled; `imported` says that its package has imported it already."""

    name: str
    path: Path
    package: str
    namespace: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    weights: list[WeightsNotLoaded] = field(default_factory=list)
    imported: bool = False

    def start(self) -> None:
        """Begin with an empty module."""
        module = types.ModuleType(self.name)
        module.__file__ = str(self.path)
        module.__package__ = self.package
        sys.modules[self.name] = module
        self.namespace = vars(module)

    def locate(self, name: str) -> bool:
        """Add the folder above the file that holds a module to the path; False where none does."""
        missing = name.partition(".")[0]
        folder = next((str(above) for above in self.path.parents[1:5] if _holds(above, missing)), None)
        if folder is None or folder == sys.path[0]:
            return False
        first_in_path(folder)
        return True


@contextmanager
def opened(source: SourceFile) -> Iterator[OpenModule]:
    """The conditions under which the statements of a file are executed, and the module that they fill."""
    path = source.path.resolve()
    root, name, package = _identity(source)
    module = OpenModule(name, path, package)
    _forget_local_modules()
    # inside a package Python looks in the package's root, for a script in the script's folder
    folders = (str(root), str(Path.cwd()), str(path.parent)) if package else (str(path.parent), str(Path.cwd()))
    for folder in reversed(dict.fromkeys(folders)):
        first_in_path(folder)
    with (
        _remembered(set(sys.modules), roots_of(path)),
        imports(display_path(source.path), roots_of(path), module.weights),
    ):
        if package:
            _import_parents(package, root, module.notes)
        if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
            module.namespace, module.imported = vars(sys.modules[name]), True
        else:
            module.start()
        yield module


def _run(code: types.CodeType, module: OpenModule) -> None:
    """Execute a module; a folder above the file that holds a module it misses is added to the path."""
    tried: set[str] = set()
    while True:
        try:
            exec(code, module.namespace)  # the user's definitions and models: what bnlint is for
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in tried or not module.locate(missing):
                raise
            tried.add(missing)
            module.start()
        else:
            return


def _holds(folder: Path, module: str) -> bool:
    return bool(module) and ((folder / f"{module}.py").is_file() or (folder / module / "__init__.py").is_file())


def first_in_path(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


_executed = False


def has_executed() -> bool:
    """Whether user code has been executed in this process, which nothing can undo."""
    return _executed


@contextmanager
def imports(shown: str, roots: tuple[str, ...], weights: list[WeightsNotLoaded]) -> Iterator[None]:
    """The conditions under which user code is imported; what it raises becomes a `TargetError` (BN900)."""
    global _executed
    _executed = True
    argv = sys.argv
    sys.argv = [shown.partition(":")[0]]
    try:
        with ExitStack() as stack:
            stack.enter_context(state_kept())
            stack.enter_context(writes_answered(roots))
            stack.enter_context(weights_answered(weights))
            stack.enter_context(construction_spans(roots))
            stack.enter_context(conversions_noted())
            stack.enter_context(initialisation_postponed())
            stack.enter_context(devices_answered())
            stack.enter_context(wrappers_taken_off())
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
                f"{display_path(folder / '__init__.py')} was passed over: {type(error).__name__}: {text_of(error)}"
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


def _cannot_import(shown: str, roots: tuple[str, ...], error: BaseException) -> TargetError:
    if isinstance(error, (TargetError, UsageError)):
        raise error
    path, line = place_of(error, roots)
    if isinstance(error, SystemExit):
        message = f"the file ends the process while it is imported (exit status {error.code!r})"
        hint = "move the call that exits under `if __name__ == '__main__':`, or give its arguments defaults"
    elif is_download(error):
        message = f"the file wants to download while it is imported: {text_of(error)}"
        hint = NO_DOWNLOADS
    elif isinstance(error, ImportError):
        message = f"import fails: {text_of(error)}"
        hint = "install what is missing into the environment that bnlint runs in, or run bnlint from the project's root"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text_of(error):  # as torch says
        message = f"memory runs out while the file is imported: {type(error).__name__}: {text_of(error)}"
        hint = "move what needs it under `if __name__ == '__main__':`, or raise --memory-limit"
    else:
        message = f"the file raises while it is imported: {type(error).__name__}: {text_of(error)}"
        hint = "make the file importable: try `python -c` with the same import"
    hint = advice_on_refusal(error) or hint
    return TargetError(
        message,
        hint,
        code="BN900",
        path=path or (shown if shown.endswith(".py") else None),
        line=line,
        details="".join(traceback.format_exception(error)),
    )


def advice_on_refusal(error: BaseException) -> str | None:
    """What to do where the sandbox has refused something; None for other errors and for downloads."""
    refusal = refusal_in(error)
    if is_download(error):
        return None
    if refusal is None:
        return _UNSAID if isinstance(error, PermissionError) and policy_of_process() is not None else None
    flag = f", or run bnlint with {refusal.permit} if you trust the code" if refusal.permit else ""
    return f"move that call under `if __name__ == '__main__':`{flag}"


_UNSAID = (
    "the kernel keeps checked code from shared memory, processes, the network and writes: move that call under "
    "`if __name__ == '__main__':`, or run bnlint with --allow processes, network or writes if you trust the code"
)
NO_DOWNLOADS = (
    "bnlint downloads nothing: build without pretrained weights (pretrained=False, weights=None, from_config(...))"
)


def is_download(error: BaseException) -> bool:
    """Whether something failed because it could not be fetched."""
    causes = [error, error.__cause__, error.__context__]
    words = " ".join(f"{type(item).__name__} {text_of(item)}" for item in causes if item is not None).lower()
    return any(
        sign in words
        for sign in ("localentrynotfound", "offlinemode", "urlerror", "internet connection", "couldn't connect")
    )


def place_of(error: BaseException, roots: tuple[str, ...]) -> tuple[str | None, int | None]:
    """The innermost line of the user's files in a traceback, else the innermost outside torch."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_internal(frame.filename)]
    own = [frame for frame in frames if is_user_file(frame.filename, roots)] or frames
    if not own or own[-1].filename.startswith("<"):
        return None, None
    return display_path(Path(own[-1].filename)), own[-1].lineno


def roots_of(path: Path) -> tuple[str, ...]:
    """The folders of the user's files around a file: its outermost package's parent, and the working folder."""
    root = path.resolve().parent
    while (root / "__init__.py").exists() and root.parent != root:
        root = root.parent
    return tuple(dict.fromkeys((str(root) + os.sep, str(Path.cwd()) + os.sep)))
