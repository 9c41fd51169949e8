"""BN702: dropout in front of a batch norm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import fx, nn

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, Rule, Severity, Valid

# Alpha dropout is absent on purpose: it is made to keep the mean and the variance.
_DROPOUT_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_DROPOUT_FUNCTIONS = frozenset(
    {"dropout", "dropout_", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_dropout_"}
)
_ELEMENTWISE_MODULES = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity,
    nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Sigmoid, nn.SiLU,
    nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = frozenset(
    {
        "abs", "add", "celu", "clamp", "clone", "contiguous", "div", "elu", "exp", "gelu", "hardshrink",
        "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log1p", "logsigmoid", "mish", "mul", "neg",
        "pow", "prelu", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "softplus", "softsign", "sqrt",
        "square", "sub", "tanh", "tanhshrink", "threshold", "true_divide", "truediv",
    }
)  # fmt: skip


class DropoutBeforeBatchNorm(Rule):
    """Dropout raises the variance of its output in training only, and a batch norm behind it keeps that.

    ## Why it matters

    In training, dropout with probability p divides what it keeps by 1 - p: the mean stays, the mean square
    grows by 1 / (1 - p). The running variance of the batch norm is learnt from these values. In evaluation
    the dropout is off, the true variance is smaller, and every channel leaves the norm too small. Validation
    falls behind training for a reason that no regularisation can cure.

    Looked for along direct edges and element-wise operations (activations, sums, products). A convolution or
    a linear layer between the two averages over many inputs, which weakens the shift; the rule is silent
    there. It is silent as well for p = 0, alpha dropout, stochastic depth and batch norms without running
    statistics.

    ## Fix safety

    Moving the dropout behind the batch norm changes what is trained and the numbers in the names of checkpoints, so
    the fix is unsafe. It exchanges the two where they are neighbours in a literal `nn.Sequential(...)` that loads no
    weights; elsewhere it is advice.

    ## References

    - Li, Chen, Hu and Yang, "Understanding the Disharmony between Dropout and Batch Normalization by Variance
      Shift", 2019
    """

    code = "BN702"
    name = "dropout-before-batch-norm"
    severity = Severity.WARNING
    fixable = True
    needs = ("graph",)

    valid = (
        Valid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))",
            inputs=((4,),),
        ),
        Valid(
            "model = nn.Sequential(nn.Dropout(0.0), nn.BatchNorm1d(4))",
            inputs=((4,),),
            note="a dropout that is switched off by its probability",
        ),
        Valid(
            "model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 8), nn.BatchNorm1d(8))",
            inputs=((4,),),
            note="a linear layer between averages over many inputs",
        ),
        Valid(
            "model = nn.Sequential(nn.AlphaDropout(0.5), nn.BatchNorm1d(4))",
            inputs=((4,),),
            note="alpha dropout keeps mean and variance",
        ),
        Valid(
            "model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4, track_running_stats=False))",
            inputs=((4,),),
            note="no running variance: evaluation measures its own",
        ),
        Valid(
            "model = nn.Sequential(nn.Dropout(0.5), nn.LayerNorm(4))",
            inputs=((4,),),
            note="layer norm measures each sample anew",
        ),
        Valid(
            """\
class DropPath(nn.Module):
    def forward(self, x):
        keep = x.new_empty(x.shape[0], 1).bernoulli_(0.9) if self.training else 1
        return x * keep


model = nn.Sequential(DropPath(), nn.BatchNorm1d(4))
""",
            inputs=((4,),),
            note="stochastic depth drops a branch of a sample, it is no dropout of elements",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(F.dropout(x, 0.5, training=False))


model = Net()
""",
            inputs=((4,),),
            note="a dropout that never drops",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))",
            modules=("2",),
            message="p=0.5",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Dropout2d(0.2), nn.ReLU(), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            modules=("3",),
            message="through ReLU",
        ),
        Invalid(
            """\
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(x + 0.5 * F.dropout(self.linear(x), p=0.1, training=self.training))


model = Residual()
""",
            inputs=((4,),),
            modules=("norm",),
            message="p=0.1",
            note="function, scale and sum",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        seen = set()
        for call in context.graph().calls("batch"):
            if not call.uses_batch_statistics or not call.layer.tracking or (call.path, call.span) in seen:
                continue
            found = _dropout_behind(call.node)
            if found is None:
                continue
            seen.add((call.path, call.span))
            dropout, probability, between = found
            owner = dropout.meta["module"] or "the model"
            where = owner if dropout.op == "call_module" else f"in {owner}"
            through = f" through {', '.join(between)}" if between else ""
            span = dropout.meta["span"]
            yield self.diagnostic(
                call,
                f"dropout {where} (p={probability:g}) feeds this batch norm{through}: {_growth(probability)} "
                f"in training only, and the running variance that evaluation divides by is learnt there",
                related=() if span is None else ((span, "the dropout is called here"),),
                data={"dropout": where, "p": probability, "through": between},
                fix=_fix(context, call, dropout, between),
            )


def _fix(context: Context, call: NormCall, dropout: fx.Node, between: list[str]) -> Fix:
    """The two exchanged, where they are neighbours in a literal Sequential."""
    title = "Move the dropout behind the batch norm (and its activation)"
    if between or dropout.op != "call_module" or call.layer.functional:
        return Fix(title)
    return context.exchange_neighbours(str(dropout.target), call.path, title=title)


def _dropout_behind(norm: fx.Node) -> tuple[fx.Node, float, list[str]] | None:
    """The nearest active dropout before a norm, its probability and the operations between them."""
    first = norm.args[0] if norm.args else norm.kwargs.get("input")
    queue: list[tuple[Any, list[str]]] = [(first, [])]
    visited = set()
    for node, between in queue:  # the list grows while it is walked: breadth first
        if not isinstance(node, fx.Node) or node in visited:
            continue
        visited.add(node)
        probability = _drop_probability(node)
        if probability:
            return node, probability, between
        if _is_elementwise(node):
            step = [node.meta["op"].strip("_"), *between]
            queue.extend((source, step) for source in node.all_input_nodes)
    return None


def _growth(probability: float) -> str:
    if probability >= 1:
        return "it sets every value to zero"
    return f"it multiplies the mean square of what passes by {1 / (1 - probability):.3g}"


def _drop_probability(node: fx.Node) -> float:
    """With which probability a node drops elements in training; 0 for what is no dropout."""
    if node.op == "call_module":
        leaf = node.meta["leaf"]
        return float(leaf.p) if isinstance(leaf, _DROPOUT_MODULES) and leaf.training else 0.0
    if node.op not in ("call_function", "call_method") or node.meta["op"] not in _DROPOUT_FUNCTIONS:
        return 0.0
    names = ("input", "p", "train" if "train" in node.kwargs else "training")
    given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
    return float(given.get("p", 0.5)) if given.get(names[2], True) else 0.0


def _is_elementwise(node: fx.Node) -> bool:
    """Whether each element of the result comes from the same element of the inputs."""
    if node.op == "call_module":
        return isinstance(node.meta["leaf"], (*_ELEMENTWISE_MODULES, *_DROPOUT_MODULES))
    if node.op not in ("call_function", "call_method"):
        return False
    name = node.meta["op"].strip("_")
    for prefix in ("r", "i"):  # __radd__ and __iadd__ are add
        if name[1:] in ("add", "sub", "mul", "truediv", "pow") and name[0] == prefix:
            name = name[1:]
    return name in _ELEMENTWISE_FUNCTIONS or name in _DROPOUT_FUNCTIONS
