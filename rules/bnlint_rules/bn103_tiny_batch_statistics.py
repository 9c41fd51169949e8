"""BN103: batch statistics that are estimated from a few samples."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from bnlint.api import ENOUGH_SAMPLES, Context, Diagnostic, Fix, Invalid, Layer, NormCall, Rule, Severity, Valid, listed


class TinyBatchStatistics(Rule):
    """Batch norm estimates the mean and variance of each channel from the samples of one batch on one device.

    With n independent values per channel, the relative standard error of the mean is 1/sqrt(n) (in units of
    the standard deviation) and that of the variance sqrt(2/(n-1)). The rule speaks when fewer than 8
    samples feed the statistics, the ranks of a SyncBatchNorm counted in.

    ## Why it matters

    Below about 8 samples the error of batch norm models rises steeply, because each sample's output depends
    on which few others share its batch and because the running statistics of evaluation stop matching those
    of training. The positions of one image are correlated: the standard errors in the message are the best
    case.

    Gradient accumulation does not help: it adds gradients, batch norm still sees one small batch (BN104).

    Layers that are kept in eval mode or frozen are not counted, nor those that BN101 and BN105 report.

    ## Fix safety

    The fix puts a GroupNorm in the place of every layer that the finding lists, where its line can be changed for
    all layers that it builds. It changes training and the names in checkpoints, so it is unsafe. Where
    SyncBatchNorm over the ranks would do, or weights are loaded or published, the fix is advice.

    ## References

    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """

    code = "BN103"
    name = "tiny-batch-statistics"
    severity = Severity.WARNING
    needs = ("graph", "training.batch_size")
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8)", training={"batch_size": 8}, inputs=((8, 4, 4),)),
        Valid("model = nn.BatchNorm2d(8)", inputs=((8, 4, 4),), note="batch size unknown, not small"),
        Valid("model = nn.GroupNorm(2, 8)", training={"batch_size": 2}, inputs=((8, 4, 4),)),
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 2, "world_size": 4, "strategy": "ddp", "sync_batchnorm": True},
            inputs=((8, 4, 4),),
            note="synchronised over 4 ranks: 8 samples",
        ),
        Valid(
            "model = nn.SyncBatchNorm(8)",
            training={"batch_size": 2, "strategy": "ddp"},
            inputs=((8, 4, 4),),
            note="synchronised over an unknown number of ranks",
        ),
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 2, "strategy": "fsdp", "sync_batchnorm": True},
            inputs=((8, 4, 4),),
            note="synchronised by the configuration, over an unknown number of ranks",
        ),
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 2, "world_size": 4, "strategy": "fsdp", "sync_batchnorm": True},
            inputs=((8, 4, 4),),
            note="FSDP has a process group like DDP",
        ),
        Valid(
            "model = nn.BatchNorm2d(8)",
            training={"total_batch_size": 32, "world_size": 4, "strategy": "dp"},
            inputs=((8, 4, 4),),
            note="8 samples for each DataParallel replica",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"batch_size": 2, "frozen": ["*"]},
            inputs=((3, 4, 4),),
            note="a frozen norm in training mode is BN303's",
        ),
        Valid("model = nn.BatchNorm1d(8)", training={"batch_size": 1}, inputs=((8,),), note="BN101 speaks here"),
        Valid(
            """\
class StandardisedConv(nn.Conv2d):
    def forward(self, x):
        rows = self.weight.flatten(1).unsqueeze(0)
        weight = F.batch_norm(rows, None, None, training=True).view_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)

model = nn.Sequential(StandardisedConv(3, 8, 3), nn.GroupNorm(2, 8))
""",
            training={"batch_size": 2},
            inputs=((3, 6, 6),),
            note="weight standardisation calls batch_norm on weights: no sample is involved",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8))",
            training={"batch_size": 2},
            inputs=((3, 8, 8),),
            fixed="model = nn.Sequential(nn.GroupNorm(1, 3), nn.ReLU(), nn.Conv2d(3, 8, 5), nn.GroupNorm(8, 8))",
            modules=("3",),
            message="2 batch norms",
            note="one finding that lists both layers, at the worst one",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 1, "world_size": 4, "strategy": "ddp", "sync_batchnorm": True},
            inputs=((8, 4, 4),),
            message="4 samples",
            note="SyncBatchNorm helps, but not enough",
        ),
        Invalid(
            "model = nn.Sequential(*[nn.BatchNorm2d(8) for _ in range(2)])",
            training={"batch_size": 2, "frozen": ["1"]},
            inputs=((8, 4, 4),),
            modules=("0",),
            note="the line also builds a layer that the run keeps frozen: no edit",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 2, "pretrained": True},
            inputs=((8, 4, 4),),
            note="GroupNorm has no use for the weights of a batch norm: no edit",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"batch_size": 2, "world_size": 4, "strategy": "ddp"},
            inputs=((8, 4, 4),),
            note="SyncBatchNorm over 4 ranks would do: no edit",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))",
            training={"batch_size": 1},
            inputs=((8, 4, 4),),
            modules=("0",),
            message="n = 16",
            note="the second norm sees one value and is BN101's",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"total_batch_size": 16, "world_size": 4, "strategy": "dp", "sync_batchnorm": True},
            inputs=((8, 4, 4),),
            message="4 samples (batch size 4 of each DataParallel replica)",
            note="DataParallel cuts the batch of 16, and synchronises nothing",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        if context.batch_size >= ENOUGH_SAMPLES:
            return
        tiny: dict[int, list[NormCall]] = {}  # by the number of samples
        for call in context.graph().calls("batch"):
            ranks = context.ranks(call.layer)
            if not call.uses_batch_statistics or call.data_dependent or ranks is None or call.values * ranks < 2:
                continue
            if context.batch_size * ranks >= ENOUGH_SAMPLES or context.frozen(call.layer):
                continue
            if not call.node.meta["from_input"]:
                continue  # weight standardisation by means of batch_norm: no sample is involved
            tiny.setdefault(ranks, []).append(call)
        if not tiny:
            return

        ranks, worst = min(
            ((ranks, call) for ranks, calls in tiny.items() for call in calls),
            key=lambda item: item[0] * item[1].values,
        )
        samples, values = context.batch_size * ranks, worst.values * ranks
        mean_error, variance_error = 1 / sqrt(values), sqrt(2 / (values - 1))
        layers = list(dict.fromkeys(call.path for calls in tiny.values() for call in calls))
        over = f" x {ranks} ranks" if ranks > 1 else ""
        if context.training.strategy == "dp":
            over = " of each DataParallel replica"
        name = worst.path or worst.layer.class_name
        yield self.diagnostic(
            worst,
            f"{_count(layers)} training statistics from {samples} sample{'s' * (samples > 1)} (batch size "
            f"{context.batch_size}{over}), fewer than {ENOUGH_SAMPLES}; the worst is {name} with n = {values} "
            f"values per channel: relative standard error {mean_error:.1%} of the mean, {variance_error:.1%} of the "
            f"variance, at best. Layers: {listed(call.layer for calls in tiny.values() for call in calls)}",
            data={
                "batch_size": context.batch_size,
                "samples": samples,
                "threshold": ENOUGH_SAMPLES,
                "values_per_channel": values,
                "mean_error": mean_error,
                "variance_error": variance_error,
                "worst": worst.path,
                "layers": layers,
            },
            fix=_fix(context, samples, [call.layer for calls in tiny.values() for call in calls]),
        )


def _count(layers: list[str]) -> str:
    return "1 batch norm takes its" if len(layers) == 1 else f"{len(layers)} batch norms take their"


def _fix(context: Context, samples: int, layers: list[Layer]) -> Fix:
    """GroupNorm in place of the layers; advice where SyncBatchNorm would do."""
    training = context.training
    ranks = 1 if training.strategy in ("dp", "none") or training.device in ("cpu", "mps") else training.world_size or 1
    if samples == context.batch_size and context.batch_size * ranks >= ENOUGH_SAMPLES:
        together = context.batch_size * ranks
        return Fix(f"Use SyncBatchNorm over the {ranks} ranks ({together} samples), GroupNorm or frozen norms")
    advice = f"Raise the batch size to {ENOUGH_SAMPLES} or more samples per norm, or use GroupNorm or frozen norms"
    return context.replace_with_group_norms(layers, advice=advice)
