"""BN205: batch norms of one model that were set up differently."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, Layer, NotChecked, Rule, Severity, Valid

PATHS_SHOWN = 3


class InconsistentNormParameters(Rule):
    """Batch norms of one model that differ in eps or momentum are usually set up in two places that do not
    know it.

    ## Why it matters

    A head that is built after an initialiser has walked over the model keeps the defaults; a backbone
    copied from another framework keeps eps 1e-3 while the rest has 1e-5. The layers then forget the past at
    different speeds, and a weight conversion that assumes one value goes wrong.

    Layers that the model keeps in evaluation mode do not count for momentum; layers without running
    statistics do not count at all.

    ## Fix safety

    Advice only: which of the values is meant is not visible.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "BN205"
    name = "inconsistent-norm-parameters"
    severity = Severity.INFO
    needs = ("modules",)

    valid = (
        Valid(
            "model = nn.Sequential(nn.BatchNorm2d(8, eps=1e-3), nn.ReLU(), nn.BatchNorm2d(8, eps=0.001))",
            inputs=((8, 4, 4),),
        ),
        Valid(
            "model = nn.Sequential(nn.BatchNorm2d(8), nn.GroupNorm(2, 8, eps=1e-6))",
            inputs=((8, 4, 4),),
            note="norms of different kinds have their own customs",
        ),
        Valid(
            """\
model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8, momentum=0.9, track_running_stats=False))
""",
            inputs=((8, 4, 4),),
            note="without running statistics the momentum is never used",
        ),
        Valid(
            """\
class FrozenBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, momentum=0.01))
        self.head = nn.BatchNorm2d(8)

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


model = FrozenBackbone()
""",
            inputs=((3, 4, 4),),
            note="a frozen layer's momentum is never used",
        ),
    )
    invalid = (
        Invalid(
            """\
model = nn.Sequential(
    nn.BatchNorm2d(8, eps=1e-3, momentum=0.01),
    nn.BatchNorm2d(8, eps=1e-3, momentum=0.01),
    nn.BatchNorm2d(8),
)
""",
            inputs=((8, 4, 4),),
            modules=("2",),
            message="eps=1e-05, momentum=0.1 in 1 layer (2)",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(8, momentum=None))",
            inputs=((8, 4, 4),),
            modules=("2",),
            message="momentum=None",
            note="a cumulative average beside an exponential one",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        layers = [layer for layer in context.batch_norms(tracking=True) if layer.eps is not None and not layer.custom]
        differs_in_eps = len({layer.eps for layer in layers}) > 1
        differs_in_momentum = len({layer.momentum for layer in layers if layer.training}) > 1
        groups: dict[str, list[Layer]] = defaultdict(list)
        for layer in layers:
            values = [f"eps={layer.eps:g}"] if differs_in_eps else []
            if differs_in_momentum and layer.training:
                values.append("momentum=None" if layer.momentum is None else f"momentum={layer.momentum:g}")
            groups[", ".join(values)].append(layer)
        groups.pop("", None)  # frozen layers where only the momentum differs
        if len(groups) < 2:
            return
        by_size = sorted(groups.items(), key=lambda group: -len(group[1]))  # stable: in equal halves the later is odd
        yield self.diagnostic(
            by_size[-1][1][0],
            f"batch norms of one model disagree: {'; '.join(_describe(*group) for group in by_size)}",
            data={"groups": {values: [layer.path for layer in group] for values, group in by_size}},
        )


def _describe(values: str, layers: list[Layer]) -> str:
    shown = [layer.path or "the model" for layer in layers[:PATHS_SHOWN]]
    more = ", ..." if len(layers) > PATHS_SHOWN else ""
    return f"{values} in {len(layers)} layer{'s' if len(layers) > 1 else ''} ({', '.join(shown)}{more})"
