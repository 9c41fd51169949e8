"""BN204: an eps that guards nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, Layer, NotChecked, Rule, Severity, Valid

SMALLEST_HALF_PRECISION_EPS = 1e-6
HALF_PRECISIONS = ("fp16-mixed", "fp16")


class UnsafeEps(Rule):
    """A norm divides by sqrt(variance + eps), so eps alone stands between a constant channel and a division
    by zero.

    ## Why it matters

    With eps of zero or less PyTorch's batch norm raises `batch_norm eps must be positive during training`,
    and LayerNorm and GroupNorm return NaN for a constant input.

    A dead channel has variance 0, and its gradient is multiplied by `1 / sqrt(eps)`. In float16 training an
    eps below 1e-6 lets that product pass 65504 and overflow, so the gradient becomes infinite. bfloat16 has
    the range of float32 and is safe. LayerNorm's customary 1e-12 is not reported.

    ## Fix safety

    Unsafe: every output of the norm changes a little. The fix writes PyTorch's default 1e-5.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - [PyTorch: automatic mixed precision](https://docs.pytorch.org/docs/stable/amp.html)
    """

    code = "BN204"
    name = "unsafe-eps"
    severity = Severity.WARNING
    needs = ("modules",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8)", training={"precision": "fp16-mixed"}),
        Valid(
            "model = nn.BatchNorm2d(8, eps=1e-8)",
            training={"precision": "bf16-mixed"},
            note="bfloat16 has the range of float32",
        ),
        Valid("model = nn.BatchNorm2d(8, eps=1e-8)", training={"precision": "32"}),
        Valid(
            "model = nn.LayerNorm(8, eps=1e-12)",
            training={"precision": "fp16-mixed"},
            note="1e-12 is customary in transformers",
        ),
        Valid(
            "model = nn.BatchNorm2d(8).half()",
            training={"precision": "fp16"},
            note="a half-precision model with eps 1e-5 stays finite",
        ),
        Valid("model = nn.BatchNorm2d(8, eps=1e-8)", note="the precision is unknown: said as not checked"),
    )
    invalid = (
        Invalid(
            "model = nn.BatchNorm2d(8, eps=0.0)",
            inputs=((8, 4, 4),),
            fixed="model = nn.BatchNorm2d(8, eps=1e-5)",
            message="raises",
            crashes=True,
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8, eps=0))",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8, eps=1e-5))",
            modules=("1",),
            message="NaN",
        ),
        Invalid(
            "model = nn.GroupNorm(2, 8, -1e-5)",
            inputs=((8, 4, 4),),
            fixed="model = nn.GroupNorm(2, 8, 1e-5)",
            message="NaN",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, eps=1e-8)",
            training={"precision": "fp16-mixed"},
            fixed="model = nn.BatchNorm2d(8, eps=1e-5)",
            message="overflows float16",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        precision = context.training.precision
        undecided = 0
        for layer in context.layers:
            if layer.custom or layer.eps is None:
                continue
            if layer.eps > 0 and (layer.kind != "batch" or layer.eps >= SMALLEST_HALF_PRECISION_EPS):
                continue
            if layer.eps > 0 and precision not in HALF_PRECISIONS:
                undecided += precision is None
                continue
            yield self.diagnostic(
                layer,
                f"eps={layer.eps:g}: {_without_guard(layer)}"
                if layer.eps <= 0
                else f"eps={layer.eps:g} under {precision}: on a constant channel the gradient scale "
                f"1/sqrt(eps) = {1 / math.sqrt(layer.eps):.3g} overflows float16",
                severity=Severity.ERROR if layer.eps <= 0 else None,
                data={"eps": layer.eps},
                fix=layer.replace_argument("eps", "1e-5", title="Use eps=1e-5"),
            )
        if undecided:
            yield self.not_checked(f"precision unknown, and {undecided} batch norms have an eps below 1e-6")


def _without_guard(layer: Layer) -> str:
    if layer.kind == "batch" and (layer.training or layer.eps != 0):
        return "batch norm raises (batch_norm eps must be positive)"
    if layer.kind == "batch":
        return "a channel whose running variance is 0 becomes NaN"
    if layer.kind == "rms":
        return "an all-zero input becomes NaN"
    if layer.kind == "instance" and layer.eps == 0:
        return "nothing bounds the gradient of an almost constant channel"
    return "a constant input becomes NaN"
