"""BN404: a conversion to SyncBatchNorm that comes after the wrap."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Invalid, Rule, Severity, Valid, events

_NAMES = {"ddp": "DistributedDataParallel", "fsdp": "FullyShardedDataParallel"}


class SyncConvertAfterWrap(Rule):
    """`convert_sync_batchnorm` belongs before the wrap: DistributedDataParallel checks the layers that it is given.

    Run on torch 2.13, gloo, CPU:

    | wrap, then `convert_sync_batchnorm` | result |
    |---|---|
    | DistributedDataParallel | works: the same parameters and buffers, the wrapper stays |
    | FullyShardedDataParallel | raises `cannot assign 'torch.FloatTensor' as parameter 'weight'` |
    | FullyShardedDataParallel(use_orig_params=True) | no error; the new layers are unknown to the wrapper |
    | fully_shard | the forward raises `got mixed torch.Tensor and DTensor` |

    ## Why it matters

    DistributedDataParallel refuses SyncBatchNorm on a CPU model with a sentence that says so. A conversion after the
    wrap is not checked, and fails in the first forward instead, with another message. That is all on current releases:
    information. FullyShardedDataParallel and fully_shard hold their parameters by the modules that they were given: an
    error.

    Conversions on another path than the wrap are left alone, and so is DataParallel, for which SyncBatchNorm does not
    synchronise at all (BN402).

    ## Fix safety

    The fix moves the conversion in front of the wrap. It is safe for DistributedDataParallel, whose training stays as
    it is, and unsafe for the others, which train only then. Advice where the two do not stand in one block, or where
    what stands between them may depend on their order.

    ## References

    - [PyTorch: SyncBatchNorm.convert_sync_batchnorm](https://docs.pytorch.org/docs/stable/generated/torch.nn.SyncBatchNorm.html)
    """

    code = "BN404"
    name = "sync-convert-after-wrap"
    severity = Severity.INFO
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
model = DistributedDataParallel(model)
""",
        ),
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel as DDP


def convert(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def build(rank):
    model = convert(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).to(rank))
    return DDP(model, device_ids=[rank])


if __name__ == "__main__":
    build(0)
""",
            note="the conversion stands in a function above, and runs first",
        ),
        Valid(
            """\
import os

rank = int(os.environ.get("RANK", -1))
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
if rank == -1:
    model = nn.DataParallel(model)
if rank != -1:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model = nn.parallel.DistributedDataParallel(model)
""",
            note="another wrap on another path",
        ),
        Valid(
            """\
import os

distributed = "RANK" in os.environ
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
if distributed:
    model = nn.parallel.DistributedDataParallel(model)
if not distributed:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
""",
            note="never both in one run",
        ),
        Valid(
            """\
models = []
for width in (4, 8):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width)))
    models.append(nn.parallel.DistributedDataParallel(model))
""",
            note="the next pass of the loop builds a new model",
        ),
        Valid(
            """\
generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
critic = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
generator = nn.parallel.DistributedDataParallel(generator)
critic = nn.SyncBatchNorm.convert_sync_batchnorm(critic)
critic = nn.parallel.DistributedDataParallel(critic)
""",
            note="the wrap is another model's",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model = DistributedDataParallel(model)
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
""",
            fixed="""\
from torch.nn.parallel import DistributedDataParallel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
model = DistributedDataParallel(model)
""",
            message="on line 5",
            note="plain statements",
        ),
        Invalid(
            """\
from torch.nn.parallel import DistributedDataParallel as DDP


def synchronised(model):
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)


def main():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    model = DDP(model)
    model = synchronised(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()


if __name__ == "__main__":
    main()
""",
            message="on line 11",
            note="functions",
        ),
        Invalid(
            """\
class Trainer:
    def __init__(self, distributed, sync):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        if distributed:
            self.model = nn.parallel.DistributedDataParallel(self.model)
        if sync:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)


Trainer(True, True)
""",
            fixed="""\
class Trainer:
    def __init__(self, distributed, sync):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        if sync:
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if distributed:
            self.model = nn.parallel.DistributedDataParallel(self.model)


Trainer(True, True)
""",
            message="DistributedDataParallel",
            note="a trainer class",
        ),
        Invalid(
            """\
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

model = FSDP(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
""",
            fixed="""\
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

model = FSDP(nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))))
""",
            message="FullyShardedDataParallel",
            note="an error: the wrapper holds the parameters of the layers that are replaced",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        assert context.program is not None
        wraps: list[events.Wrapped] = []
        seen: set[ast.AST] = set()
        for event in context.program.all_events:
            if isinstance(event, events.Wrapped) and event.kind in _NAMES:
                wraps.append(event)
            if not isinstance(event, events.Converted) or event.where.node in seen:
                continue
            before = next((wrap for wrap in reversed(wraps) if _comes_before(wrap, event)), None)
            if before is not None:
                seen.add(event.where.node)
                yield self._finding(context, event, before)

    def _finding(self, context: Context, event: events.Converted, wrap: events.Wrapped) -> Diagnostic:
        is_sharded = wrap.kind == "fsdp"
        result = (
            "the sharded parameters are those of the layers that it replaces"
            if is_sharded
            else "it works on current releases, but DistributedDataParallel checked the layers before"
        )
        return self.diagnostic(
            event.where.span,
            f"convert_sync_batchnorm comes after {_NAMES[wrap.kind]} on line {wrap.where.span.line}: {result}",
            severity=Severity.ERROR if is_sharded else None,
            related=((wrap.where.span, "the model is wrapped here"),),
            data={"wrap": wrap.kind, "converter": event.converter, "wrapped_on": wrap.where.span.line},
            fix=context.script_fixes.convert_earlier(
                event, wrap, title=f"Convert the model before line {wrap.where.span.line} wraps it"
            ),
        )


def _comes_before(wrap: events.Wrapped, event: events.Converted) -> bool:
    """Whether a model was wrapped before it is converted, in one run."""
    if wrap.kind not in event.model.wraps or wrap.model.allocation is not event.model.allocation:
        return False
    taken = {(item.symbol, item.holds) for item in event.assumptions}
    return not any((item.symbol, not item.holds) in taken for item in wrap.assumptions)
