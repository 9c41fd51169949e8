"""BN704: a norm that no forward pass reaches."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, ModelGraph, NotChecked, Rule, Severity, Valid

_RANDOM = frozenset({"rand", "rand_like", "randint", "randn", "bernoulli", "bernoulli_", "uniform_"})


class UnusedNorm(Rule):
    """A norm that the forward never calls normalises nothing, and its parameters get no gradient.

    ## Why it matters

    Usually a line of the forward was lost: a block built `norm2` and calls `norm1` twice, or a shortcut's
    norm stayed behind when the shortcut was removed. The model trains, without the norm that its author
    believes in. Under DistributedDataParallel it does not even do that: without `find_unused_parameters=True`
    the second step raises, because the gradients of the first one never arrived. There the finding is an
    error.

    A norm counts as used when an operation reads its weights or statistics, whoever calls it. The rule is
    silent for frozen norms (an averaged copy of the model), for a norm behind an optional argument of the
    forward, for parts that another method of the model runs (not under DDP, which only covers the forward),
    for models whose training goes through `training_step`, and where only a part of the model was recorded.

    ## Fix safety

    Advice only: whether the layer or the call is missing is the author's decision.

    ## References

    - PyTorch documentation, `torch.nn.parallel.DistributedDataParallel`, argument `find_unused_parameters`
    """

    code = "BN704"
    name = "unused-norm"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid("model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))", inputs=((4,),)),
        Valid(
            """\
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return F.layer_norm(x, (4,), self.norm.weight, self.norm.bias)


model = Functional()
""",
            inputs=((4,),),
            note="the function is called with the layer's weights",
        ),
        Valid(
            """\
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm1d(4)
        self.second = self.first

    def forward(self, x):
        return self.second(x)


model = Tied()
""",
            inputs=((4,),),
            note="one layer under two names",
        ),
        Valid(
            """\
class Conditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.context_norm = nn.LayerNorm(4)

    def forward(self, x, context=None):
        x = self.norm(x)
        if context is not None:
            x = x + self.context_norm(context)
        return x


model = Conditioned()
""",
            inputs=((4,),),
            note="not checked: the argument that decides was not given",
        ),
        Valid(
            """\
class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.student = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.average = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).requires_grad_(False)

    def forward(self, x):
        return self.student(x)


model = Teacher()
""",
            inputs=((4,),),
            note="a frozen copy is kept out of the training forward on purpose",
        ),
        Valid(
            """\
class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
        self.decoder = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))

    def forward(self, x):
        return self.encoder(x)

    def decode(self, code):
        return self.decoder(code)


model = Autoencoder()
""",
            inputs=((4,),),
            note="not checked: another method of the model calls it",
        ),
        Valid(
            """\
class DomainNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(2)])
        self.domain = 0

    def forward(self, x):
        return self.norms[self.domain](x)


model = DomainNorm()
""",
            inputs=((4,),),
            note="not checked: the training loop sets the domain, so another norm runs in the next step",
        ),
        Valid(
            """\
import random


class StochasticDepth(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.BatchNorm1d(4) for _ in range(6)])

    def forward(self, x):
        for block in self.blocks:
            if self.training and random.random() < 0.5:
                continue
            x = block(x)
        return x


model = StochasticDepth()
""",
            inputs=((4,),),
            note="not checked: which blocks run is drawn anew in each step",
        ),
        Valid(
            """\
class AdversarialTwin(nn.Module):
    def __init__(self):
        super().__init__()
        self.mode = "clean"
        self.clean, self.adversarial = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.clean(x) if self.mode == "clean" else self.adversarial(x)


model = AdversarialTwin()
""",
            inputs=((4,),),
            note="not checked: the training loop sets the mode",
        ),
        Valid(
            """\
class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x) if len(x) > 1 else x


model = Guarded()
""",
            training={"batch_size": 1},
            inputs=((4,),),
            note="it runs at any larger batch size",
        ),
    )

    invalid = (
        Invalid(
            """\
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm1 = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.norm2 = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.second(F.relu(self.norm1(self.first(x))))


model = Block()
""",
            inputs=((4,),),
            modules=("norm2",),
            message="8 parameters",
        ),
        Invalid(
            """\
class Halting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norms = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])

    def train(self, mode=True):
        super().train(mode)
        self.norms.eval()
        return self

    def forward(self, x):
        return self.norms[0](self.linear(x))


model = Halting()
""",
            inputs=((4,),),
            modules=("norms.1",),
            note="another method names the layers without running them",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))

    def forward(self, x):
        return self.linear(x)


model = Net()
""",
            training={"strategy": "ddp", "world_size": 2, "find_unused_parameters": False},
            inputs=((4,),),
            modules=("head.1",),
            message="DistributedDataParallel raises",
            note="under DDP the second step raises",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        graph = context.graph()
        unused = list(context.layers)
        # other batch sizes take other ways, as `if len(x) > 1:`; they are only traced for a norm that did not run
        called = {graph.called_modules}
        for size in dict.fromkeys((context.batch_size, 1, 2)):
            traced = context.graph(size) if unused else graph
            if traced.error is None or traced is graph:
                called.add(traced.called_modules)
                touched = _touched(context, traced)
                unused = [layer for layer in unused if not touched(layer)]
        if unused and len(called) > 1:
            yield self.not_checked("which modules run changes from one forward to the next")
            return
        reason = _unknown_forward(context, graph) if unused else None
        if reason is not None:
            yield self.not_checked(reason)
            return
        training = context.training
        under_ddp = training.strategy == "ddp" and not training.find_unused_parameters
        uncertain: list[str] = []
        for layer in unused:
            raises = under_ddp and layer.trainable
            owner, attribute = _owner(layer.path, graph)
            module = context.modules[owner]
            if _optional(module, attribute):
                uncertain.append(f"whether {layer.path} runs depends on an argument of the forward")
                continue
            if _chosen_at_run_time(module, attribute):
                uncertain.append(f"which part of {_part_of(owner, attribute)} runs is chosen at run time")
                continue
            if not raises and _other_entry(module, attribute):
                uncertain.append(f"{layer.path} is run by another method than the forward")
                continue
            around = _part_of(owner, attribute)
            inside = f" (nor is {around} around it)" if around != layer.path else ""
            cost = f"its {layer.parameters} parameters get no gradient" if layer.trainable else "no effect"
            ddp = ", and DistributedDataParallel raises in the second step" if raises else ""
            yield self.diagnostic(
                layer,
                f"the norm is never called by the forward in training mode{inside}: {cost}{ddp}",
                severity=Severity.ERROR if raises else None,
                data={"parameters": layer.parameters, "outermost_unused": around},
                fix=Fix(
                    "Call the layer in the forward or remove it"
                    + (", or set find_unused_parameters=True" if raises else "")
                ),
            )
        if uncertain:
            more = f", and {len(uncertain) - 1} more such norms" if len(uncertain) > 1 else ""
            yield self.not_checked(uncertain[0] + more)


def _part_of(owner: str, attribute: str) -> str:
    """The path of a part of a module."""
    return f"{owner}.{attribute}" if owner else attribute


def _touched(context: Context, graph: ModelGraph) -> Callable[[Layer], bool]:
    """A test whether a layer ran, was read by an operation, is frozen or lies where recording cannot look."""
    named = context.parameters
    used = {id(named[name]) for name in graph.used_parameters if name in named}
    read = {str(node.target).rpartition(".")[0] for node in graph.fx.nodes if node.op == "get_attr"}
    opaque = frozenset(graph.opaque_modules)

    def touched(layer: Layer) -> bool:
        if layer.path in graph.called_modules or layer.path in read:
            return True
        if layer.parameters and not layer.trainable:
            return True
        if opaque and any(layer.path[:end] in opaque for end, sign in enumerate(layer.path) if sign == "."):
            return True
        return any(id(parameter) in used for parameter in layer.module.parameters())

    return touched


def _unknown_forward(context: Context, graph: ModelGraph) -> str | None:
    """Why the recorded forward does not say what training runs; None when it does."""
    if graph.error is not None or graph.step in ("partial", "modules"):
        return "the forward pass was not recorded to its end"
    if hasattr(context.model, "training_step"):
        return "training runs training_step, which may call other parts than the forward"
    if graph.drew_random or any(
        node.meta["op"] in _RANDOM and node.meta["shape"] in ((), (1,)) for node in graph.fx.nodes
    ):
        return "the forward draws a random number, which may choose the layers that run"
    return None


def _owner(path: str, graph: ModelGraph) -> tuple[str, str]:
    """The innermost module around a layer that ran, and the name of its part that leads to the layer."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = ".".join(parts[:end])
        if owner in graph.called_modules:
            return owner, parts[end]
    return "", parts[0]


def _parse(function: Any) -> ast.FunctionDef | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    return tree.body[0] if isinstance(tree.body[0], ast.FunctionDef) else None


def _mentions(tree: ast.AST, attribute: str) -> list[ast.Attribute]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr == attribute
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    ]


def _optional(module: nn.Module, attribute: str) -> bool:
    """Whether the forward reaches a part of the module only for some values of its arguments."""
    forward = _parse(type(module).forward)
    if forward is None:
        return False
    every = (*forward.args.posonlyargs, *forward.args.args, *forward.args.kwonlyargs)
    names = {argument.arg for argument in every} - {"self"}
    for branch in ast.walk(forward):
        if not isinstance(branch, (ast.If, ast.IfExp)):
            continue
        # `x.dim()` asks for a property that the recorded input has; the bare name is what callers choose.
        bases = {id(node.value) for node in ast.walk(branch.test) if isinstance(node, ast.Attribute)}
        asked = (node for node in ast.walk(branch.test) if isinstance(node, ast.Name) and id(node) not in bases)
        if not any(node.id in names for node in asked):
            continue
        if _mentions(branch, attribute):
            return True
        leaves = any(isinstance(node, ast.Return) for node in ast.walk(branch))
        if leaves and any(node.lineno > branch.lineno for node in _mentions(forward, attribute)):
            return True
    return False


def _chosen_at_run_time(module: nn.Module, attribute: str) -> bool:
    """Whether the forward picks a part by a value that others set, as `self.norms[self.domain]`."""
    forward = _parse(type(module).forward)
    if forward is None:
        return False
    counters = {
        name.id
        for loop in ast.walk(forward)
        if isinstance(loop, (ast.For, ast.comprehension))
        for name in ast.walk(loop.target)
        if isinstance(name, ast.Name)
    }
    for node in ast.walk(forward):
        if (
            isinstance(node, (ast.If, ast.IfExp))
            and _asks_for_a_choice(module, node.test)
            and _mentions(node, attribute)
        ):
            return True
        if not isinstance(node, ast.Subscript) or not _is_part(node, attribute):
            continue
        names = {name.id for name in ast.walk(node.slice) if isinstance(name, ast.Name)}
        if names - counters:
            return True
    return False


def _asks_for_a_choice(module: nn.Module, test: ast.expr) -> bool:
    """Whether a condition compares an attribute that names one of several ways, as `self.mode == "clean"`."""
    compared = (node for node in ast.walk(test) if isinstance(node, ast.Compare))
    names = (name.attr for node in compared for name in ast.walk(node.left) if isinstance(name, ast.Attribute))
    return any(type(vars(module).get(name)) in (str, int) for name in names)


def _other_entry(module: nn.Module, attribute: str) -> bool:
    """Whether a method other than the forward runs a part of the module or walks over it."""
    for name, function in inspect.getmembers(type(module), inspect.isfunction):
        if name in ("__init__", "forward") or (function.__module__ or "").startswith("torch.nn.modules"):
            continue
        tree = _parse(function)
        for node in () if tree is None else ast.walk(tree):
            if isinstance(node, ast.For) and _is_part(node.iter, attribute):
                return True
            if not isinstance(node, ast.Call) or not _is_part(node.func, attribute):
                continue
            # `self.norm.eval()` does not run it.
            if not (isinstance(node.func, ast.Attribute) and hasattr(nn.Module, node.func.attr)):
                return True
    return False


def _is_part(place: ast.expr, attribute: str) -> bool:
    """Whether an expression is `self.attribute`, an item of it, or an attribute below it."""
    while isinstance(place, (ast.Attribute, ast.Subscript)):
        inner = place.value
        if isinstance(place, ast.Attribute) and isinstance(inner, ast.Name) and inner.id == "self":
            return place.attr == attribute
        place = inner
    return False
