"""BN701: a bias that the batch norm behind it subtracts again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from bnlint.api import Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Span, Valid

_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
# The rank of the batched output: with any other the bias does not lie along the batch norm's channel axis.
_FUNCTIONS: Mapping[Any, int] = {
    F.linear: 2,
    F.conv1d: 3,
    F.conv2d: 4,
    F.conv3d: 5,
    F.conv_transpose1d: 3,
    F.conv_transpose2d: 4,
    F.conv_transpose3d: 5,
}


class BiasBeforeBatchNorm(Rule):
    """Batch norm subtracts the batch mean, so a bias added just before it never reaches the output.

    ## Why it matters

    A convolution or linear layer that only feeds a batch norm moves every value of a channel by the same
    amount, and the batch norm takes that amount away again: its gradient is zero up to rounding. The bias
    costs memory and optimiser state, weight decay pulls it about, and the batch norm has a bias of its own
    anyway. About half of public models have such a bias. It does no harm to the result, hence the level:
    information.

    The rule goes by the edges of the graph, not by neighbours in a `Sequential`: a convolution whose output
    is also used elsewhere needs its bias. So does one in front of a frozen batch norm (the running mean is a
    constant), and a linear layer whose output (batch, length, channels) meets a batch norm over the length.

    ## Fix safety

    Unsafe: checkpoints lose the entry `bias`, and the layers that are initialised later draw other random
    numbers. It is advice where the line also builds a layer whose bias is needed, or may do so in another model
    because a condition or another function decides on the batch norm, and where weights are loaded or published.

    ## References

    - Ioffe and Szegedy, "Batch Normalization", 2015, section 3.2: the bias can be ignored
    - PyTorch performance tuning guide, "Disable bias for convolutions directly followed by a batch norm"
    """

    code = "BN701"
    name = "bias-before-batch-norm"
    severity = Severity.INFO
    needs = ("graph",)
    fixable = True

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            note="the activation sits between: the bias decides what it cuts off",
        ),
        Valid(
            """\
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = self.conv(x)
        return x + self.norm(x)


model = Residual()
""",
            inputs=((3, 8, 8),),
            note="the batch norm is not the only consumer",
        ),
        Valid(
            """\
class Frozen(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


model = Frozen(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
""",
            inputs=((3, 8, 8),),
            note="a frozen batch norm subtracts a constant, not the batch mean",
        ),
        Valid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(6))",
            inputs=((6, 4),),
            note="the norm goes over the axis of length 6, the bias lies along another",
        ),
        Valid(
            """\
class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.norm(self.conv(x)) + self.conv(x.flip(-1))


model = Shared()
""",
            inputs=((3, 8, 8),),
            note="one of the convolution's two calls does not feed a batch norm",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))",
            inputs=((3, 8, 8),),
            note="group norm subtracts a mean over several channels: differences between their biases stay",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.narrow = nn.Linear(4, 8)
        self.wide = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        try:
            return self.norm(self.narrow(x)) + self.narrow(x)
        except RuntimeError:
            return self.wide(x)


model = Net()
""",
            inputs=((3,),),
            note="a call that raises, which the model catches, has no output",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8))",
            modules=("0",),
            message="the batch norm 1",
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8, bias=True), nn.BatchNorm1d(8), nn.ReLU())",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())",
            modules=("0",),
        ),
        Invalid(
            "model = nn.Sequential(nn.ConvTranspose1d(4, 8, 2), nn.BatchNorm1d(8))",
            inputs=((4, 5),),
            modules=("0",),
        ),
        Invalid(
            """\
def conv(width):
    return nn.Conv2d(width, width, 3)


model = nn.Sequential(conv(8), nn.BatchNorm2d(8), nn.ReLU(), conv(8))
""",
            inputs=((8, 8, 8),),
            modules=("0",),
            note="the same line builds a convolution that needs its bias: no edit",
        ),
        Invalid(
            """\
def features(widths, batch_norm):
    layers, inputs = [], 3
    for width in widths:
        conv = nn.Conv2d(inputs, width, 3)
        if batch_norm:
            layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        else:
            layers += [conv, nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers)


model = features((8,), True)
""",
            inputs=((3, 8, 8),),
            modules=("0",),
            note="without batch norm the convolution of the line needs its bias: no edit",
        ),
        Invalid(
            """\
def block(inputs, width, norm=nn.BatchNorm2d):
    return nn.Sequential(nn.Conv2d(inputs, width, 3), norm(width))


model = block(3, 8)
""",
            inputs=((3, 8, 8),),
            modules=("0",),
            note="another caller may pass another norm: no edit",
        ),
        Invalid(
            """\
class PaddedConv(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 0, 1, 0)), self.weight, self.bias)


model = nn.Sequential(PaddedConv(3, 8, 2), nn.BatchNorm2d(8))
""",
            inputs=((3, 8, 8),),
            modules=("0",),
            note="a subclass that calls the function itself",
        ),
        Invalid(
            """\
class TwoDomains(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.day = nn.BatchNorm2d(8)
        self.night = nn.BatchNorm2d(8)

    def forward(self, day, night):
        return self.day(self.conv(day)), self.night(self.conv(night))


model = TwoDomains()
""",
            inputs=((3, 8, 8), (3, 8, 8)),
            modules=("conv",),
            note="called twice, and each call feeds a batch norm",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        graph = context.graph()
        if graph.error is not None:
            yield self.not_checked("the forward pass was recorded in part: other consumers may follow")
            return
        cancels = {call.node: call for call in graph.calls("batch") if call.uses_batch_statistics}
        calls: dict[str, list[fx.Node]] = defaultdict(list)
        for node in graph.fx.nodes:
            owner = _biased_layer(node)
            if owner is not None:
                calls[owner].append(node)
        cancelled = {path: nodes for path, nodes in calls.items() if _is_cancelled(nodes, cancels)}
        # the lines that build a layer which needs its bias as well
        needed = {context.span_of(name) for name, item in context.modules.items() if _may_need(name, item, cancelled)}
        needed.discard(None)
        for path, nodes in cancelled.items():
            consumers = dict.fromkeys(cancels[user].path for node in nodes for user in node.users)
            features = nodes[0].meta["shape"][1]
            names = " and ".join(name or "of the model itself" for name in consumers)
            layer = type(context.modules[path]).__name__
            yield self.diagnostic(
                context.span_of(path),
                f"the bias ({features} values) is cancelled: only the batch norm {names} uses the output of "
                f"this {layer}, and it subtracts the mean of each channel",
                module=path,
                data={"bias_elements": features, "consumers": list(consumers)},
                fix=_fix(context, path, consumers, needed),
            )


def _is_cancelled(nodes: list[fx.Node], cancels: Container[fx.Node]) -> bool:
    """Whether batch norms alone use what the calls of a layer return, and subtract its bias."""
    return all(
        _bias_on_channel_axis(node)
        and node.users
        and all(_feeds(node, user) and user in cancels for user in node.users)
        for node in nodes
    )


def _fix(context: Context, path: str, consumers: Iterable[str], needed: Container[Span | None]) -> Fix:
    """The layer without its bias; advice where a layer of the same line may need its own, or weights are loaded."""
    title, span = "Construct it with bias=False", context.span_of(path)
    if not all(context.is_built_with(consumer, path) for consumer in consumers):
        return Fix(title)  # the line may serve models without the norm
    if context.has_weights(path) or span in needed:
        return Fix(title)
    return context.replace_module_argument(path, "bias", "False", title=title)


def _may_need(path: str, module: nn.Module, cancelled: Container[str]) -> bool:
    return path not in cancelled and getattr(module, "bias", None) is not None


def _biased_layer(node: fx.Node) -> str | None:
    """The path of the layer whose bias this node adds; None without a bias or a registered layer."""
    if node.op == "call_module":
        leaf = node.meta["leaf"]
        biased = isinstance(leaf, _MODULES) and leaf.bias is not None and node.meta["registered"]
        return str(node.target) if biased else None
    if node.op == "call_function" and node.target in _FUNCTIONS:
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        if isinstance(bias, fx.Node) and bias.op == "get_attr" and str(bias.target) == f"{node.meta['module']}.bias":
            return str(node.meta["module"])
    return None


def _bias_on_channel_axis(node: fx.Node) -> bool:
    shape = node.meta["shape"]
    if shape is None:  # the call raises, which the model catches
        return False
    if node.op == "call_function":
        return len(shape) == _FUNCTIONS[node.target]
    leaf = node.meta["leaf"]
    return len(shape) == (2 if isinstance(leaf, nn.Linear) else 2 + len(leaf.kernel_size))


def _feeds(node: fx.Node, user: fx.Node) -> bool:
    """Whether `node` is what `user` normalises, not its weight or bias."""
    return node is (user.args[0] if user.args else user.kwargs.get("input"))
