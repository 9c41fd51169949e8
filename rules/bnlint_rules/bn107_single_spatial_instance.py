"""BN107: an InstanceNorm over one spatial position raises."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NormCall, Rule, Severity, Valid

RANKS = {"1d": 3, "2d": 4, "3d": 5}


class SingleSpatialInstance(Rule):
    """InstanceNorm needs more than one spatial position: its statistics belong to one channel of one sample.

    The batch size plays no part. On a feature map of one position there is one value per statistic at any
    batch size.

    ## Why it matters

    PyTorch raises `Expected more than 1 spatial element when training`. It does so in eval mode too, unless
    the layer was built with `track_running_stats=True`. InstanceNorm is a tempting replacement where batch
    norm fails on small batches, but on pooled maps it fails at every batch size.

    ## Fix safety

    The fix replaces the layer by a GroupNorm whose groups hold enough values at the traced shape, where the line
    builds no layer that works. That changes training, so it is unsafe.

    ## References

    - Ulyanov, Vedaldi and Lempitsky, "Instance Normalization", 2016, https://arxiv.org/abs/1607.08022
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.InstanceNorm2d.html
    """

    code = "BN107"
    name = "single-spatial-instance"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid("model = nn.InstanceNorm2d(8)", training={"batch_size": 1}, inputs=((8, 1, 2),)),
        Valid("model = nn.GroupNorm(2, 8)", inputs=((8, 1, 1),)),
        Valid(
            "model = nn.InstanceNorm1d(8)",
            training={"batch_size": 8},
            inputs=((16,),),
            note="a 2-D input is one unbatched sample (channels, length): 16 positions, BN207's matter",
        ),
        Valid(
            """\
class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.InstanceNorm1d(8)

    def forward(self, x):
        try:
            return self.norm(x)
        except ValueError:
            return x

model = Guarded()
""",
            training={"batch_size": 1},
            inputs=((8, 1),),
            note="the model catches what the norm raises",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.InstanceNorm2d(16))",
            training={"batch_size": 4},
            inputs=((16, 6, 6),),
            fixed="model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(2, 16, affine=False))",
            modules=("1",),
            message="at any batch size",
            crashes=True,
        ),
        Invalid(
            "model = nn.InstanceNorm1d(8, affine=True, track_running_stats=True)",
            training={"batch_size": 4},
            inputs=((8, 1),),
            fixed="model = nn.GroupNorm(1, 8, affine=True)",
            message="in training",
            crashes=True,
            note="running statistics save it in eval mode only",
        ),
        Invalid(
            """\
def norm(width):
    return nn.InstanceNorm2d(width)

model = nn.Sequential(norm(8), nn.AdaptiveAvgPool2d(1), norm(8))
""",
            training={"batch_size": 4},
            inputs=((8, 4, 4),),
            modules=("2",),
            crashes=True,
            note="the line also builds an InstanceNorm that works: no edit",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        for call, count in context.graph().distinct_calls("instance"):
            if not _is_single(call):
                continue
            if len(call.shape) < RANKS.get(call.layer.class_name[-2:], 3):
                continue  # one unbatched sample (channels, ...): BN207's matter
            repeated = f" in {count} calls" if count > 1 else ""
            mode = "in training" if call.layer.tracking else "in training and in eval mode"
            yield self.diagnostic(
                call,
                f"{call.layer.class_name} gets {call.shape}, 1 spatial position{repeated}: it raises "
                f"'Expected more than 1 spatial element when training' {mode}, at any batch size",
                data={"values_per_channel": 1, "input_shape": list(call.shape), "calls": count},
                fix=call.replace_with_group_norm(_is_single),
            )


def _is_single(call: NormCall) -> bool:
    return call.values == 1 and call.uses_batch_statistics and call.checked and not call.data_dependent
