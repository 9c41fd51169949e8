"""BN104: gradient accumulation enlarges the optimiser's batch, not that of batch norm."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    ENOUGH_SAMPLES,
    BatchScaling,
    Context,
    Diagnostic,
    Fix,
    Invalid,
    Layer,
    NotChecked,
    Rule,
    Severity,
    Valid,
    listed,
)

MODEL = "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))"
KEPT_IN_EVAL_MODE = """\
class FrozenStem(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


model = FrozenStem()
"""


class AccumulationKeepsBatchNormSmall(Rule):
    """Gradient accumulation adds gradients of several forwards; batch norm normalises within each of them.

    With a batch of 3 per device and an accumulation of 8 the optimiser sees the gradient of 24 samples per
    device, and batch norm still estimates its mean and variance from 3. The rule speaks when accumulation is
    used and fewer than 8 samples feed the statistics, the ranks of a SyncBatchNorm counted in.

    ## Why it matters

    Accumulation is the usual advice for a batch that does not fit into memory, and for a model without batch
    norm it is equivalent. With batch norm the run is not the large-batch run that it stands for: each sample is
    normalised with its few neighbours, and the running statistics are updated once per forward, which makes
    them forget faster per optimiser step.

    BN103 judges the small batch itself. Layers that are kept in eval mode or frozen are not counted, nor
    are norms that look at one sample at a time.

    ## Fix safety

    The fix puts a GroupNorm in the place of every layer that the finding lists, where its line can be changed for
    all layers that it builds. It changes training and the names in checkpoints, so it is unsafe. Where
    SyncBatchNorm over the ranks would do, or weights are loaded or published, the fix is advice: so is another split
    of batch and accumulation.

    ## References

    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html
    """

    code = "BN104"
    name = "accumulation-keeps-batch-norm-small"
    severity = Severity.WARNING
    fixable = True
    needs = ("modules",)  # with 8 samples or more it does not matter whether accumulation is known

    valid = (
        Valid(
            MODEL,
            training={"batch_size": 3, "gradient_accumulation_steps": 1},
            note="no accumulation: the small batch is BN103's",
        ),
        Valid(
            MODEL,
            training={"batch_size": 8, "gradient_accumulation_steps": 4},
            note="8 samples are enough for batch norm",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "strategy": "ddp",
                "sync_batchnorm": True,
                "gradient_accumulation_steps": 2,
            },
            note="synchronised over 4 ranks: 12 samples",
        ),
        Valid(
            MODEL,
            training={"batch_size": 3, "strategy": "ddp", "sync_batchnorm": True, "gradient_accumulation_steps": 2},
            note="synchronised over an unknown number of ranks",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))",
            training={"batch_size": 1, "gradient_accumulation_steps": 16},
            note="group norm looks at one sample: accumulation is equivalent to a larger batch",
        ),
        Valid(
            MODEL,
            training={"batch_size": 2, "gradient_accumulation_steps": 8, "frozen": ["*"]},
            note="frozen layers do not estimate anything",
        ),
        Valid(
            KEPT_IN_EVAL_MODE,
            training={"batch_size": 2, "gradient_accumulation_steps": 8},
            note="a norm that the model keeps in eval mode uses its running statistics",
        ),
        Valid(MODEL, training={"batch_size": 8}, note="8 samples are enough, whatever the accumulation is"),
        Valid(MODEL, training={"batch_size": 3}, note="unknown whether gradients are accumulated"),
        Valid(
            MODEL,
            training={"total_batch_size": 16, "gradient_accumulation_steps": 2},
            note="the batch size per device is unknown, because the number of ranks is",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))",
            training={"batch_size": 3, "world_size": 4, "strategy": "ddp", "gradient_accumulation_steps": 8},
            modules=("1",),
            message="96 samples (4 ranks x 3 x 8), but 2 batch norms still take their statistics from 3: 1, 3",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 1,
                "world_size": 4,
                "strategy": "ddp",
                "sync_batchnorm": True,
                "gradient_accumulation_steps": 4,
            },
            modules=("1",),
            message="from 4 (SyncBatchNorm over 4 ranks)",
            note="SyncBatchNorm counts the ranks, not the accumulation",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 3, "gradient_accumulation_steps": 8},
            fixed="model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8))",
            modules=("1",),
            message="24 samples of each rank (3 x 8)",
            note="however many ranks there are",
        ),
        Invalid(
            MODEL,
            training={
                "total_batch_size": 10,
                "world_size": 4,
                "strategy": "dp",
                "gradient_accumulation_steps": 2,
            },
            modules=("1",),
            message="20 samples (10 over all devices x 2), but 1 batch norm still takes its statistics from 3",
            note="DataParallel makes 3, 3, 3 and 1 of 10 samples",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 3, "world_size": 4, "strategy": "dp", "gradient_accumulation_steps": 2},
            modules=("1",),
            message="24 samples (4 devices x 3 x 2)",
            note="DataParallel has devices, and one rank",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        batch, steps = training.batch_size, training.gradient_accumulation_steps
        layers = [
            layer for layer in context.batch_norms(training=True) if not layer.custom and not context.frozen(layer)
        ]
        if steps == 1 or not layers:
            return
        reasons = [] if steps is not None else ["gradient accumulation unknown (give --accumulate)"]
        if batch is None:
            yield self.not_checked(", ".join([BatchScaling.missing(training), *reasons]))
            return
        small: list[tuple[int, Layer]] = []
        undecided: list[Layer] = []
        for layer in layers:
            ranks = context.ranks(layer)
            if batch * (ranks or 1) >= ENOUGH_SAMPLES:
                continue
            if ranks is None:
                undecided.append(layer)
            else:
                small.append((batch * ranks, layer))
        if undecided:
            reasons.append(f"number of ranks unknown (give --world-size) for {listed(undecided)}")
        if reasons and (small or undecided):
            yield self.not_checked(", ".join(reasons))
        if not small or steps is None:
            return

        samples = min(count for count, _ in small)
        layers = [layer for _, layer in small]
        total = training.samples_per_step
        ranks = 1 if total is None or training.strategy == "none" else training.world_size or 1
        noun = "device" if training.strategy == "dp" else "rank"
        terms = f"{ranks} {noun}s x {batch} x {steps}" if ranks > 1 else f"{batch} x {steps}"
        if total is not None and ranks * batch * steps != total:  # DataParallel's pieces differ in size
            terms = f"{training.samples_per_forward} over all devices x {steps}"
        step = f"{batch * steps} samples of each {noun}" if total is None else f"{total} samples"
        norms = "1 batch norm still takes its" if len(layers) == 1 else f"{len(layers)} batch norms still take their"
        over = f" (SyncBatchNorm over {samples // batch} ranks)" if samples > batch else ""
        key = training.key("gradient_accumulation_steps")
        yield self.diagnostic(
            training.span("gradient_accumulation_steps", "batch_size") or layers[0].span,
            f"accumulation {steps} ({key}) gives the optimiser {step} ({terms}), but {norms} statistics from "
            f"{samples}{over}: {listed(layers)}",
            module=layers[0].path,
            data={
                "samples": samples,
                "effective_batch_size": total,
                "batch_size": batch,
                "world_size": training.world_size,
                "gradient_accumulation_steps": steps,
                "threshold": ENOUGH_SAMPLES,
                "layers": [layer.path for layer in layers],
                "key": key,
                "source": training.origin("gradient_accumulation_steps"),
            },
            fix=_fix(context, layers, samples),
        )


def _fix(context: Context, layers: list[Layer], samples: int) -> Fix:
    """GroupNorm in place of the layers; advice where another number of ranks or samples would do."""
    training = context.training
    advice = (
        f"Give batch norm {ENOUGH_SAMPLES} or more samples (a larger batch per device with less accumulation, "
        "SyncBatchNorm over several ranks), or use GroupNorm or frozen norms"
    )
    alone = training.strategy in ("dp", "none") or training.device in ("cpu", "mps")
    ranks = 1 if alone else training.world_size or 1
    if samples == training.batch_size and samples * ranks >= ENOUGH_SAMPLES:
        return Fix(advice)
    return context.replace_with_group_norms(layers, advice=advice)
