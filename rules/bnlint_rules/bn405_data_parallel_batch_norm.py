"""BN405: batch norm whose replicas each see a slice of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Rule, Severity, Valid, listed


class DataParallelBatchNorm(Rule):
    """Under DataParallel each replica normalises its own slice, and only replica 0 keeps its running statistics.

    DataParallel cuts the batch of the one process with `torch.chunk`: 10 samples on 4 devices become 3, 3, 3
    and 1, and 6 samples on 8 devices are six slices of 1.

    ## Why it matters

    The batch size that the configuration states is not the one that batch norm sees. The replicas are copied
    anew for each forward from device 0 and thrown away after it: what they add to `running_mean` and
    `running_var` is lost, except on device 0, whose buffers are the model's own. Evaluation then uses
    statistics of a part of the data, and of the largest slice.

    The rule is silent for one device, for layers in eval mode, frozen layers and norms without running
    statistics. A slice that is too small to normalise is BN101's.

    ## Fix safety

    Advice only: DistributedDataParallel is another launcher and another batch size per process.

    ## References

    - [PyTorch: DataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.DataParallel.html), on
      updates to the module in forward
    - [PyTorch: SyncBatchNorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    """

    code = "BN405"
    name = "data-parallel-batch-norm"
    severity = Severity.WARNING
    needs = ("modules", "training.strategy")

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "batch_size": 4},
            inputs=((3, 4, 4),),
            note="missing synchronisation under DDP is BN401's",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))",
            training={"strategy": "dp", "world_size": 4, "total_batch_size": 16},
            inputs=((3, 4, 4),),
            note="group norm does not look at other samples",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "dp", "world_size": 1, "batch_size": 16},
            inputs=((3, 4, 4),),
            note="one device: DataParallel calls the model itself",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "dp", "world_size": 4, "total_batch_size": 16, "frozen": ["1"]},
            inputs=((3, 4, 4),),
            note="frozen",
        ),
        Valid(
            """\
class Backbone(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


model = Backbone(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
""",
            training={"strategy": "dp", "world_size": 4, "total_batch_size": 16},
            inputs=((3, 4, 4),),
            note="in eval mode every replica uses the same running statistics",
        ),
        Valid(
            """\
class FrozenBatchNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.eps = 1e-5
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x):
        scale = (self.running_var + self.eps).rsqrt()
        return (x - self.running_mean[:, None, None]) * scale[:, None, None]


model = nn.Sequential(nn.Conv2d(3, 8, 1), FrozenBatchNorm(8))
""",
            training={"strategy": "dp", "world_size": 4, "total_batch_size": 16},
            inputs=((3, 4, 4),),
            note="constants that look like running statistics: nothing updates them",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))",
            training={"strategy": "dp", "world_size": 4, "total_batch_size": 10},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="10 samples are split into 3, 3, 3 and 1",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "dp", "world_size": 8, "total_batch_size": 6},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="6 slices of 1",
            note="fewer samples than devices",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"strategy": "dp"},
            inputs=((8, 4, 4),),
            message="replica 0",
            note="neither the batch nor the number of devices is needed to know that slices are normalised",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        training = context.training
        if training.strategy != "dp" or training.world_size == 1:
            return
        layers = [layer for layer in context.updating_norms() if layer.kind == "batch" and not context.frozen(layer)]
        if not layers:
            return
        samples = training.samples_per_forward
        slices = training.replicas(samples) if samples and training.world_size else ()
        split = share = ""
        if slices:
            split = f": {samples} samples are split into {_sizes(slices)}"
            share = f", those of {slices[0]} of {samples} samples"
        norms = "1 batch norm normalises" if len(layers) == 1 else f"{len(layers)} batch norms normalise"
        yield self.diagnostic(
            training.span("strategy", "world_size") or layers[0],
            f"{norms} each DataParallel replica's slice of the batch on its own{split}; only the running statistics "
            f"of replica 0 survive{share}. Layers: {listed(layers)}",
            module=layers[0].path,
            data={
                "samples": samples,
                "devices": training.world_size,
                "replicas": list(slices),
                "layers": [layer.path for layer in layers],
                "key": training.key("strategy"),
                "source": training.origin("strategy"),
            },
            fix=Fix(
                "Use DistributedDataParallel with one process per device, and SyncBatchNorm where slices are small"
            ),
        )


def _sizes(slices: tuple[int, ...]) -> str:
    if len(set(slices)) == 1:
        return f"{len(slices)} slice{'s' * (len(slices) > 1)} of {slices[0]}"
    return f"{', '.join(map(str, slices[:-1]))} and {slices[-1]}"
