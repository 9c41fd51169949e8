"""BN101: a batch norm that sees one value per channel raises in training."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, NormCall, NotChecked, Rule, Severity, Valid, pieces

TRIED_BATCH_SIZES = (2, 3, 4, 5, 6, 7, 8, 16, 32, 64)


class SingleValuePerChannel(Rule):
    """Batch norm cannot be trained on one value per channel: PyTorch raises an error in the forward pass.

    The number of values per channel is the batch size per device times the number of spatial positions. It
    is 1 when the batch size is 1 and the feature map has been pooled, strided or flattened to a single
    position.

    ## Why it matters

    The variance of one value is zero, so the normalised output would be the bias whatever the input.
    PyTorch refuses: `ValueError: Expected more than 1 value per channel when training`. A crashing model
    often has several such layers, and the traceback names only the first one that runs. This rule lists all
    of them, each with the smallest batch size at which it works. Batch size 2 stops the error and nothing
    more: see BN109.

    A SyncBatchNorm over two or more ranks skips PyTorch's check, so it is not reported. Layers that the
    model keeps in eval mode use their running statistics and are not reported either. A layer whose rows
    are counted at run time is left to BN105.

    `DataParallel` cuts the batch of the process over its devices, the last piece often smaller: 10 samples on
    4 devices are 3, 3, 3 and 1. The smallest piece decides.

    ## Fix safety

    The fix replaces the layer by a GroupNorm whose groups hold enough values at the traced shape, and with it
    the other layers that the line builds, whose width may be a variable; the groups divide the widths in the other
    models of the file too. That changes training and the names in checkpoints, so it is unsafe. It is advice where
    such a layer is kept frozen, weights are loaded or can be fetched by the file, or the project reads running
    statistics, as code does that folds batch norms into convolutions.
    InstanceNorm is no way out: it raises on one position too.

    ## References

    - Ioffe and Szegedy, "Batch Normalization", 2015, https://arxiv.org/abs/1502.03167
    - Wu and He, "Group Normalization", 2018, https://arxiv.org/abs/1803.08494
    - https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """

    code = "BN101"
    name = "single-value-per-channel"
    severity = Severity.ERROR
    needs = ("graph",)
    fixable = True

    valid = (
        Valid("model = nn.BatchNorm2d(8)", training={"batch_size": 1}, inputs=((8, 4, 4),)),
        Valid("model = nn.BatchNorm1d(8)", training={"batch_size": 2}, inputs=((8,),), note="BN109 speaks here"),
        Valid("model = nn.BatchNorm1d(8)", inputs=((8,),), note="batch size unknown: said under not checked"),
        Valid("model = nn.GroupNorm(2, 8)", training={"batch_size": 1}, inputs=((8,),)),
        Valid(
            "model = nn.SyncBatchNorm(8)",
            training={"batch_size": 1, "world_size": 2, "strategy": "ddp"},
            inputs=((8, 1, 1),),
            note="SyncBatchNorm over two ranks skips the one-value check",
        ),
        Valid(
            """\
class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(x)

model = Head()
""",
            training={"batch_size": 1},
            inputs=((8,),),
            note="a norm that the model keeps in eval mode uses its running statistics",
        ),
        Valid(
            """\
class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x.flatten(0, 1))

model = Scorer()
""",
            training={"batch_size": 1},
            inputs=((5, 8),),
            note="the folded time axis feeds the statistics too: 5 values at batch size 1",
        ),
        Valid(
            """\
class Unchecked(nn.Module):
    def forward(self, x):
        return torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)


model = Unchecked()
""",
            training={"batch_size": 1},
            inputs=((4,),),
            note="the check is in torch.nn.functional: torch.batch_norm gives zeros and raises nothing",
        ),
        Valid(
            "model = nn.BatchNorm1d(8)",
            training={"total_batch_size": 9, "world_size": 4, "strategy": "dp"},
            inputs=((8,),),
            note="DataParallel makes 3, 3 and 3 of 9 samples, and leaves a device idle",
        ),
        Valid(
            """\
class GhostBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // 11))])


model = GhostBatchNorm()
""",
            training={"batch_size": 101},
            inputs=((4,),),
            note="virtual batches of 11: the last of 10 pieces of 101 rows has 2",
        ),
        Valid(
            """\
class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        try:
            return self.norm(x)
        except ValueError:
            return x

model = Guarded()
""",
            training={"batch_size": 1},
            inputs=((8,),),
            note="the model catches what the norm raises",
        ),
    )

    invalid = (
        Invalid(
            "model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8))",
            training={"batch_size": 1},
            inputs=((8, 6, 6),),
            fixed="model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.GroupNorm(1, 8))",
            modules=("1",),
            message="smallest batch size that works is 2",
            crashes=True,
        ),
        Invalid(
            """\
class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16, eps=0.001))
        self.excite = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), torch.nn.BatchNorm2d(64))
        self.local = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.BatchNorm2d(64))

    def forward(self, x):
        context = self.excite(self.project(F.adaptive_avg_pool2d(x, 1)))
        return self.local(x) * context

model = Pooling()
""",
            training={"batch_size": 1},
            inputs=((3, 8, 8),),
            fixed="""\
class Pooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.GroupNorm(2, 16, eps=0.001))
        self.excite = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), torch.nn.GroupNorm(8, 64))
        self.local = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.BatchNorm2d(64))

    def forward(self, x):
        context = self.excite(self.project(F.adaptive_avg_pool2d(x, 1)))
        return self.local(x) * context

model = Pooling()
""",
            modules=("project.1", "excite.1"),
            crashes=True,
            note="both layers of the pooled branch, the one that PyTorch would never reach included",
        ),
        Invalid(
            """\
from torch.nn import BatchNorm1d

model = nn.Sequential(nn.Linear(4, 8), BatchNorm1d(8))
""",
            training={"batch_size": 1},
            inputs=((4,),),
            fixed="""\
from torch.nn import BatchNorm1d

model = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(1, 8))
""",
            modules=("1",),
            crashes=True,
            note="a class imported by name, and the package that has GroupNorm",
        ),
        Invalid(
            """\
def norm(nn, width):
    return nn.BatchNorm1d(width)


model = norm(nn, 8)
""",
            training={"batch_size": 1},
            inputs=((8,),),
            crashes=True,
            note="the file does not say what nn is there: the fix is advice",
        ),
        Invalid(
            """\
class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(
            out,  # whatever the stage has
            eps=1e-3,
            momentum=0.1,
        )

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))

model = nn.Sequential(Block(3, 16, 1), Block(16, 24, 4), Block(24, 48, 4))
""",
            training={"batch_size": 1},
            inputs=((3, 16, 16),),
            fixed="""\
class Block(nn.Module):
    def __init__(self, width, out, stride):
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.norm = nn.GroupNorm(
            4, out,  # whatever the stage has
            eps=1e-3,
        )

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))

model = nn.Sequential(Block(3, 16, 1), Block(16, 24, 4), Block(24, 48, 4))
""",
            modules=("2.norm",),
            crashes=True,
            note="one line builds 3 widths: the number of groups divides all, and leaves enough values on 1 position",
        ),
        Invalid(
            """\
def norms(widths):
    return [nn.BatchNorm1d(width) for width in widths]

class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(norms((8, 2)))

    def forward(self, x, y):
        return self.norms[0](x).sum() + self.norms[1](y).sum()

model = Narrow()
""",
            training={"batch_size": 1},
            inputs=((8,), (2,)),
            modules=("norms.0", "norms.1"),
            crashes=True,
            note="two values of a sample normalise to +1 and -1: no edit for a line that builds such a layer",
        ),
        Invalid(
            """\
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x), self.norm(-x)

model = Twins()
""",
            training={"batch_size": 1},
            inputs=((8,),),
            fixed="""\
class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x):
        return self.norm(x), self.norm(-x)

model = Twins()
""",
            modules=("norm",),
            message="2 calls",
            crashes=True,
            note="a shared layer is one finding",
        ),
        Invalid(
            "model = nn.SyncBatchNorm(8)",
            training={"batch_size": 1, "world_size": 1},
            inputs=((8, 1, 1),),
            fixed="model = nn.GroupNorm(1, 8)",
            crashes=True,
            note="with one process SyncBatchNorm is a plain batch norm",
        ),
        Invalid(
            "model = nn.BatchNorm1d(8)",
            training={"total_batch_size": 10, "world_size": 4, "strategy": "dp"},
            inputs=((8,),),
            message="at batch size 1 (the smallest piece: DataParallel cuts 10 samples into 3, 3, 3 and 1)",
            note="the last replica gets what is left",
        ),
        Invalid(
            "model = nn.BatchNorm1d(8)",
            training={"total_batch_size": 6, "world_size": 8, "strategy": "dp"},
            inputs=((8,),),
            message="DataParallel cuts 6 samples into 6 pieces of 1",
            note="fewer samples than devices",
        ),
        Invalid(
            """\
class GhostBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // 10))])


model = GhostBatchNorm()
""",
            training={"batch_size": 101},
            inputs=((4,),),
            modules=("norm",),
            crashes=True,
            note="virtual batches of 10: the last of 11 pieces of 101 rows has 1",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        known = context.training.batch_size is not None
        replicas = _replicas(context)
        batch_size = min(replicas, default=context.batch_size if known else 1)
        vulnerable, undecided = [], []
        calls = context.graph(batch_size).distinct_calls("batch")
        for call, count in calls:
            if call.values != 1 or not call.uses_batch_statistics or call.data_dependent or not call.checked:
                continue
            ranks = context.ranks(call.layer)
            if ranks == 1:
                vulnerable.append((call, count))
            elif ranks is None:
                undecided.append((call, count))

        would = f"would see 1 value per channel at batch size {batch_size}"
        if undecided:
            yield self.not_checked(
                f"number of ranks unknown (give --world-size): on one rank {_names(undecided)} {would}"
            )
        if not known:
            if calls:
                reason = f": {_names(vulnerable)} {would}" if vulnerable else ""
                yield self.not_checked(f"batch size unknown (give --batch-size){reason}")
            return

        inputs = " and ".join(str(shape) for shape in context.graph(batch_size).inputs)
        cut = ""
        if replicas:
            cut = f" (the smallest piece: DataParallel cuts {sum(replicas)} samples into {pieces(replicas)})"
        fed = f"{cut} for the {'assumed ' * context.assumed_inputs}input {inputs}"
        for call, count in vulnerable:
            smallest = _smallest_batch_size(context, call)
            repeated = f" in {count} calls" if count > 1 else ""
            works = (
                "no batch size that was tried helps"
                if smallest is None
                else f"the smallest batch size that works is {smallest}"
            )
            yield self.diagnostic(
                call,
                f"{call.layer.class_name} gets {call.shape}, 1 value per channel{repeated}, at batch size "
                f"{batch_size}{fed}: training raises 'Expected more than 1 value per channel when training'; "
                f"{works}",
                data={
                    "values_per_channel": 1,
                    "min_batch_size": smallest,
                    "input_shape": list(call.shape),
                    "model_inputs": [list(shape) for shape in context.graph(batch_size).inputs],
                    "batch_size": batch_size,
                    "calls": count,
                    **({"replicas": list(replicas)} if replicas else {}),
                },
                fix=call.replace_with_group_norm(),
            )


def _replicas(context: Context) -> tuple[int, ...]:
    """What the devices of a `DataParallel` get; nothing without it, or with an unknown batch or number of devices."""
    training = context.training
    samples = training.samples_per_forward
    return training.replicas(samples) if training.strategy == "dp" and training.world_size and samples else ()


def _names(calls: list[tuple[NormCall, int]]) -> str:
    names = list(dict.fromkeys(call.path or call.layer.class_name for call, _ in calls))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _smallest_batch_size(context: Context, call: NormCall) -> int | None:
    """The smallest batch size at which no call of the layer sees 1 value; None when none was found.

    Traced at every size, because models may split, fold or window the batch axis.
    """
    below = 1
    for size in TRIED_BATCH_SIZES:
        if _works(context, call, size):
            return next((between for between in range(below + 1, size) if _works(context, call, between)), size)
        below = size
    return None


def _works(context: Context, call: NormCall, batch_size: int) -> bool:
    alike = context.graph(batch_size).alike(call.layer)
    return bool(alike) and min(other.values for other in alike) > 1
