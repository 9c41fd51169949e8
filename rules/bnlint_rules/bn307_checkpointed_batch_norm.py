"""BN307: a batch norm whose forward runs twice in every step."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    Layer,
    NormCall,
    NotChecked,
    Rule,
    Severity,
    Valid,
    is_installed,
    listed,
)


class CheckpointedBatchNorm(Rule):
    """Inside an activation checkpoint the forward runs twice, so each step updates the running statistics twice.

    The second forward, in the backward pass, meets the same batch: a momentum m acts as 1-(1-m)^2. On torch 2.13 the
    running mean of a checkpointed BatchNorm1d held this share of the batch mean after one step:

    | momentum | without checkpoint | `use_reentrant=True` | `use_reentrant=False` |
    |---|---|---|---|
    | 0.1 | 0.1 | 0.19 | 0.19 |
    | 0.01 | 0.01 | 0.0199 | 0.0199 |
    | 1-sqrt(0.9) = 0.0513 | 0.0513 | 0.1 | 0.1 |
    | None (cumulative) | 1 | 1 | 1 |

    ## Why it matters

    Loss and gradients are those of the model without checkpointing, so nothing in training tells. The running
    statistics, which evaluation uses, remember half as many batches: with small batches they are noisier, and the
    checkpointed layers differ from those that are not.

    The rule goes by what really runs in training mode: `torch.utils.checkpoint.checkpoint` and
    `checkpoint_sequential`, and what is built on them, as timm's `checkpoint_seq` and torch's
    `checkpoint_wrapper`. A flag such as `use_checkpoint` counts as the model was built. Frozen affine parameters do
    not stop the updates, so such layers count.

    The rule is silent for layers in eval mode, for norms without running statistics, for a momentum of None, for a
    momentum that was chosen for two updates, for subclasses that ask `torch.is_grad_enabled()`, and for a re-entrant
    checkpoint whose inputs need no gradient: it has no backward pass (nor have its layers any gradient). A
    `context_fn` may keep the results of the first forward and is said under not checked. fairscale's
    `checkpoint_wrapper` updates the statistics once.

    ## Fix safety

    Advice only: which part of the model needs the memory is not in its source.

    ## References

    - [PyTorch: torch.utils.checkpoint](https://docs.pytorch.org/docs/stable/checkpoint.html)
    - https://github.com/gpleiss/efficient_densenet_pytorch/issues/73
    - https://github.com/pfnet/pytorch-pfn-extras/pull/117 (a momentum for two updates)
    """

    code = "BN307"
    name = "checkpointed-batch-norm"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = checkpoint(self.body, self.stem(x), use_reentrant=False)
        return self.norm(x)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="the batch norm stands outside the checkpointed region",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.ReLU())
        self.head = nn.LayerNorm(8)

    def forward(self, x):
        x = checkpoint(self.body, self.stem(x), use_reentrant=False)
        return checkpoint(self.head, x.mean((2, 3)), use_reentrant=False)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="group and layer norm keep no statistics: running them twice changes nothing",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self, use_checkpoint=False):
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x):
        x = self.stem(x)
        if self.use_checkpoint and self.training:
            return checkpoint(self.body, x, use_reentrant=False)
        return self.body(x)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="checkpointing is an option that this model leaves off",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, momentum=1 - 0.9**0.5))

    def forward(self, x):
        return checkpoint(self.body, self.stem(x), use_reentrant=False)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="a momentum of 0.0513 acts as 0.1 when it is used twice",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))

    def train(self, mode=True):
        super().train(mode)
        self.body[1].eval()
        return self

    def forward(self, x):
        return checkpoint(self.body, self.stem(x), use_reentrant=False)


model = Backbone()
""",
            inputs=((3, 4, 4),),
            note="in eval mode the running statistics are not updated at all",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=True))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="a re-entrant checkpoint of an input that needs no gradient has no backward, and no second forward",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.first = nn.BatchNorm2d(8, track_running_stats=False)
        self.second = nn.BatchNorm2d(8, momentum=None)

    def forward(self, x):
        return checkpoint(self.second, checkpoint(self.first, self.stem(x), use_reentrant=False), use_reentrant=False)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="no running statistics, and a cumulative average, which counts every batch twice alike",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).requires_grad_(False)
        self.head = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="nothing in the region trains, so no backward pass comes through it",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint


class BatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        momentum = self.momentum if torch.is_grad_enabled() else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, momentum, self.eps)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.norm = BatchNorm(8)

    def forward(self, x):
        return checkpoint(self.norm, self.stem(x), use_reentrant=True)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="it tells the first forward of a re-entrant checkpoint from the second",
        ),
        Valid(
            """\
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts


def keep(context, operation, *args, **kwargs):
    return torch.utils.checkpoint.CheckpointPolicy.MUST_SAVE


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        contexts = lambda: create_selective_checkpoint_contexts(keep)
        return checkpoint(self.norm, self.stem(x), use_reentrant=False, context_fn=contexts)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="not checked: a context_fn may keep the result of the batch norm",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        x = checkpoint(self.body, self.stem(x), use_reentrant=False)
        return self.norm(x)


model = Net()
""",
            inputs=((3, 4, 4),),
            modules=("body.1",),
            message="momentum 0.1 acts as 0.19",
        ),
        Invalid(
            """\
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 8, bias=False)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        def normalised(y):
            return functional.batch_norm(y, self.mean, self.var, training=self.training)

        return checkpoint(normalised, self.stem(x), use_reentrant=False)


model = Net()
""",
            inputs=((3,),),
            modules=("",),
            message="momentum 0.1 acts as 0.19",
            note="a functional norm, whose statistics are buffers of the model",
        ),
        Invalid(
            """\
from torch.utils.checkpoint import checkpoint_sequential


def block():
    return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.01), nn.ReLU())


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.Sequential(block(), block(), block())

    def forward(self, x):
        return checkpoint_sequential(self.blocks, 3, self.stem(x), use_reentrant=True)


model = Net()
""",
            inputs=((3, 4, 4),),
            modules=("blocks.0.1",),
            message="momentum 0.01 acts as 0.0199",
            note="the last of three segments is not checkpointed",
        ),
        Invalid(
            """\
from torch.utils.checkpoint import checkpoint


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def bottleneck(self, *features):
        return self.conv(self.norm(torch.cat(features, 1)))

    def forward(self, x):
        if any(item.requires_grad for item in (x,)):
            return checkpoint(self.bottleneck, x, use_reentrant=False)
        return self.bottleneck(x)


model = nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (8, 1, 1)), nn.Upsample(scale_factor=4), Dense())
""",
            inputs=((4,),),
            modules=("3.norm",),
            note="checkpointed where the input needs a gradient, as a memory-efficient DenseNet does",
        ),
        Invalid(
            """\
from torch.utils.checkpoint import checkpoint


class Stage(nn.Module):
    def __init__(self, grad_checkpointing=False):
        super().__init__()
        self.grad_checkpointing = grad_checkpointing
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = nn.SyncBatchNorm(8)

    def inner(self, x):
        return F.relu(self.norm(self.conv(x)))

    def forward(self, x):
        if self.training and self.grad_checkpointing:
            return checkpoint(self.inner, x, use_reentrant=False)
        return self.inner(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.stages = nn.ModuleList([Stage(), Stage()])

    def set_grad_checkpointing(self, enable=True):
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x


def build():
    net = Net()
    net.set_grad_checkpointing()
    return net


model = build()
""",
            inputs=((3, 4, 4),),
            modules=("stages.0.norm",),
            message="2 batch norms (stages.0.norm, stages.1.norm)",
            note="one finding for the model; a synchronised batch norm is updated twice as well",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        unknown: set[str] = set()
        calls: dict[str, NormCall] = {}
        for call in context.graph().norm_calls:
            if call.checkpoint is None or not _is_updated_alike(call) or not _needs_gradient(call, context):
                continue
            if call.checkpoint.recomputes is None:
                unknown.add(call.path)
            elif call.checkpoint.recomputes:
                calls.setdefault(call.path, call)
        if unknown - calls.keys():
            yield self.not_checked(
                f"whether the checkpoint around {sorted(unknown)[0] or 'the model'} runs its batch norms a second time "
                f"is not known"
            )
        if not calls:
            return
        layers = [call.layer for call in calls.values()]
        first, momentum = next(iter(calls.values())), layers[0].momentum or 0.0
        spans = [call.checkpoint.span for call in calls.values() if call.checkpoint and call.checkpoint.span]
        own = [span for span in dict.fromkeys(spans) if not is_installed(span.path)]
        place = own[0] if own else first.span
        many = len(layers) > 1
        yield self.diagnostic(
            place,
            f"{len(layers)} batch norm{'s' * many} ({listed(layers)}) run{'s' * (not many)} inside an activation "
            f"checkpoint, whose forward the backward pass runs again: momentum {momentum:g} acts as "
            f"{_doubled(momentum):.3g}",
            module=first.path,
            related=tuple((span, "checkpointed here") for span in dict.fromkeys(spans) if span != place)[:4],
            data={
                "layers": [layer.path for layer in layers],
                "momentum": momentum,
                "effective_momentum": round(_doubled(momentum), 6),
            },
            fix=Fix(
                f"Leave the batch norms out of the checkpointed function, or set their momentum to "
                f"1-sqrt(1-{momentum:g}) = {1 - (1 - momentum) ** 0.5:.3g}"
            ),
        )


def _is_updated_alike(call: NormCall) -> bool:
    """Whether a second run of the call changes the running statistics again, and by a plain momentum."""
    layer = call.layer
    if call.kind not in ("batch", "instance") or not layer.tracking or not layer.training or layer.custom:
        return False
    if not call.uses_batch_statistics or not layer.momentum or _is_compensated(layer.momentum):
        return False
    return not _asks_for_grad(layer)


def _needs_gradient(call: NormCall, context: Context) -> bool:
    """Whether anything trains up to the call; where nothing does, a checkpoint has no backward pass."""
    if call.layer.trainable:
        return True
    seen, pending = set(), [call.node]
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        leaf = node.meta.get("leaf")
        used = [context.parameters.get(str(node.target))] if leaf is None else [*leaf.parameters()]
        if any(parameter is not None and parameter.requires_grad for parameter in used):
            return True
        pending.extend(node.all_input_nodes)
    return False


def _doubled(momentum: float) -> float:
    return 1 - (1 - momentum) ** 2


def _is_compensated(momentum: float) -> bool:
    """Whether a momentum that is no round number acts as one when it is used twice: 0.0513 acts as 0.1."""
    doubled = _doubled(momentum)
    intended = float(f"{doubled:.1g}")
    return abs(doubled - intended) <= 0.01 * intended and float(f"{momentum:.1g}") != momentum


def _asks_for_grad(layer: Layer) -> bool:
    """Whether the layer's class may tell the first forward of a re-entrant checkpoint, which has no grad mode."""
    forward = getattr(type(layer.module), "forward", None)  # a functional norm has no module
    code = getattr(forward, "__code__", None)
    return code is not None and "is_grad_enabled" in code.co_names
