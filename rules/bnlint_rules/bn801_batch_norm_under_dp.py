"""BN801: norms that make one sample's gradient depend on the others, under differential privacy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NormCall, NotChecked, Rule, Severity, Valid, listed


class BatchNormUnderDp(Rule):
    """DP-SGD bounds what one sample does to the gradient; batch norm lets each sample act on those of all others.

    ## Why it matters

    DP-SGD clips the gradient of each sample and adds noise in proportion to that bound. Under batch norm the
    output for one sample depends on its whole batch, so the gradient of a single sample does not exist and
    clipping bounds nothing: the stated epsilon does not hold. Running statistics, those of an InstanceNorm
    too, are means of the training data that are stored without noise. Opacus refuses both; it goes by the
    exact class, so a subclass of batch norm may pass it.

    Batch norm in eval mode is a fixed affine map and allowed. GroupNorm, LayerNorm and InstanceNorm without
    running statistics treat each sample alone.

    ## Fix safety

    Unsafe: GroupNorm is another norm, and checkpoints lose the running statistics. The groups are chosen so
    that each has more than one value at the traced input: the usual min(32, channels) gives groups of one
    value, and thereby a constant output, where the input has no spatial extent. An InstanceNorm loses its
    running statistics, which changes evaluation only.

    ## References

    - Abadi et al., "Deep Learning with Differential Privacy", 2016, https://arxiv.org/abs/1607.00133
    - [Opacus: ModuleValidator](https://opacus.ai/api/validator.html)
    """

    code = "BN801"
    name = "batch-norm-under-dp"
    severity = Severity.ERROR
    needs = ("modules", "training.privacy")
    fixable = True

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"privacy": "none"},
            inputs=((3, 4, 4),),
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8))",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            note="each sample is normalised alone",
        ),
        Valid(
            """\
class Pretrained(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


model = Pretrained(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
""",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            note="in eval mode it is a fixed affine map",
        ),
        Valid(
            """\
class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        rows = self.weight.flatten(1).unsqueeze(0)
        weight = F.batch_norm(rows, None, None, training=True).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


model = nn.Sequential(StandardisedConv(3, 8, 3), nn.GroupNorm(2, 8))
""",
            training={"privacy": "dp-sgd"},
            inputs=((3, 6, 6),),
            note="weight standardisation calls batch_norm on weights: no sample is involved",
        ),
        Valid(
            """\
class FrozenBatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = (self.running_var + self.eps).rsqrt()
        return (x - self.running_mean[:, None, None]) * scale[:, None, None]


model = nn.Sequential(nn.Conv2d(3, 8, 1), FrozenBatchNorm(8))
""",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            note="a fixed affine map that looks like a batch norm",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16))",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.GroupNorm(16, 16))",
            modules=("1",),
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32, eps=1e-3), nn.Linear(32, 2))",
            training={"privacy": "dp-sgd"},
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 32), nn.GroupNorm(4, 32, eps=1e-3), nn.Linear(32, 2))",
            modules=("1",),
            note="32 groups of 32 channels would hold one value each",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, track_running_stats=True))",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, track_running_stats=False))",
            modules=("1",),
            message="running statistics",
        ),
        Invalid(
            """\
def block(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


model = nn.Sequential(block(4), block(4))
""",
            training={"privacy": "dp-sgd"},
            inputs=((4, 4, 4),),
            fixed="""\
def block(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GroupNorm(4, channels))


model = nn.Sequential(block(4), block(4))
""",
            modules=("0.1",),
            message="2 layers",
            note="one line builds both layers: one finding",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False))",
            training={"privacy": "dp-sgd", "frozen": ["1"]},
            inputs=((3, 4, 4),),
            modules=("1",),
            note="without running statistics and without trained parameters it still mixes samples",
        ),
        Invalid(
            """\
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return F.batch_norm(self.conv(x), None, None, training=True)


model = Functional()
""",
            training={"privacy": "dp-sgd"},
            inputs=((3, 4, 4),),
            modules=("",),
            note="no layer that a validator of modules could see",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        if training.privacy != "dp-sgd":
            return
        calls = context.graph().norm_calls
        # What does not come from the input is a weight (weight standardisation), and no sample is in it.
        functional = {
            (call.path, call.span): call.layer
            for call in calls
            if call.layer.functional and call.node.meta["from_input"]
        }
        places: dict[object, list[Layer]] = defaultdict(list)
        for layer in (*context.norms("batch", "instance"), *functional.values()):
            if _mixes_samples(layer) or _stores_statistics(layer):
                places[layer.span or layer.path, layer.kind].append(layer)
        unseen = [layer for layer in context.norms("batch") if layer.custom and layer.trainable]
        if unseen:
            yield self.not_checked(f"how these classes normalise is unknown: {listed(unseen)}")
        for layers in places.values():
            first = layers[0]
            if first.kind == "batch":
                words = "each sample with the statistics of its batch: clipping does not bound what one sample does"
            else:
                words = "each sample alone, but its running statistics store means of the training data without noise"
            those = f"{first.class_name} normalises"
            if len(layers) > 1:
                those = f"the {len(layers)} layers {first.class_name} of this line ({listed(layers)}) normalise"
            yield self.diagnostic(
                first,
                f"{those} {words} ({training.key('privacy')} dp-sgd)",
                data={
                    "layers": [layer.path for layer in layers],
                    "key": training.key("privacy"),
                    "source": training.origin("privacy"),
                },
                fix=_fix(layers, calls),
            )


def _mixes_samples(layer: Layer) -> bool:
    """Whether a batch norm uses the statistics of the batch: without running ones it does so in eval mode too."""
    return layer.kind == "batch" and not layer.custom and (layer.training or not layer.tracking)


def _stores_statistics(layer: Layer) -> bool:
    return layer.kind == "instance" and layer.training and layer.tracking


def _fix(layers: list[Layer], calls: Iterable[NormCall]) -> Fix:
    if layers[0].kind == "instance":
        return layers[0].replace_argument("track_running_stats", "False", title="Keep no running statistics")
    places = {(layer.path, layer.span) for layer in layers}
    called = [call for call in calls if (call.path, call.span) in places]
    if not called:
        return Fix("Use GroupNorm with groups of more than one value, or LayerNorm")
    return min(called, key=lambda call: call.spatial * call.shape[1]).replace_with_group_norm()
