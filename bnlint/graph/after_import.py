"""After import: modules that user code may or may not import are handed over as soon as it does."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def after_import(names: Collection[str], then: Callable[[ModuleType], None]) -> Iterator[None]:
    """While active, `then` is given each of some modules after its import; what is imported already at once."""
    for name in names:
        if name in sys.modules:
            then(sys.modules[name])
    finder = _AfterImport(names, then)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _AfterImport:
    """Lets the import of a module run its course, then hands the module over."""

    def __init__(self, names: Collection[str], then: Callable[[ModuleType], None]) -> None:
        self._names = names
        self._then = then

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._names:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            self._then(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
