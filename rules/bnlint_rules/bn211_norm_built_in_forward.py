"""BN211: a norm layer that lives for one call."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType
from typing import Any

from bnlint.api import Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Span, Valid

STATE_ARGUMENTS = ("affine", "elementwise_affine", "track_running_stats")

Definition = ast.FunctionDef | ast.AsyncFunctionDef


class NormBuiltInForward(Rule):
    """A norm layer constructed inside `forward` is a new layer in every call.

    ## Why it matters

    Its weight and bias are fresh each time, so no optimiser ever trains them; it is on the CPU while the
    model is on the GPU; it is in no checkpoint; its running statistics start from 0 and 1 in each call, and
    `model.eval()` does not reach it, so evaluation normalises with batch statistics.

    The rule reads `forward` and the methods and functions of its file that it calls. It is silent for a
    norm that holds nothing (`affine=False`, `elementwise_affine=False`), for one that is built once behind
    a guard such as `if self.norm is None`, and where the class cannot be resolved.

    ## Fix safety

    Advice only: the layer moves to `__init__`, where its width must be known.

    ## References

    - [PyTorch: nn.Module](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html)
    """

    code = "BN211"
    name = "norm-built-in-forward"
    severity = Severity.ERROR
    needs = ("modules",)

    valid = (
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x)


model = Net()
""",
            inputs=((8,),),
        ),
        Valid(
            """\
class Net(nn.Module):
    def forward(self, x):
        x = nn.LayerNorm(x.shape[-1], elementwise_affine=False)(x)
        return nn.InstanceNorm1d(1)(x.unsqueeze(1)).squeeze(1)


model = Net()
""",
            inputs=((8,),),
            note="a norm without parameters and statistics holds nothing that could be lost",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = None

    def forward(self, x):
        if self.norm is None:
            self.norm = nn.BatchNorm1d(x.shape[1])
        return self.norm(x)


model = Net()
""",
            inputs=((8,),),
            note="built once, at the first call",
        ),
        Valid(
            """\
class Net(nn.Module):
    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:])

    def make_head(self):
        return nn.LayerNorm(8)


model = Net()
""",
            inputs=((8,),),
            note="a method that forward does not call may build layers",
        ),
        Valid(
            "model = torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)))",
            inputs=((4,),),
            note="the forward of a GraphModule is generated code that belongs to no module and no file",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        return nn.BatchNorm1d(8)(self.linear(x))


model = Net()
""",
            inputs=((4,),),
            modules=("",),
            message="BatchNorm1d is constructed in Net.forward",
        ),
        Invalid(
            """\
class Pool(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def apply_norm(self, x):
        norm = nn.BatchNorm1d(x.shape[1])
        return norm(x)

    def forward(self, x):
        return self.apply_norm(self.linear(x))


model = nn.Sequential(Pool(), Pool())
""",
            inputs=((6, 4),),
            modules=("0",),
            message="Pool.apply_norm",
            note="in a method that forward calls; one finding for the line",
        ),
        Invalid(
            """\
from torch.nn import LayerNorm as Norm


class Net(nn.Module):
    def forward(self, x):
        self.norm = Norm(x.shape[-1])
        return self.norm(x)


model = Net()
""",
            inputs=((8,),),
            modules=("",),
            note="an attribute that is assigned anew in each call",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        first_path = {type(module): path for path, module in reversed(context.modules.items())}
        seen: set[FunctionType] = set()
        for owner, path in sorted(first_path.items(), key=lambda item: item[1]):
            if not any(_names_norm(function) for function in _reachable(owner, _named)):
                continue  # told from the byte code alone, so that big libraries need not be parsed
            for function in _reachable(owner, lambda function, owner: _called(function, owner, context)):
                if function in seen:
                    continue
                seen.add(function)
                for name, span in _constructed(function, context):
                    yield self.diagnostic(
                        span,
                        f"{name} is constructed in {function.__qualname__}: in every call a new layer, whose "
                        f"parameters are never trained, moved or saved",
                        module=path,
                        fix=Fix("Construct it in __init__ and call it in forward"),
                    )


def _reachable(owner: type, following: Callable[[FunctionType, type], Iterable[Any]]) -> Iterator[FunctionType]:
    """The forward of a module class and the functions of the same file that `following` leads to."""
    pending: list[Any] = [getattr(owner, "forward", None)]
    found: set[FunctionType] = set()
    while pending:
        function = pending.pop()
        function = inspect.unwrap(function) if callable(function) else None
        if not isinstance(function, FunctionType) or function in found:
            continue
        if (function.__module__ or "").startswith("torch."):  # code that torch.fx has generated has no module
            continue
        found.add(function)
        yield function
        file = function.__code__.co_filename
        pending.extend(
            item
            for item in following(function, owner)
            if getattr(item, "__globals__", None) is function.__globals__ and item.__code__.co_filename == file
        )


def _named(function: FunctionType, owner: type) -> Iterator[Any]:
    """Everything that a function may call, told from the names in its byte code."""
    for name in function.__code__.co_names:
        yield function.__globals__.get(name)
        yield getattr(owner, name, None)


def _names_norm(function: FunctionType) -> bool:
    """Whether a function mentions a norm class, as a global or as an attribute such as `nn.BatchNorm2d`."""
    from torch import nn

    return any(
        _is_norm(function.__globals__.get(name)) or _is_norm(getattr(nn, name, None))
        for name in function.__code__.co_names
    )


def _is_norm(value: Any) -> bool:
    from torch import nn

    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return isinstance(value, type) and issubclass(value, norms)


def _called(function: FunctionType, owner: type, context: Context) -> Iterator[Any]:
    for call in _calls(function, context):
        yield _resolve(call.func, function, owner)


def _calls(function: FunctionType, context: Context) -> Iterator[ast.Call]:
    """The calls in a function's body, without those behind a guard such as `if self.norm is None`."""
    source = context.read_source(function.__code__.co_filename)
    definition = None if source is None else _definition(source.tree, function)
    pending: list[ast.AST] = [] if definition is None else [*reversed(definition.body)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and _is_guard(node.test):
            continue
        if isinstance(node, ast.Call):
            yield node
        pending.extend(reversed([*ast.iter_child_nodes(node)]))


def _definition(tree: ast.AST, function: FunctionType) -> Definition | None:
    line = function.__code__.co_firstlineno  # the line of the first decorator, where there is one
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.stmt):
            continue
        decorators = getattr(node, "decorator_list", [])
        if min(node.lineno, *(item.lineno for item in decorators), node.lineno) > line:
            continue
        if isinstance(node, Definition) and node.name == function.__name__ and (node.end_lineno or 0) >= line:
            return node
        if (node.end_lineno or 0) >= line:
            return _definition(node, function)
    return None


def _is_guard(test: ast.expr) -> bool:
    """Whether a condition asks what the module has already: hasattr, `is None`, `in`, `not self.norm`."""
    nodes = [*ast.walk(test)]
    if not any(isinstance(node, ast.Name) and node.id == "self" for node in nodes):
        return False
    return any(
        (isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("hasattr", "getattr"))
        or (isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.Is, ast.IsNot, ast.In, ast.NotIn)))
        or (isinstance(node, ast.UnaryOp) and getattr(node.operand, "attr", "training") != "training")
        for node in nodes
    )


def _resolve(expression: ast.expr, function: FunctionType, owner: type) -> Any:
    """What a dotted name means inside a function: a global, or an attribute of the class for `self.name`."""
    if isinstance(expression, ast.Name):
        return function.__globals__.get(expression.id)
    if not isinstance(expression, ast.Attribute):
        return None
    if isinstance(expression.value, ast.Name) and expression.value.id == "self":
        return getattr(owner, expression.attr, None)
    return getattr(_resolve(expression.value, function, owner), expression.attr, None)


def _constructed(function: FunctionType, context: Context) -> Iterator[tuple[str, Span]]:
    """The norm layers with parameters or statistics that a function constructs: class name and span."""
    source = context.read_source(function.__code__.co_filename)
    for call in _calls(function, context):
        built = _resolve(call.func, function, object)
        if source is not None and _is_norm(built) and _holds_state(built, call):
            yield built.__name__, source.span_of(call)


def _holds_state(built: type, call: ast.Call) -> bool:
    """Whether the arguments certainly ask for parameters or running statistics."""
    signature = inspect.signature(built)
    try:
        given = signature.bind(*call.args, **{str(item.arg): item.value for item in call.keywords}).arguments
    except TypeError:  # *args, **kwargs, or a call that would raise
        return False
    for name in STATE_ARGUMENTS:
        parameter = signature.parameters.get(name)
        if parameter is not None and getattr(given.get(name), "value", parameter.default) is True:
            return True
    return False
