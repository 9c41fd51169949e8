"""BN305: dropout and batch norm functions that stay in training mode."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bnlint.api import (
    Applicability,
    Context,
    Diagnostic,
    Edit,
    Fix,
    Invalid,
    ModelGraph,
    NotChecked,
    Rule,
    Severity,
    Span,
    Valid,
)

# What the function calls the flag, and the position at which it may be passed.
FLAGS = {
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), ("training", 2)),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout", "feature_dropout"), ("training", 2)),
    "batch_norm": ("training", 5),
    "multi_head_attention_forward": ("training", 13),
    "scaled_dot_product_attention": ("dropout_p", 4),
}
# Words by which authors say that randomness, or the batch's own statistics, belong to evaluation as well.
INTENT = re.compile(
    r"mc_?drop|monte.?carlo|bayes|always|epistemic|uncertain|variational|ensembl|on purpose|deliberate|intention"
    r"|(test|inference|prediction|evaluation|eval).?time|(during|at|in|for) (test|inference|evaluation|eval)\b"
    r"|denois|corrupt|augment|noise|noisy|perturb|pre.?net|generator|weight_?drop|maml|meta_?(bn|batch|learn|layer|net)"
    r"|few.?shot|transduct|adain|simcse",
    re.IGNORECASE,
)

# Words anywhere in a file by which a written `training=True` is on purpose.
BAYESIAN = re.compile(r"mc_?drop|monte.?carlo|bayes|epistemic|uncertain|active.?learning|\bbald\b", re.IGNORECASE)


@dataclass(frozen=True)
class _Stochastic:
    """A call that behaves as in training: `op` names it, `share` is what it drops (None: a batch norm)."""

    op: str
    span: Span
    module: str
    share: float | None = None
    registered: bool = True
    statistics: str = ""

    @property
    def shown(self) -> str:
        if self.share is None:
            return f"{self.op}()"
        return f"{self.op}({'dropout_p' if FLAGS.get(self.op, ('p', 0))[0] == 'dropout_p' else 'p'}={self.share:g})"


class HardCodedTrainingFlag(Rule):
    """`F.dropout(x)` drops in evaluation mode too: its `training` argument is True unless the call says otherwise.

    `model.eval()` sets `self.training`, which modules read and functions do not. The same holds for
    `F.dropout1d`, `F.dropout2d`, `F.dropout3d` and `F.multi_head_attention_forward`, for a written
    `training=True` (`F.batch_norm`, `F.alpha_dropout`), for `F.scaled_dot_product_attention(..., dropout_p=0.1)`,
    which has no such argument, and for an `nn.Dropout` that is constructed inside `forward` or kept in a plain list:
    `eval()` does not find it.

    ## Why it matters

    Predictions are random: two calls with the same input differ, and the accuracy that is measured is that of a model
    with a part of its activations set to zero. With `F.batch_norm(..., training=True)` a prediction depends on the
    other samples of its batch, and evaluation changes the running statistics, so that test data leaks into the model.

    The rule runs the model in evaluation mode and looks at the calls that are made there, so a branch
    `if self.training:` and a flag that turns out False are no findings. It is silent for p=0, for a batch norm whose
    running statistics are none of the model's buffers (an instance norm made by reshaping), and where the code says
    that it is on purpose: names or comments such as "MC dropout", "always on", "at test time", "Prenet" in the
    function, its class or file. A flag that is a variable is said under not checked.

    ## Fix safety

    The fix writes `training=self.training`, or `dropout_p=... if self.training else 0.0`. Training stays as it is, but
    evaluation changes, so it is unsafe. It is advice outside the methods of a module.

    ## References

    - [PyTorch: torch.nn.functional.dropout](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html)
    - [PyTorch: scaled_dot_product_attention](https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html),
      on `dropout_p`
    - https://github.com/huggingface/pytorch-image-models/pull/1978 and https://github.com/pytorch/pytorch/issues/124464
    - Gal and Ghahramani, "Dropout as a Bayesian Approximation", 2016, https://arxiv.org/abs/1506.02142 (on purpose)
    """

    code = "BN305"
    name = "hard-coded-training-flag"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.p = 0.5

    def forward(self, x):
        x = F.dropout(self.linear(x), self.p, self.training)
        return F.dropout(x, training=self.training)


model = Net()
""",
            inputs=((4,),),
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        if self.training:
            x = F.dropout(x, 0.1)
        return self.linear(x)


model = Net()
""",
            inputs=((4,),),
            note="the branch is not taken in evaluation",
        ),
        Valid(
            """\
class MCDropout(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.2, training=True)


model = nn.Sequential(nn.Linear(4, 8), MCDropout(), nn.Linear(8, 2))
""",
            inputs=((4,),),
            note="Monte Carlo dropout is on at prediction",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        return F.dropout(self.linear(x), 0.2, training=True)


def predictive_uncertainty(net, x, passes=20):
    return torch.stack([net(x) for _ in range(passes)]).std(0)


model = Net()
""",
            inputs=((4,),),
            note="a written True in a file about uncertainty",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        # stays on during inference: the spread over 20 passes is the confidence
        return F.dropout(self.linear(x), 0.2)


model = Net()
""",
            inputs=((4,),),
            note="a comment says that it is on purpose",
        ),
        Valid(
            """\
class Prenet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])

    def forward(self, x):
        for linear in self.layers:
            x = F.dropout(F.relu(linear(x)), p=0.5, training=True)
        return x


model = Prenet()
""",
            inputs=((4,),),
            note="the Tacotron 2 paper (arXiv 1712.05884, section 2.2) asks for it at inference",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.dropout = dropout

    def forward(self, x):
        return F.dropout(self.linear(x), self.dropout)


model = Net()
""",
            inputs=((4,),),
            note="p=0 drops nothing",
        ),
        Valid(
            """\
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = 0.1

    def forward(self, x):
        x = x.unsqueeze(1)
        return F.scaled_dot_product_attention(x, x, x, dropout_p=self.dropout if self.training else 0.0)


model = Attention()
""",
            inputs=((6, 8),),
        ),
        Valid(
            """\
class AdaptiveNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, x):
        batch, channels = x.shape[:2]
        merged = x.reshape(1, batch * channels, *x.shape[2:])
        mean, variance = self.mean.repeat(batch), self.variance.repeat(batch)
        out = F.batch_norm(merged, mean, variance, training=True)
        return F.batch_norm(out, None, None, training=True).view_as(x)


model = AdaptiveNorm()
""",
            inputs=((8, 4, 4),),
            note="an instance norm by way of batch norm updates copies, or nothing",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x, deterministic=False):
        return F.dropout(self.linear(x), 0.1, training=not deterministic)


model = Net()
""",
            inputs=((4,),),
            note="not checked: the caller decides",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        return self.linear(x)

    def sample(self, x):
        return F.dropout(self.forward(x))


model = Net()
""",
            inputs=((4,),),
            note="forward does not reach it",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)

    def forward(self, x):
        return nn.Dropout(0.5).train(self.training)(self.linear(x))


model = Net()
""",
            inputs=((4,),),
            note="built in forward, but given the mode",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.dropout(x)
        return self.second(x)


model = Net()
""",
            inputs=((4,),),
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 2)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.dropout(x, training=self.training)
        return self.second(x)


model = Net()
""",
            modules=("",),
            message="dropout(p=0.5) runs in evaluation mode",
        ),
        Invalid(
            """\
from torch.nn.functional import dropout2d as drop


class Block(nn.Module):
    def __init__(self, channels, rate):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rate = rate

    def regularise(module, x):
        return drop(x, module.rate, True)

    def forward(self, x):
        return x + self.regularise(self.conv(x))


model = nn.Sequential(Block(4, 0.1), Block(4, 0.2))
""",
            inputs=((4, 8, 8),),
            fixed="""\
from torch.nn.functional import dropout2d as drop


class Block(nn.Module):
    def __init__(self, channels, rate):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.rate = rate

    def regularise(module, x):
        return drop(x, module.rate, module.training)

    def forward(self, x):
        return x + self.regularise(self.conv(x))


model = nn.Sequential(Block(4, 0.1), Block(4, 0.2))
""",
            modules=("0",),
            message="is a constant",
            note="one finding for the line, in a method that forward calls",
        ),
        Invalid(
            """\
class FunctionalNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=True,
        )


model = nn.Sequential(nn.Linear(4, 8), FunctionalNorm(8))
""",
            inputs=((4,),),
            fixed="""\
class FunctionalNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training,
        )


model = nn.Sequential(nn.Linear(4, 8), FunctionalNorm(8))
""",
            modules=("1",),
            message="updates 1.running_mean",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self, p=0.3):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.p = p

    def forward(self, x):
        return nn.Dropout(p=self.p)(self.linear(x))


model = Net()
""",
            inputs=((4,),),
            modules=("",),
            message="Dropout(p=0.3) runs in evaluation mode too: it is no submodule",
        ),
        Invalid(
            """\
class Attention(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout)


model = Attention(8, 0.1)
""",
            inputs=((6, 8),),
            fixed="""\
class Attention(nn.Module):
    def __init__(self, width, dropout):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.dropout = dropout

    def forward(self, x):
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)


model = Attention(8, 0.1)
""",
            modules=("",),
            message="scaled_dot_product_attention(dropout_p=0.1)",
        ),
        Invalid(
            """\
def mlp(x, first, second):
    return second(F.dropout(F.gelu(first(x)), p=0.1))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.second = nn.Linear(8, 4)

    def forward(self, x):
        return mlp(x, self.first, self.second)


model = Net()
""",
            inputs=((4,),),
            modules=("",),
            note="in a function, which knows no mode: advice",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = {call.span: call for call in _stochastic(context.graph(), context)}
        if not training:
            return  # what is not even called in training needs no run in evaluation mode
        graph = context.evaluation_graph()
        calls = {call.span: call for call in reversed([*_stochastic(graph, context)])}
        for call in sorted(calls.values(), key=lambda item: item.span):
            yield from self._judged(call, context)
        if graph.error is not None and training.keys() - calls.keys():
            yield self.not_checked(f"the forward pass in evaluation mode raises {graph.error.type_name}")

    def _judged(self, call: _Stochastic, context: Context) -> Iterator[Diagnostic | NotChecked]:
        source = context.read_source(call.span.path)
        span = call.span
        node = None if source is None else source.call_at(span.line, span.column, span.end_line, span.end_column)
        if source is None or node is None:
            yield self.not_checked(f"the source of {call.shown} at {_place(call.span)} cannot be read")
            return
        scopes = _scopes(source.tree, node)
        if _is_intended(call, source.lines, scopes, context):
            return
        cause = _cause(call, node, source.tree, scopes)
        if cause is None:
            yield self.not_checked(
                f"{call.shown} at {_place(call.span)} runs as in training in evaluation mode too, by a value that is "
                f"set elsewhere"
            )
        elif cause and not (_is_written(call, node) and BAYESIAN.search(source.text)):
            yield self.diagnostic(
                call.span,
                f"{call.shown} runs in evaluation mode too: {cause}",
                module=call.module,
                data={"function": call.op, "p": call.share, "statistics": call.statistics or None},
                fix=_fix(call, node, source, scopes, context),
            )


# What runs ---------------------------------------------------------------------------------------------------


def _stochastic(graph: ModelGraph, context: Context) -> Iterator[_Stochastic]:
    """The calls of a recorded forward that drop activations or normalise by the batch, whatever module made them."""
    for node in graph.fx.nodes:
        op, span, module = node.meta.get("op", ""), node.meta.get("span"), node.meta.get("module", "")
        if span is None:
            continue
        if node.op == "call_module":
            leaf = node.meta["leaf"]
            if _is_dropout(leaf) and leaf.training and leaf.p > 0 and not node.meta["registered"]:
                yield _Stochastic(op, span, module, float(leaf.p), registered=False)
        elif op in FLAGS and node.op == "call_function":
            given = _arguments(node)
            statistics = given.get("running_mean")
            if op == "batch_norm":
                buffer = str(getattr(statistics, "target", "")) if getattr(statistics, "op", "") == "get_attr" else ""
                if given.get("training") and buffer and not buffer.startswith("_tensor_constant"):
                    yield _Stochastic(op, span, module, statistics=buffer)
                continue
            share = given.get("dropout_p", given.get("p"))
            if isinstance(share, (int, float)) and share > 0 and given.get("training", True):
                yield _Stochastic(op, span, module, float(share))


def _is_dropout(leaf: Any) -> bool:
    from torch import nn

    return isinstance(leaf, nn.modules.dropout._DropoutNd)


def _arguments(node: Any) -> dict[str, Any]:
    """The arguments of a recorded function call by name; those of torch's own functions know their places only."""
    names: tuple[str, ...] = ("input", "p", "training")
    if node.meta["op"] == "batch_norm":
        from torch.nn import functional

        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        if node.target is not functional.batch_norm:
            names = ("input", "weight", "bias", "running_mean", "running_var", "training")
    elif node.meta["op"] == "scaled_dot_product_attention":
        names = ("query", "key", "value", "attn_mask", "dropout_p")
    elif node.meta["op"] == "multi_head_attention_forward":
        names = ()  # recorded with all of its arguments by name
    given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    if "train" in given:  # torch.dropout(input, p, train)
        given["training"] = given["train"]
    return given


# What the source says ----------------------------------------------------------------------------------------

Scope = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _scopes(tree: ast.Module, call: ast.Call) -> list[Scope]:
    """The classes and functions around a call, from the outside in."""
    around = (node for node in ast.walk(tree) if isinstance(node, Scope))
    return sorted(
        (node for node in around if node.lineno <= call.lineno <= (node.end_lineno or 0)), key=lambda node: node.lineno
    )


def _is_intended(call: _Stochastic, lines: tuple[str, ...], scopes: list[Scope], context: Context) -> bool:
    """Whether the names, comments and docstrings around a call say that it is meant for evaluation as well."""
    parts = call.module.split(".") if call.module else []
    owners = (context.modules.get(".".join(parts[:depth])) for depth in range(len(parts) + 1))
    texts = [Path(call.span.path).stem, *(type(owner).__name__ for owner in owners if owner is not None)]
    for scope in scopes:
        texts += [scope.name, ast.get_docstring(scope) or ""]
    functions = [scope for scope in scopes if not isinstance(scope, ast.ClassDef)]
    if functions:
        texts += lines[max(functions[-1].lineno - 2, 0) : functions[-1].end_lineno]
    return any(INTENT.search(text) for text in texts)


def _cause(call: _Stochastic, node: ast.Call, tree: ast.Module, scopes: list[Scope]) -> str | None:
    """Why a call does not follow the mode; "" where its module keeps a mode of its own, None where that is unknown."""
    if not call.registered:
        return "it is no submodule of the model, so eval() does not reach it"
    if _name(node, tree) != call.op:
        return None
    name, position = FLAGS[call.op]
    flag = _passed(node, name, position)
    if call.op == "scaled_dot_product_attention":
        if flag is None or "training" in ast.unparse(flag):
            return None if flag is None else ""
        functions = [scope for scope in scopes if not isinstance(scope, ast.ClassDef)]
        parameters = {item.arg for function in functions for item in _parameters(function)}
        if isinstance(flag, ast.Name) and flag.id in parameters:
            return None
        return "the function knows no mode, and dropout_p does not depend on self.training"
    if flag is None:
        if any(isinstance(item, ast.Starred) for item in node.args) or any(item.arg is None for item in node.keywords):
            return None
        return f"without {name}=self.training its {name} is True"
    if isinstance(flag, ast.Constant):
        effect = f", and updates {call.statistics} there" if call.statistics else ""
        return f"its {name}={flag.value!r} is a constant that ignores self.training{effect}"
    return "" if "self.training" in ast.unparse(flag) else None


def _is_written(call: _Stochastic, node: ast.Call) -> bool:
    """Whether the call itself says training=True."""
    return call.registered and call.op in FLAGS and isinstance(_passed(node, *FLAGS[call.op]), ast.Constant)


def _name(node: ast.Call, tree: ast.Module) -> str:
    """The name of a called function where it is defined: an import may have given it another one."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    if not isinstance(node.func, ast.Name):
        return ""
    aliases = (alias for item in ast.walk(tree) if isinstance(item, ast.ImportFrom) for alias in item.names)
    return next((alias.name for alias in aliases if alias.asname == node.func.id), node.func.id)


def _passed(node: ast.Call, name: str, position: int) -> ast.expr | None:
    """The expression of an argument; None where it is left out."""
    names = (name, "train") if name == "training" else (name,)
    for keyword in node.keywords:
        if keyword.arg in names:
            return keyword.value
    if len(node.args) <= position or any(isinstance(item, ast.Starred) for item in node.args[: position + 1]):
        return None
    return node.args[position]


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def _fix(call: _Stochastic, node: ast.Call, source: Any, scopes: list[Scope], context: Context) -> Fix:
    if not call.registered:
        return Fix("Construct it in __init__ and call it in forward")
    own = _own_name(call, scopes, context)
    name, position = FLAGS[call.op]
    flag = _passed(node, name, position)
    if own is None:
        return Fix("Give the function the mode of its module, and let it decide by that")
    if call.op != "scaled_dot_product_attention" or flag is None:
        name = next((item.arg for item in node.keywords if item.arg in ("training", "train")), None) or name
        title = f"Pass {name}={own}.training"
        return context.replace_call_argument(call.span, name, f"{own}.training", title=title, position=position)
    condition = f" if {own}.training else 0.0"
    left, right = ("(", ")") if isinstance(flag, ast.IfExp | ast.Lambda | ast.NamedExpr) else ("", "")
    title = f"Pass {name}={left}{ast.unparse(flag)}{right}{condition}"
    path, start, end = call.span.path, source.start_of(flag), source.end_of(flag)
    edits = [Edit(path, end, end, f"{right}{condition}"), *([Edit(path, start, start, left)] if left else [])]
    return Fix(title, Applicability.UNSAFE, tuple(sorted(edits)))


def _own_name(call: _Stochastic, scopes: list[Scope], context: Context) -> str | None:
    """What the method around a call names its module; None outside the methods of a module."""
    owner = context.modules.get(call.module)
    classes = {cls.__name__ for cls in type(owner).__mro__}
    for outer, inner in pairwise(scopes):
        if not isinstance(outer, ast.ClassDef) or isinstance(inner, ast.ClassDef) or outer.name not in classes:
            continue
        parameters = _parameters(inner)
        deeper = [item for item in scopes[scopes.index(inner) + 1 :] if not isinstance(item, ast.ClassDef)]
        if parameters and not inner.decorator_list:
            name = parameters[0].arg
            return None if any(name == item.arg for scope in deeper for item in _parameters(scope)) else name
    return None


def _place(span: Span) -> str:
    return f"{Path(span.path).name}:{span.line}"
