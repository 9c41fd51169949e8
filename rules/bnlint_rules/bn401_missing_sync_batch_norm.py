"""BN401: ranks that normalise their few samples each on its own."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Valid, listed

ENOUGH_PER_DEVICE = 16
MODEL = "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))"
SCRIPT = """\
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def train(dataset):
    from lightning import Trainer

    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, drop_last=True)
    Trainer(devices=8, strategy="ddp", sync_batchnorm={flag}).fit(model, loader)
"""
WRAPPED = """\
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten())


def train(dataset, rank):
    dist.init_process_group("nccl", rank=rank, world_size=8)
    net = model.cuda(rank)
{conversion}    net = DistributedDataParallel(net, device_ids=[rank])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in DataLoader(dataset, batch_size=4, drop_last=True):
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    train([], int(os.environ.get("RANK", "0")))
"""
CONVERSION = "    net = nn.SyncBatchNorm.convert_sync_batchnorm(net)\n"
# How a framework that has no flag of true and false is told to synchronise.
WRITTEN = {
    "detectron2": "Write NORM: SyncBN for the parts of MODEL, such as MODEL.RESNETS.NORM and MODEL.FPN.NORM",
    "mmdet2": "Write type='SyncBN' in the norm_cfg of the model",
    "mmengine": "Write sync_bn='torch' in the configuration",
    "paddledetection": "Write norm_type: sync_bn",
}


class MissingSyncBatchNorm(Rule):
    """Distributed training averages gradients over the ranks; a plain batch norm sees its own rank's samples only.

    With 8 ranks of 4 samples the optimiser takes a batch of 32 and each batch norm a batch of 4. A
    SyncBatchNorm takes its statistics from all 32. The rule speaks for more than one rank under DDP, FSDP or
    DeepSpeed with fewer than 16 samples per rank.

    ## Why it matters

    Statistics of few samples are noisy (BN103 gives the numbers, below 8), and every rank normalises
    differently. Detection and segmentation networks, which fit few images into memory, gain from synchronised
    statistics; with 16 or more samples per rank the gain is lost in the cost of communication. Running
    statistics are in most set-ups those of rank 0 alone (BN406).

    More than one rank of an unstated strategy means DDP, since every launcher starts it that way. Silent for
    frozen layers, norms in eval mode, DataParallel (BN405), and on CPU and MPS, where SyncBatchNorm
    does not work (BN402). A run under DDP with an unknown number of ranks is reported too: there is no other
    reason for the wrapper.

    ## Fix safety

    Unsafe: training changes, and a conversion loses what subclasses of batch norm add (BN403). There is an edit
    where the training file or the script states the framework's own flag as false, or could state it, and no other
    file builds on that one; and where a script wraps its models, which it then converts before,
    `model = nn.SyncBatchNorm.convert_sync_batchnorm(model)`. Otherwise it is advice: for what the framework wants to be
    told in other words, for models that lose something in the conversion (BN403) or skip layers (BN408), and for
    processes on CPUs, where SyncBatchNorm does not work (BN402).

    ## References

    - https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html
    - Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2018, https://arxiv.org/abs/1711.07240
    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    """

    code = "BN401"
    name = "missing-sync-batch-norm"
    severity = Severity.WARNING
    needs = ("modules", "training.batch_size")
    fixable = True

    valid = (
        Valid(
            MODEL,
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp", "sync_batchnorm": True},
            note="the repaired twin",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8))",
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp"},
            note="the layers are synchronised already",
        ),
        Valid(MODEL, training={"batch_size": 4, "world_size": 1, "strategy": "ddp"}, note="one rank"),
        Valid(MODEL, training={"batch_size": 4, "strategy": "none"}, note="no process group"),
        Valid(
            MODEL,
            training={"batch_size": 16, "world_size": 8, "strategy": "ddp"},
            note="16 samples per rank are enough",
        ),
        Valid(
            MODEL,
            training={"batch_size": 4, "world_size": 8, "strategy": "dp"},
            note="DataParallel cannot synchronise: BN405",
        ),
        Valid(
            MODEL,
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp", "frozen": ["1"]},
            note="frozen layers",
        ),
        Valid(
            """\
class FrozenBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.backbone(x)


model = FrozenBackbone()
""",
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp"},
            note="norms in eval mode use their running statistics",
        ),
        Valid(
            MODEL,
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp", "device": "cpu"},
            note="SyncBatchNorm does not run on CPU",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8))",
            training={"batch_size": 1, "world_size": 8, "strategy": "ddp"},
            note="group norm has nothing to synchronise",
        ),
        Valid(MODEL, training={"batch_size": 4}, note="strategy and number of ranks unknown"),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8))",
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp"},
            modules=("1",),
            message="4 samples of each of 8 ranks (ddp) on their own, SyncBatchNorm would take 32: 1, 3",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 2, "world_size": 4, "strategy": "fsdp", "sync_batchnorm": False},
            modules=("1",),
            message="4 ranks (fsdp)",
            note="switched off by the configuration",
        ),
        Invalid(
            MODEL,
            training={"total_batch_size": 16, "world_size": 8},
            modules=("1",),
            message="2 samples of each of 8 ranks (strategy not stated, taken for ddp)",
            note="several ranks of an unstated strategy: launchers start them for DDP",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 4, "strategy": "ddp"},
            modules=("1",),
            message="4 samples of each rank (ddp, their number is not stated)",
            note="wrapped in DDP, started by a launcher",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.SyncBatchNorm(8))",
            training={"batch_size": 4, "world_size": 8, "strategy": "ddp"},
            modules=("0",),
            message="1 batch norm",
            note="a part of the model was converted",
        ),
        Invalid(
            SCRIPT.format(flag=False),
            fixed=SCRIPT.format(flag=True),
            modules=("1",),
            message="4 samples of each of 8 ranks (ddp)",
            note="the script states the flag as false",
        ),
        Invalid(
            SCRIPT.replace(", sync_batchnorm={flag}", ""),
            fixed=SCRIPT.format(flag=True),
            modules=("1",),
            message="4 samples of each of 8 ranks (ddp)",
            note="the script does not state the flag",
        ),
        Invalid(
            WRAPPED.format(conversion=""),
            fixed=WRAPPED.format(conversion=CONVERSION),
            inputs=((3, 4, 4),),
            modules=("1",),
            message="4 samples of each of 8 ranks (ddp)",
            note="the script wraps the model",
        ),
        Invalid(
            WRAPPED.format(conversion="")
            .replace("    net = model.cuda(rank)\n", "")
            .replace("l(net,", "l(model.cuda(rank),"),
            fixed=WRAPPED.format(conversion="")
            .replace("    net = model.cuda(rank)\n", "")
            .replace("l(net,", "l(nn.SyncBatchNorm.convert_sync_batchnorm(model.cuda(rank)),"),
            inputs=((3, 4, 4),),
            modules=("1",),
            note="the wrapped model has no name",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        strategy, ranks, batch = training.strategy, training.world_size, context.batch_size
        if strategy in ("dp", "none") or ranks == 1 or training.sync_batchnorm or training.device in ("cpu", "mps"):
            return
        if batch >= ENOUGH_PER_DEVICE:
            return
        layers = [
            layer
            for layer in context.batch_norms(training=True)
            if not layer.sync and not layer.custom and not context.frozen(layer)
        ]
        if not layers:
            return
        if ranks is None and (strategy is None or training.is_default("strategy")):
            yield self.not_checked("number of ranks unknown (give --world-size)")
            return
        norms = "1 batch norm normalises" if len(layers) == 1 else f"{len(layers)} batch norms normalise"
        words = strategy or "strategy not stated, taken for ddp"
        if ranks is None:
            over = (
                f"the {batch} sample{'s' * (batch > 1)} of each rank ({words}, their number is not stated) on its own"
            )
        else:
            over = (
                f"the {batch} sample{'s' * (batch > 1)} of each of {ranks} ranks ({words}) on their own, SyncBatchNorm "
                f"would take {batch * ranks}"
            )
        facts = ("sync_batchnorm", "strategy", "world_size", "batch_size")
        stated = next((name for name in facts if training.span(name)), None)
        if stated is None:
            stated = "sync_batchnorm" if "sync_batchnorm" in training.sources else "batch_size"
        yield self.diagnostic(
            training.span(stated) or layers[0].span,
            f"{norms} {over}: {listed(layers)}",
            module=layers[0].path,
            data={
                "batch_size": batch,
                "world_size": ranks,
                "strategy": strategy,
                "samples": None if ranks is None else batch * ranks,
                "threshold": ENOUGH_PER_DEVICE,
                "layers": [layer.path for layer in layers],
                "key": training.key(stated),
                "source": training.origin(stated),
            },
            fix=_fix(context, layers),
        )


def _fix(context: Context, layers: list[Layer]) -> Fix:
    """What the framework wants to be told, its own flag where there is one, else the conversion."""
    training = context.training
    source = training.sources.get("sync_batchnorm")
    if source is not None and source.key == "convert_sync_batchnorm":
        return Fix(f"Run the conversion at {source.text}, which this run leaves out")
    key = "sync_batchnorm" if source is None else source.key
    written = [title for framework, title in WRITTEN.items() if framework in context.frameworks]
    title = written[0] if written else f"Turn on synchronised batch norm with {key}"
    is_fine = _may_be_converted(context, layers)
    fix = context.state_facts({"sync_batchnorm": True}, title=title) if is_fine else Fix(title)
    if is_fine and not fix.edits and key == "Trainer.sync_batchnorm":
        return context.ask_trainer(title=title)
    if fix.edits or written or (source is not None and key is not None):
        return fix
    title = "Convert before the wrap: model = nn.SyncBatchNorm.convert_sync_batchnorm(model)"
    return context.convert_before_wrap(title=title) if is_fine else Fix(title)


def _may_be_converted(context: Context, layers: list[Layer]) -> bool:
    """Whether a conversion loses nothing (BN403), undoes none that was made, and no rank skips a layer (BN408)."""
    norms = list(context.norms("batch"))
    if any(layer.sync or context.lost_in_conversion(layer, converted=False) for layer in norms):
        return False
    return not any(True for _ in context.branches(layers))
