"""BN105: a batch norm whose rows are counted at run time."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, NormCall, Rule, Severity, Valid


class DataDependentBatch(Rule):
    """A batch norm over rows that are selected at run time meets a batch of one row sooner or later.

    Boolean indexing, `nonzero`, `unique` and `masked_select` return as many rows as the data give: points
    in a region, boxes of an image, tokens under a mask. The batch size of the loader does not bound that
    number from below.

    ## Why it matters

    With one row PyTorch raises `Expected more than 1 value per channel when training`, usually hours into a
    run. With no row it does not: the running statistics stay as they are. With a few rows the statistics
    are mostly noise. A larger batch size only lowers the odds of one row, so it is no repair. What repairs
    it is a norm that does not look along the rows (LayerNorm or GroupNorm), or a guard that skips the norm
    when fewer than two rows are left.

    SyncBatchNorm over two or more ranks skips PyTorch's check and is not reported.

    ## Fix safety

    For an input of shape (rows, channels) the fix replaces the layer by a LayerNorm over the channels, where all
    layers that the line builds are such ones. That changes training and the names in checkpoints, so it is unsafe.
    Elsewhere the fix is advice.

    ## References

    - https://github.com/pytorch/pytorch/issues/4534
    - Ba, Kiros and Hinton, "Layer Normalization", 2016, https://arxiv.org/abs/1607.06450
    """

    code = "BN105"
    name = "data-dependent-batch"
    severity = Severity.WARNING
    needs = ("graph",)
    fixable = True

    valid = (
        Valid(
            """\
class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x * (x.sum(1, keepdim=True) > 0))

model = Masked()
""",
            inputs=((8,),),
            note="a mask that multiplies keeps the number of rows",
        ),
        Valid(
            """\
class Selected(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x[x.sum(1) > 0])

model = Selected()
""",
            inputs=((8,),),
        ),
        Valid(
            """\
class Regions(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(x[x.mean((1, 2, 3)) > 0])

model = Regions()
""",
            inputs=((4, 7, 7),),
            note="one region has 49 values per channel: it does not raise",
        ),
        Valid(
            """\
class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x[torch.arange(x.shape[0] - 1, -1, -1)])

model = Positions()
""",
            inputs=((8,),),
            note="indexing with integers keeps a known number of rows",
        ),
    )
    invalid = (
        Invalid(
            """\
class Selected(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x):
        return self.norm(x[x.sum(1) > 0])

model = Selected()
""",
            inputs=((8,),),
            fixed="""\
class Selected(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x[x.sum(1) > 0])

model = Selected()
""",
            modules=("norm",),
            message="row raises",
        ),
        Invalid(
            """\
class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(4, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU())

    def forward(self, points):
        inside = torch.nonzero(points[..., 0].reshape(-1) > 0).squeeze(1)
        return self.embed(points.reshape(-1, 4)[inside])

model = Points()
""",
            inputs=((32, 4),),
            fixed="""\
class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(4, 16, bias=False), nn.LayerNorm(16), nn.ReLU())

    def forward(self, points):
        inside = torch.nonzero(points[..., 0].reshape(-1) > 0).squeeze(1)
        return self.embed(points.reshape(-1, 4)[inside])

model = Points()
""",
            modules=("embed.1",),
            message="nonzero",
        ),
        Invalid(
            """\
def layer(width, out):
    return nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out, eps=1e-3, momentum=0.01), nn.ReLU())

class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(layer(4, 16), layer(16, 32))

    def forward(self, points):
        return self.embed(points[points[:, 0] > 0])

model = Points()
""",
            inputs=((4,),),
            fixed="""\
def layer(width, out):
    return nn.Sequential(nn.Linear(width, out), nn.LayerNorm(out, eps=1e-3), nn.ReLU())

class Points(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(layer(4, 16), layer(16, 32))

    def forward(self, points):
        return self.embed(points[points[:, 0] > 0])

model = Points()
""",
            modules=("embed.0.1", "embed.1.1"),
            note="one line, two widths, and an eps that stays",
        ),
        Invalid(
            """\
def norm(width):
    return nn.BatchNorm1d(width)

class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.all, self.some = norm(8), norm(8)

    def forward(self, x):
        x = self.all(x)
        return self.some(x[x.sum(1) > 0])

model = Mixed()
""",
            inputs=((8,),),
            modules=("some",),
            note="the line also builds a norm over the whole batch: no edit",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        for call, count in context.graph().distinct_calls("batch"):
            if not call.data_dependent or not call.uses_batch_statistics:
                continue
            if (context.ranks(call.layer) or 2) > 1:
                continue
            origin = call.data_dependent_origin or "the input"
            repeated = f" in {count} calls" if count > 1 else ""
            yield self.diagnostic(
                call,
                f"{call.layer.class_name} normalises over rows that {origin} counts at run time{repeated}: "
                f"one row raises 'Expected more than 1 value per channel when training' whatever the batch "
                f"size; no row leaves the running statistics unchanged",
                data={"origin": origin, "input_shape": ["N", *call.shape[1:]], "calls": count},
                fix=_layer_norm(call),
            )


def _layer_norm(call: NormCall) -> Fix:
    if len(call.shape) > 2 or call.layer.functional:
        return Fix("Use GroupNorm or LayerNorm over the channels, or skip the norm when fewer than 2 rows are left")
    if call.shape[1] < 3:
        return Fix("Skip the norm when fewer than 2 rows are left")
    advice = f"Use LayerNorm({call.shape[1]}), or skip the norm when fewer than 2 rows are left"
    return call.replace_with_layer_norm(lambda other: other.data_dependent, advice=advice)
