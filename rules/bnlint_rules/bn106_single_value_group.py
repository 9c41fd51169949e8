"""BN106: a GroupNorm or LayerNorm over one value is a constant."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, Rule, Severity, Valid


class SingleValueGroup(Rule):
    """GroupNorm and LayerNorm over a single value return their bias, whatever the input is.

    A group of GroupNorm holds channels / groups x spatial positions of one sample. On a feature map of one
    position, `GroupNorm(C, C)` has one value per group. So has `LayerNorm(1)`, and a LayerNorm over a last
    axis of size 1.

    ## Why it matters

    One value minus its mean is zero, so the layers behind the norm get nothing of what came before. At
    batch size 1 GroupNorm raises `Expected more than 1 value per channel when training`, in eval mode too.
    At larger batch sizes PyTorch does not check, and the model trains on its biases without a word.
    LayerNorm never raises.

    Replacing a batch norm by GroupNorm after global pooling is the usual way to get here.

    ## Fix safety

    The fix lowers the number of groups until each holds enough values, for all layers that the line builds. That
    changes training, so it is unsafe. With one or two values per sample in all, no norm can work: the advice is to
    remove it.

    ## References

    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.GroupNorm.html
    """

    code = "BN106"
    name = "single-value-group"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid("model = nn.GroupNorm(4, 8)", inputs=((8,),)),
        Valid("model = nn.GroupNorm(8, 8)", inputs=((8, 3, 3),), note="one channel per group, nine positions"),
        Valid("model = nn.LayerNorm(8)", inputs=((4, 8),)),
        Valid(
            "model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 8))",
            training={"batch_size": 1},
            inputs=((8, 6, 6),),
            note="one group on a pooled map holds all channels",
        ),
        Valid("model = nn.BatchNorm1d(8)", training={"batch_size": 1}, inputs=((8,),), note="BN101 speaks here"),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(16, 16))",
            training={"batch_size": 1},
            inputs=((16, 6, 6),),
            fixed="model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(2, 16))",
            modules=("1",),
            message="raises",
            crashes=True,
        ),
        Invalid(
            "model = nn.GroupNorm(8, 8)",
            training={"batch_size": 4},
            inputs=((8,),),
            fixed="model = nn.GroupNorm(1, 8)",
            message="whatever the input",
            note="no error at batch size 4, only a constant",
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(8, 1), nn.LayerNorm(1))",
            inputs=((8,),),
            modules=("1",),
            message="1 element",
        ),
        Invalid(
            """\
def head(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(width, width))

model = nn.Sequential(nn.Conv2d(3, 48, 1), head(48), nn.Conv2d(48, 32, 1), head(32))
""",
            training={"batch_size": 4},
            inputs=((3, 6, 6),),
            fixed="""\
def head(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(4, width))

model = nn.Sequential(nn.Conv2d(3, 48, 1), head(48), nn.Conv2d(48, 32, 1), head(32))
""",
            modules=("1.1", "3.1"),
            note="one number of groups for all widths of the line",
        ),
        Invalid("model = nn.GroupNorm(1, 1)", training={"batch_size": 1}, inputs=((1, 1, 1),), crashes=True),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        batch_size = context.training.batch_size
        for call, count in context.graph().distinct_calls("group", "layer"):
            if call.values != 1 or call.data_dependent:
                continue
            repeated = f" in {count} calls" if count > 1 else ""
            yield self.diagnostic(
                call,
                f"{call.layer.class_name} gets {call.shape}{repeated}: {_consequence(call, batch_size)}",
                data={
                    "values_per_group": 1,
                    "input_shape": list(call.shape),
                    "batch_size": batch_size,
                    "calls": count,
                },
                fix=_fix(call),
            )


def _consequence(call: NormCall, batch_size: int | None) -> str:
    if call.kind == "layer":
        return "it normalises over 1 element, so its output is its bias whatever the input"
    groups = f"{call.layer.num_groups} groups of 1 value" if call.layer.num_groups else "groups of 1 value"
    constant = "its output is its bias whatever the input"
    raises = "raises 'Expected more than 1 value per channel when training', in eval mode too"
    if batch_size is None:
        return f"{groups}, so {constant}, and batch size 1 {raises}"
    return f"{groups}: batch size 1 {raises}" if batch_size == 1 else f"{groups}, so {constant}; batch size 1 {raises}"


def _fix(call: NormCall) -> Fix:
    if call.kind == "layer":
        return Fix("Remove the LayerNorm, or normalise over an axis of more than 1 element")
    return call.replace_number_of_groups()
