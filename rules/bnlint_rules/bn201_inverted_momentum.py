"""BN201: momentum in the convention of another framework."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NotChecked, Rule, Severity, Valid

LARGEST_USUAL_MOMENTUM = 0.5  # above it the newest batch outweighs everything seen before
TORCH_DEFAULT = 0.1


class InvertedMomentum(Rule):
    """BatchNorm's momentum is the weight of the new batch in PyTorch, and of the old average in Keras and
    Paddle.

    ## Why it matters

    PyTorch updates `running = (1 - momentum) * running + momentum * batch`. A value such as 0.9 or 0.99
    that was copied from Keras, TensorFlow or Paddle makes the running statistics almost those of the last
    batch. Training looks normal, because it does not use them; evaluation becomes noisy and depends on the
    last batch seen. torchvision shipped MaxViT with momentum 0.99 for this reason.

    The rule is silent for `momentum=None` (a cumulative average), without running statistics, for a layer
    that the model keeps in evaluation mode, and for a custom class whose convention is unknown.

    ## Fix safety

    Unsafe: the running statistics, and with them the evaluation results, change. The fix writes `1 -
    momentum`, or PyTorch's default 0.1 where that would be zero or less.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - [torchvision issue 8250: MaxViT's momentum](https://github.com/pytorch/vision/issues/8250)
    """

    code = "BN201"
    name = "inverted-momentum"
    severity = Severity.ERROR
    needs = ("modules",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8)"),
        Valid("model = nn.BatchNorm2d(8, momentum=None)", note="a cumulative average has no momentum"),
        Valid(
            "model = nn.BatchNorm2d(8, momentum=0.9, track_running_stats=False)",
            note="no running statistics: the momentum is never used",
        ),
        Valid("model = nn.InstanceNorm2d(8, momentum=0.9)", note="InstanceNorm keeps no statistics by default"),
        Valid("model = nn.BatchNorm2d(8, momentum=0.5)", note="half and half reads the same either way"),
        Valid(
            """\
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, momentum=0.9)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


model = Frozen()
""",
            inputs=((8, 4, 4),),
            note="a layer kept in evaluation mode never updates its statistics",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.BatchNorm2d(8, momentum=0.9)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.1)",
            modules=("",),
            message="momentum=0.9",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, 1e-3, 0.99))",
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, 1e-3, 0.01))",
            modules=("1",),
            note="momentum as the third positional argument",
        ),
        Invalid(
            """\
DECAY = 0.997


def block(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels, momentum=DECAY))


model = nn.Sequential(block(4), block(4))
""",
            inputs=((4, 8, 8),),
            modules=("0.1", "1.1"),
            note="a constant of the file, met by every layer that the helper builds",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, momentum=1.0)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.1)",
            note="1 - momentum would be zero, which freezes the statistics",
        ),
        Invalid(
            "model = nn.InstanceNorm2d(8, momentum=0.9, track_running_stats=True)",
            inputs=((8, 4, 4),),
            fixed="model = nn.InstanceNorm2d(8, momentum=0.1, track_running_stats=True)",
        ),
        Invalid(
            """\
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, training=self.training, momentum=0.9)


model = Functional()
""",
            inputs=((8, 4, 4),),
            fixed="""\
class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, training=self.training, momentum=0.1)


model = Functional()
""",
            message="momentum=0.9",
            note="a functional norm with running statistics",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=0.1))
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 0.9
""",
            inputs=((3, 4, 4),),
            modules=("1",),
            note="set after the construction, whose own value is right: no edit there",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.updating_norms():
            if layer.custom or layer.momentum is None or layer.momentum <= LARGEST_USUAL_MOMENTUM:
                continue
            intended = f"{1 - layer.momentum if layer.momentum < 1 else TORCH_DEFAULT:g}"
            yield self.diagnostic(
                layer,
                f"momentum={layer.momentum:g} makes the newest batch {layer.momentum:.4g} of the running "
                f"statistics, a memory of about {1 / layer.momentum:.2g} batches: PyTorch weighs the new batch, not "
                f"the old average",
                data={"momentum": layer.momentum, "memory": round(1 / layer.momentum, 2)},
                fix=layer.replace_argument("momentum", intended, title=f"Use momentum={intended}"),
            )
