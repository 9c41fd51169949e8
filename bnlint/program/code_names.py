"""Names in code: which function of a loaded class uses a name, itself or through a function of its file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from types import CodeType
from typing import Any


def names_in(code: CodeType) -> set[str]:
    """The names that some code uses, that of functions in it included."""
    inner = (names_in(item) for item in code.co_consts if isinstance(item, CodeType))
    return set(code.co_names).union(*inner)


def user_of(words: Collection[str], function: Any) -> Callable[..., Any] | None:
    """The function that uses one of some names: the given one, or one of its file that it uses in turn."""
    function = inspect.unwrap(function)  # behind `@torch.no_grad()`
    names = names_in(function.__code__)
    if not names.isdisjoint(words):
        return function  # type: ignore[no-any-return]
    for name in sorted(names):
        other = function.__globals__.get(name)
        code = getattr(other, "__code__", None)
        if code is not None and not names_in(code).isdisjoint(words):
            return other  # type: ignore[no-any-return]
    return None
