"""BN406: running statistics that each rank keeps for itself."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    NotChecked,
    Rule,
    Severity,
    Valid,
    listed,
    torch_version,
)

_KEEPS_VERSIONS = (2, 13)  # from this release on the broadcast keeps the version counters of the buffers
SCRIPT = """\
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten())


def main(loader, rank):
    dist.init_process_group("nccl", rank=rank)
    net = DistributedDataParallel(
        model.cuda(rank),
        broadcast_buffers={flag},  # two critics
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in loader:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([], int(os.environ.get("RANK", "0")))
"""


class UnsyncedBuffers(Rule):
    """Without `broadcast_buffers` every DDP rank keeps its own running statistics; a checkpoint holds those of one.

    Two gloo ranks with torch 2.13, inputs around 0 on one and around 10 on the other, three steps: the running
    means are 1.7 and 10.4. With `broadcast_buffers=True` both start each step from those of rank 0.

    ## Why it matters

    The ranks validate with different models: their metrics differ, and early stopping may decide differently.
    The checkpoint, written by rank 0, knows the statistics of its share of the data only: 1 / ranks of it.
    `broadcast_buffers=True` makes the ranks agree, on rank 0's statistics; SyncBatchNorm, or an average over
    the ranks before each evaluation, uses the data of all.

    Frameworks that hard-code `broadcast_buffers=False` (MMDetection, MMEngine, Pointcept) make the finding
    information: it is true of the run, but nobody chose it.

    The rule is silent when the batch norms are synchronised or the buffers are averaged over the ranks
    (`reduce_buffers`), for one rank, frozen layers, layers in eval mode and norms without running statistics.

    ## Fix safety

    Unsafe: evaluation changes. The fix writes True where a script or a configuration states `broadcast_buffers` as
    False. Before torch 2.13 it is advice: a second forward before the backward may be why it is off (BN407).

    ## References

    - [PyTorch: DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html),
      argument `broadcast_buffers`
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, https://arxiv.org/abs/2105.07576
    """

    code = "BN406"
    name = "unsynced-buffers"
    severity = Severity.WARNING
    needs = ("modules", "training.broadcast_buffers")
    fixable = True

    valid = (
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": True},
            inputs=((3, 4, 4),),
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False, "sync_batchnorm": True},
            inputs=((3, 4, 4),),
            note="synchronised batch norms compute the same statistics on every rank",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False, "reduce_buffers": True},
            inputs=((3, 4, 4),),
            note="the statistics are averaged over the ranks before evaluation",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 1, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            note="one rank",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, track_running_stats=False))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            note="no buffers to diverge",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).requires_grad_(False))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            note="frozen: that it still updates is BN303's",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
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
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            note="constants that look like running statistics: nothing updates them",
        ),
        Valid("model = nn.BatchNorm2d(8)", training={"broadcast_buffers": False}, note="strategy unknown"),
    )
    invalid = (
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))",
            training={"strategy": "ddp", "world_size": 4, "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="(--no-broadcast-buffers), so the running statistics of 2 norms (1, 3) diverge between 4 ranks",
        ),
        Invalid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, track_running_stats=True))",
            training={"strategy": "ddp", "broadcast_buffers": False},
            inputs=((3, 4, 4),),
            modules=("1",),
            message="between the ranks",
            note="an instance norm that tracks, over an unknown number of ranks",
        ),
        Invalid(
            "model = nn.BatchNorm2d(8)",
            training={"world_size": 2, "broadcast_buffers": False},
            inputs=((8, 4, 4),),
            note="broadcast_buffers and several ranks mean DDP",
        ),
        Invalid(
            SCRIPT.format(flag=False),
            fixed=SCRIPT.format(flag=True),
            inputs=((3, 4, 4),),
            modules=("1",),
            message="(DistributedDataParallel.broadcast_buffers)",
            note="the script turns it off",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        ranks = training.world_size
        if training.broadcast_buffers or training.reduce_buffers or ranks == 1:
            return
        if training.strategy not in ("ddp", None):
            return
        layers = [
            layer
            for layer in context.updating_norms()
            if (layer.kind == "instance" or context.ranks(layer) == 1) and not context.frozen(layer)
        ]
        if not layers:
            return
        if training.strategy is None and ranks is None:
            yield self.not_checked("strategy unknown (give --strategy)")
            return
        if ranks is None and training.is_default("strategy"):
            yield self.not_checked("number of ranks unknown (give --world-size)")
            return
        hard_coded = training.is_default("broadcast_buffers")
        origin = training.origin("broadcast_buffers") or ""
        framework = origin.removeprefix("default of ") or "the framework"
        between = f"{ranks} ranks" if ranks else "the ranks"
        share = f", from 1/{ranks} of the data" if ranks else ""
        by = f", hard-coded by {framework}" if hard_coded else ""
        yield self.diagnostic(
            training.span("broadcast_buffers", "strategy", "world_size") or layers[0],
            f"buffers are not broadcast ({training.key('broadcast_buffers')}{by}), so the running statistics of "
            f"{len(layers)} norm{'s' * (len(layers) > 1)} ({listed(layers)}) diverge between {between}: the checkpoint "
            f"holds those of rank 0{share}",
            module=layers[0].path,
            severity=Severity.INFO if hard_coded else None,
            data={
                "world_size": ranks,
                "hard_coded": hard_coded,
                "layers": [layer.path for layer in layers],
                "key": training.key("broadcast_buffers"),
                "source": training.origin("broadcast_buffers"),
            },
            fix=_fix(context, hard_coded=hard_coded),
        )


def _fix(context: Context, *, hard_coded: bool) -> Fix:
    """Turns the broadcast on where a file turns it off; advice for a framework that does, and before torch 2.13."""
    if hard_coded:
        return Fix("Average the running statistics over the ranks before each evaluation, or use SyncBatchNorm")
    title = "Leave broadcast_buffers on, or use SyncBatchNorm, which sees the data of all ranks"
    place = context.training.span("broadcast_buffers")
    is_variable = place is not None and place.path.endswith(".py") and not context.is_argument(place)
    if is_variable or (torch_version() or (0, 0)) < _KEEPS_VERSIONS:
        return Fix(title)
    return context.state_facts({"broadcast_buffers": True}, title=title)
