"""BN402: a SyncBatchNorm that raises where it runs, or that has nobody to synchronise with."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    Layer,
    NotChecked,
    Rule,
    Severity,
    Span,
    TrainingConfig,
    Valid,
    listed,
)

CONVERTED = "converted"
_WITH_GROUP = ("ddp", "fsdp", "deepspeed")  # strategies that initialise a process group, also for one process


@dataclass(frozen=True)
class _Outcome:
    """What becomes of the synchronisation in this run."""

    severity: Severity
    words: str
    advice: str


class SyncBatchNormUnsupported(Rule):
    """SyncBatchNorm synchronises CUDA tensors within a process group; elsewhere it raises or is a plain batch norm.

    Run on torch 2.13, CPU, gloo:

    | run | SyncBatchNorm |
    |---|---|
    | group of 1 or 2 processes | raises `SyncBatchNorm expected input tensor to be on GPU or XPU or privateuseone` |
    | the same, under DistributedDataParallel | raises `SyncBatchNorm layers only work with GPU modules` |
    | no process group | no error, no warning: output and statistics equal those of BatchNorm2d bit for bit |

    DistributedDataParallel raises when it wraps the model, for layers in eval mode as well. MPS was not run:
    torch's source refuses it with the first of these messages.

    ## Why it matters

    On the CPU or on MPS the run ends in its first forward: an error. Under DataParallel every replica
    normalises its own slice, although the configuration says otherwise: an error too. In a run that never
    initialises a process group the statistics come from one process alone, and nobody is told: a warning.
    Older releases raised `Default process group has not been initialized` there.

    A run of one process, such as a debugging run, is information only: there is nothing to synchronise with,
    and the batch norm is the same as without SyncBatchNorm. It does not show what the distributed run will do.
    With a process group it still raises on the CPU.

    `sync_batchnorm` in the configuration counts like SyncBatchNorm in the model, for the layers that
    `convert_sync_batchnorm` converts. There is one finding for each line that constructs a SyncBatchNorm, and one
    for all layers that were converted: they have one cause. Layers in eval mode do not synchronise and only count under
    DistributedDataParallel on the CPU, which refuses them as well.

    ## Fix safety

    Advice only: the device and the launcher are chosen elsewhere.

    ## References

    - [PyTorch: SyncBatchNorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    - https://github.com/pytorch/pytorch/issues/63662 (a plain batch norm where there is no process group)
    """

    code = "BN402"
    name = "sync-batch-norm-unsupported"
    severity = Severity.ERROR
    needs = ("modules",)

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.SyncBatchNorm(8))",
            training={"strategy": "ddp", "world_size": 4, "device": "cuda"},
            inputs=((3, 4, 4),),
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "device": "cpu", "sync_batchnorm": False},
            inputs=((3, 4, 4),),
            note="plain batch norm runs anywhere",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))",
            training={"strategy": "ddp", "world_size": 4, "device": "cpu", "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            note="the flag finds no batch norm to convert",
        ),
        Valid(
            "model = nn.SyncBatchNorm(8)",
            training={"strategy": "ddp", "world_size": 1, "device": "cuda"},
            inputs=((8, 4, 4),),
            note="a process group of one: no synchronisation is asked of it",
        ),
        Valid(
            "model = nn.SyncBatchNorm(8)",
            training={"strategy": "ddp", "world_size": 4},
            inputs=((8, 4, 4),),
            note="device unknown",
        ),
        Valid("model = nn.SyncBatchNorm(8)", inputs=((8, 4, 4),), note="strategy unknown"),
        Valid(
            """\
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.SyncBatchNorm(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)


model = Frozen()
""",
            training={"strategy": "none"},
            inputs=((8, 4, 4),),
            note="in eval mode it uses its running statistics and synchronises nothing",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.SyncBatchNorm(8))",
            training={"strategy": "ddp", "world_size": 2, "device": "cpu"},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="SyncBatchNorm layers only work with GPU modules",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "fsdp", "world_size": 2, "device": "mps", "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            modules=("0",),
            message="in 2 layers (0, 2, converted by --sync-bn)",
            note="the configuration converts: one finding for all layers",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(8)
        self.second = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.second(self.first(x))


model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
""",
            training={"strategy": "none"},
            inputs=((8, 4, 4),),
            modules=("first",),
            message="in 2 layers (first, second, converted",
            note="the program converts: one finding for all layers",
        ),
        Invalid(
            "model = nn.Sequential(nn.SyncBatchNorm(8), nn.SyncBatchNorm(8))",
            training={"strategy": "ddp", "world_size": 1, "device": "cpu"},
            inputs=((8, 4, 4),),
            modules=("0", "1"),
            note="a group of one process raises on the CPU too",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "dp", "world_size": 4, "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="DataParallel",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.SyncBatchNorm(8))",
            training={"strategy": "none"},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="no process group",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"world_size": 1, "device": "cpu", "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="the only process",
            note="a debugging run: information, since plain batch norm gives the same numbers there",
        ),
        Invalid(
            """\
class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.SyncBatchNorm(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.conv(x))


model = Frozen()
""",
            training={"strategy": "ddp", "world_size": 2, "device": "cpu"},
            inputs=((3, 4, 4),),
            modules=("norm",),
            note="DistributedDataParallel refuses the layer whatever its mode",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        layers = [layer for layer in context.norms("batch") if _synchronised(layer, training)]
        if not _refused_in_any_mode(training):
            layers = [layer for layer in layers if layer.training]
        if not layers:
            return
        outcome = _outcome(training)
        if isinstance(outcome, str):
            yield self.not_checked(outcome)
            return
        if outcome is None:
            return
        run = training.span("device", "strategy", "world_size")
        places: dict[Span | str | None, list[Layer]] = defaultdict(list)
        for layer in layers:
            places[CONVERTED if _is_converted(layer, context) else layer.span].append(layer)
        for place, group in places.items():
            converted = place == CONVERTED and bool(training.sync_batchnorm)
            by = (
                f", converted by {training.key('sync_batchnorm')}"
                if converted
                else ", converted" * (place == CONVERTED)
            )
            yield self.diagnostic(
                (training.span("sync_batchnorm", "strategy", "world_size", "device") if converted else None)
                or group[0],
                f"SyncBatchNorm in {len(group)} layer{'s' * (len(group) > 1)} ({listed(group)}{by}) {outcome.words}",
                module=group[0].path,
                severity=outcome.severity,
                related=() if run is None else ((run, "the run is configured here"),),
                data={
                    "layers": [layer.path for layer in group],
                    "device": training.device,
                    "strategy": training.strategy,
                    "world_size": training.world_size,
                    "key": training.key("sync_batchnorm") if converted else None,
                    "source": training.origin("sync_batchnorm") if converted else None,
                },
                fix=Fix(outcome.advice),
            )


def _synchronised(layer: Layer, training: TrainingConfig) -> bool:
    return layer.sync or (bool(training.sync_batchnorm) and not layer.custom)


def _is_converted(layer: Layer, context: Context) -> bool:
    """Whether a SyncBatchNorm was a plain batch norm; its place is then the conversion or the old constructor."""
    span = layer.span
    source = None if span is None else context.read_source(span.path)
    if not layer.sync or span is None or source is None:
        return not layer.sync
    call = source.call_at(span.line, span.column, span.end_line, span.end_column)
    name = "" if call is None else ast.unparse(call.func).rpartition(".")[2]
    return name.startswith(("BatchNorm", "convert_sync"))


def _refused_in_any_mode(training: TrainingConfig) -> bool:
    return training.strategy == "ddp" and training.device == "cpu"


def _outcome(training: TrainingConfig) -> _Outcome | str | None:
    """What SyncBatchNorm does in this run; None when it works, a sentence when that is not known."""
    ranks, strategy, device = training.world_size, training.strategy, training.device
    if strategy in _WITH_GROUP or (strategy is None and (ranks or 1) > 1):
        if device is None:
            return "device unknown (give --device)"
        if device == "cuda":
            return None
        error = "SyncBatchNorm expected input tensor to be on GPU or XPU or privateuseone"
        if _refused_in_any_mode(training):
            error = "SyncBatchNorm layers only work with GPU modules"
        return _Outcome(
            Severity.ERROR,
            f"cannot run on {training.key('device')} {device} with a process group: PyTorch raises '{error}'",
            "Train on CUDA devices, or without synchronisation on this device: its batch norms stay plain",
        )
    if strategy == "dp":
        if ranks == 1:
            return None
        over = f" {ranks}" if ranks else ""
        return _Outcome(
            Severity.ERROR,
            f"does not synchronise under DataParallel ({training.key('strategy')}): there is no process group, each of "
            f"the{over} replicas normalises its own slice of the batch",
            "Use DistributedDataParallel with one process per device",
        )
    if strategy is None and ranks is None:
        return "strategy unknown (give --strategy)"
    if ranks == 1:
        return _Outcome(
            Severity.INFO,
            "has nothing to synchronise with: this is the only process, and without a process group current "
            "releases of PyTorch run a plain batch norm (older ones raise)",
            "Use plain batch norm for a run of one process, or launch several with DistributedDataParallel",
        )
    return _Outcome(
        Severity.WARNING,
        "does not synchronise: the run initialises no process group, so current releases of PyTorch silently run a "
        "plain batch norm over this process's batch (older ones raise)",
        "Launch the run with torchrun and DistributedDataParallel, or use plain batch norm",
    )
