"""BN602: weight decay on the scales and shifts of norms."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Valid, listed

SCRIPT = """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
optimizer = torch.optim.AdamW({parameters}, lr=1e-3{rest})
for step in range(10):
    optimizer.zero_grad()
    model(torch.randn(4, 3, 8, 8)).sum().backward()
    optimizer.step()
"""
GROUPS = """\
[
    {"params": [p for p in model.parameters() if p.ndim > 1]},
    {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
]"""


class WeightDecayOnNorm(Rule):
    """Weight decay on a norm's weight and bias pulls its output scale towards zero, which regularises nothing.

    ## Why it matters

    The layers before a batch norm are scale-invariant: decay of their weights acts through the effective
    learning rate. The norm's own weight and bias are not. They set the scale and shift of each channel
    directly, they are few, and 0 is not the value at which they do nothing (1 is, for the weight). Most
    published recipes leave them out of the decay: a percent or less, one way or the other, hence the level,
    information.

    The rule speaks when `decay_norm` is known to be true: stated in the training file, seen in the parameter
    groups of a script, or what the framework does. Frozen norms and norms without parameters do not count, nor
    do those that the framework spares by their class or their name (`no_decay`): the Hugging Face Trainer decays
    a `bn1` and leaves a LayerNorm and a `norm` alone.

    ## Fix safety

    Parameter groups change training, so the fix is unsafe. It splits `model.parameters()` in the call of the
    script's only optimiser: parameters of one axis (the norms' and the biases) get a group without decay. A
    checkpoint of the optimiser with one group no longer fits. Frameworks with a setting for it get that in their own
    file: `norm_decay_mult` (MMEngine, MMCV), `WEIGHT_DECAY_NORM` (Detectron2), `filter_bias_and_bn` (timm). Elsewhere
    it is advice.

    ## References

    - He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", 2018, section
      3.1, https://arxiv.org/abs/1812.01187
    - van Laarhoven, "L2 Regularization versus Batch and Weight Normalization", 2017,
      https://arxiv.org/abs/1706.05350
    """

    code = "BN602"
    name = "weight-decay-on-norm"
    severity = Severity.INFO
    needs = ("modules",)
    fixable = True

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"weight_decay": 0.05, "decay_norm": False},
            inputs=((3, 4, 4),),
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"weight_decay": 0, "decay_norm": True},
            inputs=((3, 4, 4),),
            note="there is no decay to reach anything",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"weight_decay": 0.05},
            inputs=((3, 4, 4),),
            note="unknown whether the optimiser has parameter groups",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False))",
            training={"weight_decay": 0.05, "decay_norm": True},
            inputs=((3, 4, 4),),
            note="no parameters",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).requires_grad_(False))",
            training={"weight_decay": 0.05, "decay_norm": True},
            inputs=((3, 4, 4),),
            note="the optimiser skips parameters without gradient",
        ),
        Valid(
            """\
class Scaled(nn.LayerNorm):
    pass


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Scaled(4)
        self.out_norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.out_norm(self.first(x))


model = Block()
""",
            training={"weight_decay": 0.05, "decay_norm": True, "no_decay": ["LayerNorm", "*_norm"]},
            inputs=((3, 4, 4),),
            note="a subclass of a spared class and a spared name: no norm is left",
        ),
    )
    invalid = (
        Invalid(
            SCRIPT.format(parameters="model.parameters()", rest=", weight_decay=0.05"),
            inputs=((3, 4, 4),),
            fixed=SCRIPT.format(parameters=GROUPS, rest=", weight_decay=0.05"),
            modules=("1",),
            message="AdamW.weight_decay 0.05",
            note="the script's only optimiser",
        ),
        Invalid(
            SCRIPT.format(parameters="model.parameters()", rest=""),
            inputs=((3, 4, 4),),
            fixed=SCRIPT.format(parameters=GROUPS, rest=""),
            modules=("1",),
            note="the weight decay that AdamW has by itself",
        ),
        Invalid(
            SCRIPT.format(
                parameters="filter(lambda p: p.requires_grad, model.parameters())", rest=", weight_decay=0.05"
            ),
            inputs=((3, 4, 4),),
            modules=("1",),
            note="a choice of parameters: no edit",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.LayerNorm(128))",
            training={"weight_decay": 0.05, "decay_norm": True},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="272 parameters of 2 norms",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"decay_norm": True},
            inputs=((3, 4, 4),),
            modules=("1",),
            note="how strong the decay is does not matter",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.LayerNorm(128))",
            training={"weight_decay": 0.05, "decay_norm": True, "no_decay": ["LayerNorm", "*.norm"]},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="16 parameters of 1 norm. Layers: 1",
            note="the LayerNorm is spared, the batch norm of 8 channels is not",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        decay = training.weight_decay
        if decay == 0 or training.decay_norm is False:
            return
        layers = [layer for layer in context.norms() if layer.parameters and not context.frozen(layer)]
        layers = [layer for layer in layers if not _is_spared(layer, training.no_decay or ())]
        if not layers:
            return
        if training.decay_norm is None:
            yield self.not_checked("decay of norm parameters unknown (give decay_norm in the training file)")
            return
        parameters = sum(layer.parameters for layer in layers)
        name = "weight decay" if decay is None else f"{training.key('weight_decay')} {decay:g}"
        framework = (training.origin("decay_norm") or "").removeprefix("default of ")
        by = f" (what {framework} does by itself)" if training.is_default("decay_norm") else ""
        yield self.diagnostic(
            training.span("decay_norm", "weight_decay") or layers[0],
            f"{name} reaches {parameters:,} parameter{'s' * (parameters > 1)} of {len(layers)} "
            f"norm{'s' * (len(layers) > 1)}{by}. Layers: {listed(layers)}",
            module=layers[0].path,
            data={
                "weight_decay": decay,
                "parameters": parameters,
                "layers": [layer.path for layer in layers],
                "key": training.key("decay_norm"),
                "source": training.origin("decay_norm"),
                "framework_default": training.is_default("decay_norm"),
            },
            fix=_fix(context, layers),
        )


def _fix(context: Context, layers: list[Layer]) -> Fix:
    """The framework's own setting, else a group without weight decay where a script builds the optimiser.

    Advice for norms over several axes; and a native file describes the groups, which are somewhere else.
    """
    title = "Put the parameters of norms, with the biases, in an optimiser group with weight_decay=0"
    parameters = [item for layer in layers if layer.module is not None for item in layer.module.parameters(False)]
    if any(item.dim() > 1 for item in parameters):
        return Fix(title)
    key = context.training.key("decay_norm")
    if key != "decay_norm" and all(layer.kind != "rms" and not layer.custom for layer in layers):
        fix = context.state_facts({"decay_norm": False}, title=f"Leave the norms out of the weight decay with {key}")
        if fix.edits:
            return fix
    return context.spare_from_decay(context.training.span("decay_norm"), title=title)


def _is_spared(layer: Layer, patterns: tuple[str, ...]) -> bool:
    """Whether the optimiser leaves a norm out of the decay, by the name of its class or by its path."""
    classes = {base.__name__ for base in type(layer.module).__mro__}
    return any(pattern in classes or fnmatchcase(layer.path, pattern) for pattern in patterns)
