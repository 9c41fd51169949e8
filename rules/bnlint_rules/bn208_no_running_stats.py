"""BN208: evaluation without running statistics."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Valid


class NoRunningStats(Rule):
    """Without running statistics a batch norm normalises with the batch at hand, in evaluation too.

    ## Why it matters

    The output for one sample then depends on the other samples of the evaluation batch, and at evaluation
    batch 1 a layer that sees one value per channel raises `Expected more than 1 value per channel when
    training`, although the model is in evaluation mode.

    Clearing `track_running_stats` after construction does something else: the buffers stay, training stops
    updating them, and evaluation goes on using them. A model trained that way is evaluated with the initial
    0 and 1. This is reported too, unless the run starts from pretrained weights.

    InstanceNorm keeps no running statistics by design and is not reported.

    ## Fix safety

    Unsafe: evaluation changes from batch to running statistics. There is an edit only where the
    constructing call says `track_running_stats=False`.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    """

    code = "BN208"
    name = "no-running-stats"
    severity = Severity.WARNING
    needs = ("modules",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8)"),
        Valid("model = nn.InstanceNorm2d(8)", note="InstanceNorm keeps no running statistics by design"),
        Valid("model = nn.GroupNorm(2, 8)"),
        Valid(
            """\
model = nn.BatchNorm2d(8)
model.track_running_stats = False
""",
            training={"pretrained": True},
            note="the buffers stay: evaluation uses the loaded statistics",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.BatchNorm2d(8, track_running_stats=False)",
            fixed="model = nn.BatchNorm2d(8, track_running_stats=True)",
            modules=("",),
            message="evaluation normalises with the statistics of its own batch",
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, 1e-5, 0.1, True, False))",
            inputs=((4,),),
            fixed="model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, 1e-5, 0.1, True, True))",
            modules=("1",),
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
for module in model:
    if isinstance(module, nn.BatchNorm2d):
        module.running_mean = None
        module.running_var = None
""",
            inputs=((3, 8, 8),),
            modules=("1",),
            note="cleared buffers act like track_running_stats=False",
        ),
        Invalid(
            """\
model = nn.BatchNorm2d(8)
model.track_running_stats = False
""",
            message="initial 0 and 1",
            note="the flag cleared after construction: the buffers stay and are never updated",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for layer in context.batch_norms():
            if layer.custom or layer.module is None:
                continue
            if layer.module.running_mean is None and layer.module.running_var is None:
                yield self.diagnostic(
                    layer,
                    "keeps no running statistics: evaluation normalises with the statistics of its own "
                    "batch, so its output depends on the batch, and with one value per channel it raises",
                    fix=_restore(layer),
                )
            elif not layer.module.track_running_stats and layer.training and not context.training.pretrained:
                yield self.diagnostic(
                    layer,
                    "track_running_stats was cleared after construction: training no longer updates the "
                    "running statistics, and evaluation still normalises with their initial 0 and 1",
                    fix=Fix("Leave track_running_stats as it was built"),
                )


def _restore(layer: Layer) -> Fix:
    if layer.module.track_running_stats:
        return Fix("Keep running_mean and running_var, which were set to None after construction")
    return layer.replace_argument("track_running_stats", "True", title="Keep running statistics")
