"""BN202: running statistics that can never move."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NotChecked, Rule, Severity, Valid


class FrozenMomentum(Rule):
    """With momentum 0 a batch norm keeps its running mean at 0 and its running variance at 1 for ever.

    ## Why it matters

    PyTorch updates `running = (1 - momentum) * running + momentum * batch`, so a momentum of 0 never takes
    anything from a batch. Training normalises with batch statistics and looks normal; evaluation normalises
    with the initial 0 and 1, or with those of a loaded checkpoint, and gives other outputs than training
    did. A layer that is meant to be frozen belongs in evaluation mode instead.

    The rule is silent for a layer that the model keeps in evaluation mode and without running statistics.

    ## Fix safety

    Unsafe: the running statistics, and with them the evaluation results, change. The fix writes PyTorch's
    default.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "BN202"
    name = "frozen-momentum"
    severity = Severity.ERROR
    needs = ("modules",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8, momentum=0.01)"),
        Valid("model = nn.BatchNorm2d(8, momentum=None)", note="None is a cumulative average, not zero"),
        Valid("model = nn.BatchNorm2d(8, momentum=0.0, track_running_stats=False)", note="nothing to update"),
        Valid(
            """\
class FrozenStem(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, momentum=0.0)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


model = FrozenStem()
""",
            inputs=((8, 4, 4),),
            note="frozen on purpose: training and evaluation use the same statistics",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.BatchNorm2d(8, momentum=0.0)",
            fixed="model = nn.BatchNorm2d(8, momentum=0.1)",
            modules=("",),
            message="0 and 1",
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, 1e-5, 0))",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, 1e-5, 0.1))",
            modules=("1",),
        ),
        Invalid(
            "model = nn.BatchNorm2d(8, momentum=0.0)",
            training={"pretrained": True},
            fixed="model = nn.BatchNorm2d(8, momentum=0.1)",
            message="checkpoint",
            note="with loaded weights training and evaluation still use different statistics",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        kept = "those of the checkpoint" if context.training.pretrained else "their initial 0 and 1"
        for layer in context.updating_norms():
            if layer.custom or layer.momentum != 0:
                continue
            yield self.diagnostic(
                layer,
                f"momentum=0 keeps the running mean and variance at {kept}: training never updates what "
                f"evaluation normalises with",
                fix=layer.replace_argument("momentum", "0.1", title="Use momentum=0.1"),
            )
