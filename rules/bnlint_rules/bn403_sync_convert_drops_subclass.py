"""BN403: a conversion to SyncBatchNorm that takes the activation with the batch norm."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Span, Valid, events, listed

TORCH, TIMM, UNKNOWN = "torch", "timm", "unknown"
# Frameworks that build the layers as SyncBatchNorm in the first place, and one that converts by a function of its own.
_CONSTRUCTING = ("detectron2", "mmdet2", "paddleocr", "paddledetection")
_OWN_CONVERSION = ("torchpack",)


@dataclass(frozen=True)
class _Lost:
    layer: Layer
    class_name: str
    operations: tuple[str, ...]


class SyncConvertDropsSubclass(Rule):
    """`convert_sync_batchnorm` replaces a subclass of batch norm by a plain SyncBatchNorm, without its forward.

    The conversion goes by `isinstance`. Parameters, statistics and child modules are carried over, the `forward` is
    not: an activation, a gate or a choice of domain in it is no longer run. The children stay in the module tree, so
    that `print(model)` still shows them.

    ## Why it matters

    Nothing raises. timm's efficientnet_b0 has 49 layers of `BatchNormAct2d`, which normalise and activate; after
    `nn.SyncBatchNorm.convert_sync_batchnorm` the 33 of them that have a SiLU have none, and the network is linear but
    for its squeeze-and-excitation gates. A checkpoint loads without complaint, since no parameter changes its name.

    What is lost is found by running the forward of each subclass alone. The rule is silent where it does nothing but
    normalise (a check of the input, a cast), and for timm's own `timm.layers.convert_sync_batchnorm`, which keeps the
    activations. It looks at conversions while the model is built, at those that a script makes under an
    option, and at a configuration that converts (`sync_batchnorm: true`, `--sync-bn`).

    ## Fix safety

    Advice only.

    ## References

    - [PyTorch: SyncBatchNorm.convert_sync_batchnorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    - https://github.com/huggingface/pytorch-image-models/issues/1254
    """

    code = "BN403"
    name = "sync-convert-drops-subclass"
    severity = Severity.ERROR
    needs = ()  # a script has the conversions, its models have the layers

    valid = (
        Valid(
            """\
class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())


model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
""",
            inputs=((3, 4, 4),),
            note="the activation is a module beside the batch norm",
        ),
        Valid(
            """\
class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


model = nn.Sequential(nn.Conv2d(3, 8, 1), NormAct(8))
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": False},
            inputs=((3, 4, 4),),
            note="nothing converts",
        ),
        Valid(
            """\
class BatchNorm(nn.BatchNorm2d):
    def _check_input_dim(self, x):
        if x.dim() != 4:
            raise ValueError("expected 4D input")


class Checked(nn.BatchNorm2d):
    def forward(self, x):
        if x.numel() == 0:
            return x
        return super().forward(x.float()).to(x.dtype)


model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 1), BatchNorm(8), Checked(8)))
""",
            inputs=((3, 4, 4),),
            note="subclasses that only normalise",
        ),
        Valid(
            """\
class NormAct(nn.BatchNorm2d):
    def __init__(self, channels, act):
        super().__init__(channels)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(super().forward(x))


model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 8, 1), NormAct(8, act=False)))
""",
            inputs=((3, 4, 4),),
            note="an identity is no loss",
        ),
        Valid(
            """\
class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class SyncNormAct(nn.SyncBatchNorm):
    def forward(self, x):
        return F.relu(super().forward(x))


def convert(module):
    if isinstance(module, NormAct):
        return SyncNormAct(module.num_features, module.eps, module.momentum)
    for name, child in module.named_children():
        module.add_module(name, convert(child))
    return module


model = convert(nn.Sequential(nn.Conv2d(3, 8, 1), NormAct(8)))
""",
            inputs=((3, 4, 4),),
            note="a conversion of its own, which knows the subclass",
        ),
        Valid(
            """\
class Affine(nn.BatchNorm2d):
    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, None, None, self.training, self.momentum, self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


model = nn.Sequential(nn.Conv2d(3, 8, 1), Affine(8))
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            note="its own weight and bias are carried over",
        ),
        Valid(
            """\
class DomainNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x):
        return F.relu(self.norms[0](x))


model = nn.Sequential(nn.Conv2d(3, 8, 1), DomainNorm(8))
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            note="a module that holds batch norms is no subclass: it keeps its forward",
        ),
        Valid(
            """\
class Renorm(nn.BatchNorm1d):
    def forward(self, x):
        mean, variance = x.mean(0), x.var(0, unbiased=False)
        return (x - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias


model = nn.Sequential(nn.Linear(4, 8), Renorm(8))
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": True},
            inputs=((4,),),
            note="not checked: its own arithmetic may be a plain batch norm",
        ),
    )
    invalid = (
        Invalid(
            """\
class NormAct(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = NormAct(8)

    def forward(self, x):
        return self.norm(self.conv(x))


model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
""",
            inputs=((3, 4, 4),),
            modules=("norm",),
            message="act (SiLU)",
        ),
        Invalid(
            """\
class NormRelu(nn.BatchNorm1d):
    def forward(self, x):
        return F.relu(super().forward(x), inplace=True)


def build():
    net = nn.Sequential(nn.Linear(4, 8), NormRelu(8), nn.Linear(8, 8), NormRelu(8))
    return torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)


model = build()
""",
            inputs=((4,),),
            modules=("1",),
            message="in 2 layers of NormRelu (1, 3): relu",
            note="a function leaves no child behind; one finding for the model",
        ),
        Invalid(
            """\
class GatedNorm(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return super().forward(x) * torch.sigmoid(self.gate)[:, None, None]


model = nn.Sequential(nn.Conv2d(3, 8, 1), GatedNorm(8), nn.ReLU())
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="--sync-bn drops",
            note="the configuration converts",
        ),
        Invalid(
            """\
class SequenceNorm(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(4, 8), SequenceNorm(8)))
""",
            inputs=((6, 4),),
            modules=("1",),
            message="transpose",
            note="a plain batch norm would take the wrong axis for the channels",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.program is not None:
            yield from self._in_script(context)
        if not context.has_model:
            return
        synchronised = [layer for layer in context.norms("batch") if layer.sync]
        yield from self._judged(synchronised, context, converted=True)
        if not context.training.sync_batchnorm:
            return
        layers = [layer for layer in context.norms("batch") if not layer.sync]
        by = _converter(context)
        if by == TIMM:
            layers = [layer for layer in layers if not _is_timm(layer)]
        yield from self._judged(layers, context, converted=False, known=by != UNKNOWN)

    def _in_script(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        """Conversions that a script makes under an option, so that its models were built without them."""
        assert context.program is not None
        seen: set[Span] = set()
        for event in context.program.of_kind(events.Converted):
            built = context.model_of(event.model.allocation)
            if built is None or not event.converter.endswith("SyncBatchNorm.convert_sync_batchnorm"):
                continue
            layers = tuple(built.norms("batch"))
            is_known = built.training.sync_batchnorm or any(layer.sync for layer in layers)
            if not is_known and event.where.span not in seen:
                seen.add(event.where.span)
                yield from self._judged(layers, built, converted=False, place=event.where.span)

    def _judged(
        self,
        layers: Iterable[Layer],
        context: Context,
        *,
        converted: bool,
        known: bool = True,
        place: Span | None = None,
    ) -> Iterator[Diagnostic | NotChecked]:
        lost: list[_Lost] = []
        for layer in layers:
            loss = context.lost_in_conversion(layer, converted=converted)
            if loss is None:
                continue
            if loss.operations is None:
                yield self.not_checked(f"what {loss.class_name}.forward does beside normalising is not known")
                continue
            lost.append(_Lost(layer, loss.class_name or "a subclass", loss.operations))
        if not lost:
            return
        if not known:
            yield self.not_checked(
                f"whether {context.training.key('sync_batchnorm')} keeps the forward of {lost[0].class_name} is not "
                f"known"
            )
            return
        layers = [item.layer for item in lost]
        operations = tuple(dict.fromkeys(name for item in lost for name in item.operations))
        classes = " and ".join(dict.fromkeys(item.class_name for item in lost))
        by = "SyncBatchNorm.convert_sync_batchnorm"
        key = by if place is not None else _flag(context.training.key("sync_batchnorm"))
        what = f"{by} dropped" if converted else f"{key} drops"
        yield self.diagnostic(
            place or (None if converted else context.training.span("sync_batchnorm")) or layers[0],
            f"{what} the forward in {len(layers)} layer{'s' * (len(layers) > 1)} of {classes} ({listed(layers)}): "
            f"{', '.join(operations)} {'is' if len(operations) == 1 else 'are'} no longer run",
            module=layers[0].path,
            related=() if converted else _classes(lost),
            data={
                "layers": [layer.path for layer in layers],
                "operations": list(operations),
                "classes": list(dict.fromkeys(item.class_name for item in lost)),
            },
            fix=Fix(
                "Convert with timm.layers.convert_sync_batchnorm, which keeps the activations"
                if all(item.class_name == "BatchNormAct2d" for item in lost)
                else "Move what it does beside normalising into a module of its own, or convert these layers to a "
                "SyncBatchNorm subclass with the same forward"
            ),
        )


def _flag(key: str) -> str:
    return "convert_sync_batchnorm" if key.endswith("convert_sync_batchnorm") else key


def _classes(lost: list[_Lost]) -> tuple[tuple[Span, str], ...]:
    """Where the first layer of each class was constructed."""
    first = {item.class_name: item.layer for item in reversed(lost)}
    return tuple((layer.span, f"a {name} of the model") for name, layer in first.items() if layer.span is not None)


def _is_timm(layer: Layer) -> bool:
    """Whether timm's own conversion knows the layer's class."""
    return any(
        cls.__name__ == "BatchNormAct2d" and cls.__module__.startswith("timm.") for cls in type(layer.module).__mro__
    )


def _converter(context: Context) -> str:
    """Whose conversion the configuration asks for; one that constructs its layers converts nothing."""
    span = context.training.span("sync_batchnorm")
    source = None if span is None else context.read_source(span.path)
    calls = [] if source is None else [node for node in ast.walk(source.tree) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        if span is None or call.lineno != span.line or not name.endswith("convert_sync_batchnorm"):
            continue
        if name.split(".")[-2:-1] == ["SyncBatchNorm"]:
            return TORCH
        text = " ".join(source.lines) if source is not None else ""
        return TIMM if "timm" in text and name.split(".")[-2:-1] in ([], ["layers"]) else UNKNOWN
    frameworks = context.frameworks
    if frameworks & {*_CONSTRUCTING, *_OWN_CONVERSION} or context.training.key("sync_batchnorm").endswith(".type"):
        return UNKNOWN
    return TIMM if "timm" in frameworks else TORCH
