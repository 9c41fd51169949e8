"""BN408: a synchronised batch norm that not every rank runs."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Span, Valid

CAUSES = {
    "data": "which the values of the input decide",
    "rows": "which the number of selected rows decides",
    "random": "which each rank decides by a random number of its own",
}


class RankDependentSync(Rule):
    """Ranks that skip a SyncBatchNorm leave the others waiting: each call is a collective of all of them.

    In training SyncBatchNorm gathers the statistics of all ranks in the forward pass and reduces its gradient in the
    backward pass. Where an `if` on the data lets one rank pass the layer by, its next collective (that of another
    layer, or of DistributedDataParallel) meets the one that the others wait in.

    ## Why it matters

    With luck the run stops until the timeout of the process group ends it: 10 minutes with NCCL, 30 with other
    backends. Without luck two different collectives of the same size match, and statistics or gradients are those of
    something else. It happens when the data first differ: an image without a box, a sample without a point in range.

    The rule follows values that the forward reads out of tensors (`.item()`, `if mask.any():`), numbers of rows that
    boolean indexing or `nonzero` give, and random numbers (stochastic depth drawn on each rank) to the conditions
    that they decide, and compares how often each side calls synchronised layers. Conditions on configuration, on
    `self.training` and on shapes of the input are the same on all ranks. The rule is silent where both sides call as
    many, where several conditions compare one value (a choice of domain), and in functions that bring the ranks to
    agree (`all_reduce`, `broadcast`).

    Random numbers are the same on all ranks as long as all of them are seeded alike and draw alike; one augmentation
    in the main process ends that.

    ## Fix safety

    Advice only. SyncBatchNorm takes part with an empty batch (since torch 1.12), so that the layer may simply be called
    with no rows.

    ## References

    - [PyTorch: SyncBatchNorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    - https://github.com/pytorch/pytorch/issues/44957 (a rank that skips the layer) and
      https://github.com/pytorch/pytorch/pull/74944 (empty batches)
    - [PyTorch: torch.distributed](https://docs.pytorch.org/docs/stable/distributed.html), on the timeout of
      `init_process_group`
    """

    code = "BN408"
    name = "rank-dependent-sync"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid(
            """\
class Net(nn.Module):
    def __init__(self, use_norm=True):
        super().__init__()
        self.use_norm = use_norm
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        x = self.conv(x)
        if self.use_norm and self.training and x.shape[0] > 0 and x.size(2) > 1:
            x = self.norm(x)
        return x


model = Net()
""",
            inputs=((3, 4, 4),),
            note="configuration, mode and shapes are the same on all ranks",
        ),
        Valid(
            """\
class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, points):
        inside = points.reshape(-1, 4)
        inside = inside[inside[:, 0] > 0]
        return self.norm(self.embed(inside))


model = Points()
""",
            inputs=((32, 4),),
            note="every rank calls the layer, with as many rows as it has",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        if x.max().item() > 2:
            x = x / 255
        if torch.isnan(x).any():
            raise ValueError("the input has no number")
        return self.norm(self.conv(x))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="what the data decide is not whether the norm runs",
        ),
        Valid(
            """\
class DomainNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.day = nn.SyncBatchNorm(8)
        self.night = nn.SyncBatchNorm(8)
        self.norms = nn.ModuleList([nn.SyncBatchNorm(8), nn.SyncBatchNorm(8)])

    def forward(self, x):
        dark = x.mean().item() < 0
        if dark:
            x = self.night(x)
        else:
            x = self.day(x)
        return self.norms[int(dark)](x)


model = DomainNorm()
""",
            inputs=((8, 4, 4),),
            note="a choice between norms: every rank takes part in as many collectives",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        x = self.linear(x)
        keep = x.sum(1) > 0
        if keep.sum() < 2:
            return x
        return self.norm(x[keep])


model = Net()
""",
            training={"strategy": "ddp", "world_size": 4, "sync_batchnorm": False},
            inputs=((4,),),
            note="a batch norm that does not synchronise waits for nobody",
        ),
        Valid(
            """\
import torch.distributed as dist


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        x = self.linear(x)
        rows = (x.sum(1) > 0).sum()
        if dist.is_initialized():
            dist.all_reduce(rows)
        if rows.item() == 0:
            return x
        return self.norm(x)


model = Net()
""",
            inputs=((4,),),
            note="the ranks agree before they decide",
        ),
        Valid(
            """\
import random


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        if self.training and random.random() < 0.5:
            x = x.flip(0)
        return self.norm(self.linear(x))


model = Net()
""",
            inputs=((4,),),
            note="an augmentation, after which the norm runs in any case",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        x = self.linear(x)
        self.step += 1
        return self.norm(x) if self.step.item() > 1000 else x


model = Net()
""",
            inputs=((4,),),
            note="a counter of the model is the same on all ranks",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        x = self.linear(x)
        return self.norm(x) if x.mean() > 0 else x


model = Net()
""",
            training={"strategy": "ddp", "world_size": 1},
            inputs=((4,),),
            note="one rank waits for nobody",
        ),
        Valid(
            """\
def normalise(norm, x):
    return norm(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        x = self.linear(x)
        if x.mean() > 0:
            return self.norm(x)
        return normalise(self.norm, x - 1)


model = Net()
""",
            inputs=((4,),),
            note="not checked: the other side hands the norm to a function",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        x = self.linear(x)
        keep = x.sum(1) > 0
        if keep.sum() < 2:
            return x
        return self.norm(x[keep])


model = Net()
""",
            inputs=((4,),),
            modules=("norm",),
            message="`keep.sum() < 2`",
            note="an early return",
        ),
        Invalid(
            """\
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU())

    def forward(self, x):
        return x + self.body(x)


class Regions(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.block = Block()
        self.head = nn.Linear(8, 2)

    def refine(self, points):
        found = torch.nonzero(points[:, 0] > 0).squeeze(1)
        count = found.shape[0]
        if count > 1:
            return self.block(points[found])
        return points.new_zeros(0, 8)

    def forward(self, points):
        return self.head(self.refine(self.embed(points.reshape(-1, 4))))


model = Regions()
""",
            training={"strategy": "ddp", "world_size": 8, "sync_batchnorm": True},
            inputs=((32, 4),),
            modules=("block.body.1",),
            message="number of selected rows",
            note="in a method that forward calls; the configuration synchronises",
        ),
        Invalid(
            """\
import random


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.layers = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 1), nn.SyncBatchNorm(8)) for _ in range(3)])

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            if self.training and random.random() < 0.1:
                continue
            x = x + layer(x)
        return x


model = Net()
""",
            inputs=((3, 4, 4),),
            modules=("layers.0.1",),
            message="3 synchronised batch norms",
            note="stochastic depth, drawn on each rank",
        ),
        Invalid(
            """\
class Drop(nn.Module):
    def __init__(self, p=0.2):
        super().__init__()
        self.p = p
        self.conv = nn.Conv2d(8, 8, 1)
        self.norm = nn.SyncBatchNorm(8)

    def forward(self, x):
        skip = self.training and torch.rand(1).item() < self.p
        return x if skip else x + self.norm(self.conv(x))


model = nn.Sequential(nn.Conv2d(3, 8, 1), Drop(), Drop())
""",
            inputs=((3, 4, 4),),
            modules=("1.norm",),
            message="random number",
            note="one finding for the line of a class that the model uses twice",
        ),
        Invalid(
            """\
class Refine(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4), nn.Tanh())

    def forward(self, x):
        for _ in range(4):
            x = self.cell(x)
            if x.abs().max().item() < 0.5:
                break
            x = self.cell(x)
        return x


model = Refine()
""",
            inputs=((4,),),
            modules=("cell.1",),
            note="a loop that ends when the values say so",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        layers = {layer.path: layer for layer in context.norms("batch") if _waits(layer, context)}
        found: dict[Span, tuple[Span, str, str, dict[str, Layer]]] = {}
        for branch in context.branches(layers.values()):
            if not branch.decided:
                yield self.not_checked(
                    f"how often each side of `{branch.text}` (line {branch.condition.line}) runs a synchronised batch "
                    f"norm is not known"
                )
                continue
            skipped = {path: layers[path] for path in branch.skipped}
            found.setdefault(branch.condition, (branch.call, branch.text, branch.cause, {}))[3].update(skipped)
        for condition, (call, text, cause, skipped) in found.items():
            names = list(skipped)
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
            yield self.diagnostic(
                call,
                f"{len(names)} synchronised batch norm{'s' * (len(names) > 1)} ({shown}) run{'s' * (len(names) == 1)} "
                f"only on one side of `{text}`, {CAUSES[cause]}: ranks that skip "
                f"{'them' if len(names) > 1 else 'it'} leave the others waiting",
                module=names[0],
                related=((condition, "the condition"),),
                data={"layers": names, "cause": cause, "condition": text},
                fix=Fix(
                    "Run the layer on every rank, with an empty batch where there is nothing to normalise, or let the "
                    "ranks agree on the condition (all_reduce) before it"
                ),
            )


def _waits(layer: Layer, context: Context) -> bool:
    """Whether a batch norm synchronises with other ranks in training; an unknown number of them counts."""
    synchronised = layer.sync or (bool(context.training.sync_batchnorm) and not layer.custom)
    return synchronised and layer.training and (context.ranks(layer) or 2) > 1
