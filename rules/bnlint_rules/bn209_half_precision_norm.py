"""BN209: norm layers stored in half precision."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Valid

SIGNIFICAND_BITS = {"float16": 11, "bfloat16": 8}  # the implicit leading bit counted


class HalfPrecisionNorm(Rule):
    """A norm layer held in float16 or bfloat16 rounds its running statistics and weights after every
    update.

    ## Why it matters

    `model.half()` and `model.to(torch.bfloat16)` convert norm layers with everything else. A float16 number
    keeps 11 significant bits and a bfloat16 number 8, so an update smaller than one part in 2048 (or 256)
    of the old value is lost: weights stop moving at small learning rates, and running statistics stall.
    Mixed precision under `torch.autocast` keeps parameters and buffers in float32 and is not reported; nor
    is a frozen layer.

    ## Fix safety

    Advice only: where the model was converted is not visible from the layer.

    ## References

    - [PyTorch: automatic mixed precision](https://docs.pytorch.org/docs/stable/amp.html)
    - [apex issue 133: float16 batch norm](https://github.com/NVIDIA/apex/issues/133)
    """

    code = "BN209"
    name = "half-precision-norm"
    severity = Severity.WARNING
    needs = ("modules",)

    valid = (
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"precision": "fp16-mixed"},
            note="autocast leaves parameters and buffers in float32",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3).half(), nn.BatchNorm2d(8))",
            note="the norm was left in float32",
        ),
        Valid("model = nn.InstanceNorm2d(8).half()", note="nothing is stored, so nothing is rounded"),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)).half()
model.requires_grad_(False)
""",
            note="a frozen encoder kept in half precision never updates anything",
        ),
    )
    invalid = (
        Invalid("model = nn.BatchNorm2d(8).half()", modules=("",), message="float16"),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)).to(torch.bfloat16)",
            modules=("1",),
            message="bfloat16",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, affine=False).half()",
            message="running statistics",
            note="the buffers alone",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.layers:
            if layer.dtype not in SIGNIFICAND_BITS:
                continue
            stored = ["weights"] * (layer.parameters > 0 and layer.trainable)
            stored += ["running statistics"] * (layer.tracking and layer.training)
            if not stored:
                continue
            yield self.diagnostic(
                layer,
                f"{' and '.join(stored)} are held in {layer.dtype}: an update below 1/"
                f"{2 ** SIGNIFICAND_BITS[layer.dtype]} of the old value is rounded away",
                data={"dtype": layer.dtype},
                fix=Fix("Keep the norm layers in float32: call .float() on them, or train under autocast"),
            )
