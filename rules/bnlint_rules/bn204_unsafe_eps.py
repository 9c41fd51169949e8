"""BN204: an eps that guards nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, Layer, NotChecked, Rule, Severity, Valid

SMALLEST_HALF_PRECISION_EPS = 1e-6
LARGEST_HALF = 65504.0
LOSS_SCALE = 65536.0  # with which torch.amp.GradScaler starts
HALF_PRECISIONS = ("fp16-mixed", "fp16")


class UnsafeEps(Rule):
    """A norm divides by sqrt(variance + eps), so eps alone stands between a constant channel and a division
    by zero.

    ## Why it matters

    With eps of zero or less PyTorch's batch norm raises `batch_norm eps must be positive during training`,
    and LayerNorm and GroupNorm return NaN for a constant input.

    A dead channel has variance 0, and its gradient is multiplied by `1 / sqrt(eps)`. In float16 training that
    gradient carries the loss scale already, 65536 in the first steps of a `GradScaler`. With an eps of 1e-8 the
    two make 6.6e8, so a gradient of 1e-4 is beyond float16's largest number, 65504, and becomes infinite: the
    step is skipped and the loss scale halved, again and again. With 1e-5 it takes 3.2e-3. bfloat16 has the
    range of float32 and is safe. LayerNorm's customary 1e-12 is not reported.

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
            message=(
                "the gradient is multiplied by 1/sqrt(eps) = 1e+04 and by the loss scale (65536 at first): "
                "from 0.0001 on it overflows float16 (65504)"
            ),
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
                else f"eps={layer.eps:g} under {precision}: {_overflow(layer.eps)}",
                severity=Severity.ERROR if layer.eps <= 0 else None,
                data={"eps": layer.eps},
                fix=layer.replace_argument("eps", "1e-5", title="Use eps=1e-5"),
            )
        if undecided:
            yield self.not_checked(f"precision unknown, and {undecided} batch norms have an eps below 1e-6")


def _overflow(eps: float) -> str:
    factor = 1 / math.sqrt(eps)
    return (
        f"on a constant channel the gradient is multiplied by 1/sqrt(eps) = {factor:.3g} and by the loss scale "
        f"({LOSS_SCALE:.0f} at first): from {LARGEST_HALF / (factor * LOSS_SCALE):.2g} on it overflows float16 "
        f"({LARGEST_HALF:.0f})"
    )


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
