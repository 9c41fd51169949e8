"""BN407: two forwards of a DistributedDataParallel model before one backward."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    NotChecked,
    Rule,
    Severity,
    Valid,
    events,
    torch_version,
)

_GUARDED = (2, 13)  # from this release on the broadcast keeps the version counters of the buffers


def is_guarded() -> bool:
    """Whether the installed PyTorch broadcasts buffers without autograd's notice."""
    return (torch_version() or (0, 0)) >= _GUARDED


class ForwardTwiceUnderDdp(Rule):
    """Before torch 2.13 a second forward under DistributedDataParallel overwrites buffers that the first one has saved.

    ## Why it matters

    DistributedDataParallel broadcasts rank 0's buffers before each forward, in place. A batch norm in training mode
    saves its running statistics for the backward. With two forwards before one backward (both views of a siamese
    network, the real and the generated batch of a discriminator) the second broadcast changes what the first forward
    saved, and the backward raises `one of the variables needed for gradient computation has been modified by an inplace
    operation`. It takes more than one process to see it.

    The rule is silent with torch 2.13 or newer, whose broadcast keeps the version counters: two processes were run
    there (gloo) without an error. It is silent as well for `broadcast_buffers=False`, for SyncBatchNorm, which saves
    no running statistics, in scripts that use `no_sync()`, and where each forward has a backward of its own.

    ## Fix safety

    Advice only: `broadcast_buffers=False` leaves each rank with running statistics of its own (BN406), one forward over
    both batches mixes their statistics.

    ## References

    - [PyTorch: DistributedDataParallel](https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html)
    - https://github.com/pytorch/pytorch/issues/22095
    """

    code = "BN407"
    name = "forward-twice-under-ddp"
    severity = Severity.WARNING
    needs = ("script",)

    valid = (
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model = DistributedDataParallel(model, broadcast_buffers=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for first, second in []:
    F.mse_loss(model(first), model(second)).backward()
    optimizer.step()
""",
        ),
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

critic = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1)))
optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
for real, fake in []:
    critic(real).mean().backward()
    critic(fake).mean().backward()
    optimizer.step()
""",
            note="each forward has its own backward",
        ),
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
model = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for first, second in []:
    F.mse_loss(model(first), model(second)).backward()
    optimizer.step()
""",
            note="SyncBatchNorm saves no running statistics",
        ),
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for first, second in []:
    F.mse_loss(model(first), model(second)).backward()
    optimizer.step()
""",
            note="no buffers",
        ),
        Valid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for first, second in []:
    F.cross_entropy(model(torch.cat([first, second])), torch.zeros(32).long()).backward()
    optimizer.step()
""",
            note="one forward over both batches",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.nn.parallel import DistributedDataParallel

model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for first, second in []:
    F.mse_loss(model(first), model(second)).backward()
    optimizer.step()
""",
            message="twice on line 7",
            before=_GUARDED,
            note="two views, in a plain loop",
        ),
        Invalid(
            """\
from torch.nn.parallel import DistributedDataParallel as DDP


def critic_loss(critic, real, fake):
    on_real = critic(real)
    on_fake = critic(fake)
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()


def main():
    critic = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    critic = DDP(critic)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for real in []:
        loss = critic_loss(critic, real, torch.randn(16, 4))
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
""",
            message="critic is called on lines 6 and 7 before one backward() on line 17",
            before=_GUARDED,
            note="functions: a discriminator",
        ),
        Invalid(
            """\
class Trainer:
    def __init__(self):
        self.model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, loader):
        for anchor, other in loader:
            self.step(anchor, other)

    def step(self, anchor, other):
        distance = F.pairwise_distance(self.embed(anchor), self.embed(other))
        distance.mean().backward()
        self.optimizer.step()

    def embed(self, x):
        return F.normalize(self.model(x))


Trainer().fit([])
""",
            message="self.model is called twice on line 17",
            before=_GUARDED,
            note="a trainer class: one line, called twice",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        assert context.program is not None
        if is_guarded():
            return
        converted = {event.model.allocation for event in context.program.of_kind(events.Converted)}
        seen: set[object] = set()
        for backward in context.program.of_kind(events.Backward):
            groups: dict[object, list[events.Forward]] = defaultdict(list)
            for call in backward.forwards:
                if "ddp" in call.model.wraps and not call.model.path and call.gradients is not False:
                    groups[call.model.allocation].append(call)
            for allocation, calls in groups.items():
                pair = _pair(calls)
                if pair is None or allocation in converted or allocation in seen:
                    continue
                layers = context.mode_dependent(pair[0].model)
                if layers.has_batch_norm is False or "no_sync" in pair[0].where.module.source.text:
                    continue
                seen.add(allocation)
                doubt = _doubt(context, pair, layers.has_batch_norm)
                if doubt is None:
                    yield self._finding(context, pair, backward)
                elif doubt:
                    yield self.not_checked(f"{pair[1].where.span.path}:{pair[1].where.span.line}: {doubt}")

    def _finding(
        self, context: Context, pair: tuple[events.Forward, events.Forward], backward: events.Backward
    ) -> Diagnostic:
        first, second = pair
        name, layers = context.name_in(second), context.mode_dependent(second.model)
        norms = "its batch norms have" if layers.batch_norms is None else f"its {layers.batch_norms} batch norms have"
        norms = "its 1 batch norm has" if layers.batch_norms == 1 else norms
        lines = first.where.span.line, second.where.span.line
        calls = f"twice on line {lines[0]}" if lines[0] == lines[1] else f"on lines {lines[0]} and {lines[1]}"
        return self.diagnostic(
            second.where.span,
            f"{name} is called {calls} before one backward() on line {backward.where.span.line}: under "
            f"DistributedDataParallel the second call overwrites the running statistics that {norms} saved for it",
            module=layers.module,
            related=((first.where.span, "the first call"), (backward.where.span, "the backward of both")),
            data={"model": name, "lines": list(lines), "batch_norms": layers.batch_norms},
            fix=Fix("Call it once with both batches, or wrap it with broadcast_buffers=False"),
        )


def _pair(calls: list[events.Forward]) -> tuple[events.Forward, events.Forward] | None:
    """Two different calls that happen in one run, in the order of the file."""
    ordered = sorted(calls, key=lambda call: (call.where.span.line, call.where.span.column))
    for first, second in combinations(ordered, 2):
        if first.where.node is second.where.node and first.where.calls == second.where.calls:
            continue  # the same call in another pass of a loop
        taken = {(item.symbol, item.holds) for item in first.assumptions}
        if not any((item.symbol, not item.holds) in taken for item in second.assumptions):
            return first, second
    return None


def _doubt(context: Context, pair: tuple[events.Forward, events.Forward], has_norm: bool | None) -> str | None:
    """Why it may be well; empty where it certainly is, None where it is not."""
    assert context.program is not None
    modes = [call.mode.training if call.norms is None else call.norms.training for call in pair]
    if modes[0] is False:
        return ""  # the reports are all of batch norms in training mode
    for wrap in context.program.of_kind(events.Wrapped):
        if wrap.kind == "ddp" and wrap.model.allocation is pair[0].model.allocation:
            given = dict(wrap.keywords)
            value = given.get("broadcast_buffers")
            if "**" in given or (value is not None and not hasattr(value, "data")):
                return "whether broadcast_buffers is set is not known"
            if value is not None and getattr(value, "data", None) is False:
                return ""
    if None in modes:
        return f"the mode of the model is not known: {pair[0].mode.why or pair[1].mode.why}"
    return "whether the model has batch norm is not known" if has_norm is None else None
