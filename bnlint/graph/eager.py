"""torch's kernels in Python without the compiler: on meta tensors the first of them would import half of torch.

Kernels such as that of `mean` are kept from `torch.compile` by a decorator that imports `torch._dynamo`, half a second,
when it is first called. In a process that compiles nothing there is nothing to keep them from.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

_KERNELS = ("torch._refs", "torch._refs.nn.functional", "torch._refs.special", "torch._refs.linalg", "torch._refs.fft",
            "torch._decomp.decompositions", "torch._decomp.decompositions_for_rng", "torch._prims",
            "torch._meta_registrations")  # fmt: skip
_DECORATED = "__dynamo_disable"  # where the decorator keeps what it has made of a function


def without_compiler() -> None:
    """Have the kernels run as they are, for good: only where the process belongs to bnlint."""
    for name in _KERNELS:
        module = sys.modules.get(name)
        for value in () if module is None else list(vars(module).values()):
            for decorated in _decorated(value):
                setattr(decorated, _DECORATED, decorated)


def _decorated(function: Any) -> Iterator[Any]:
    """The functions under a kernel that the decorator was put on."""
    while callable(function):
        code = getattr(function, "__code__", None)
        if code is not None and code.co_name == "inner" and _DECORATED in code.co_consts:
            yield function.__closure__[code.co_freevars.index("fn")].cell_contents
        function = getattr(function, "__wrapped__", None)
