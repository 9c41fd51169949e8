"""BN102: the last batch of an epoch leaves a batch norm with one value per channel."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    Loader,
    NormCall,
    NotChecked,
    Rule,
    Severity,
    Span,
    TrainingConfig,
    Valid,
    pieces,
)

MLP = "model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))"
GHOST = """\
class GhostBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.chunk(-(-len(x) // {size}))])


model = GhostBatchNorm()
"""
SCRIPT = """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(257, 4), torch.randn(257, 1))
model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(data, {arguments})
test_loader = DataLoader(data, batch_size=64)
for epoch in range(2):
    model.train()
    for x, y in train_loader:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for x, y in {evaluated}:
            print(F.mse_loss(model(x), y))
"""


class RaggedLastBatch(Rule):
    """The last batch of an epoch holds what is left of the data, and that can be a single sample.

    A loader without `drop_last` gives every sample, so 257 rows in batches of 64 end in a batch of 1. With
    several ranks each gets `ceil(samples / ranks)` of them, because the distributed sampler pads. `DataParallel`
    cuts the last batch of the process over its devices: 6 samples on 8 of them are six pieces of 1. Accelerate,
    and the Hugging Face Trainer with it, fill the last batch of several ranks up with samples of the epoch's
    beginning (`even_batches`): no batch is ragged then.

    ## Why it matters

    Training runs for a whole epoch and then raises `Expected more than 1 value per channel when training` in
    the first batch norm that sees a single value. The rule traces the model at the very size of the last
    batch, since models chunk, fold and pool. With an unknown number of samples it warns where a batch of 1
    would raise: some data set size ends in one.

    Where a run draws from several loaders, each is checked with its own sizes. Layers that see one value at the
    full batch size already are BN101's. Evaluation loaders are left alone: nothing raises there.

    ## Fix safety

    `drop_last=True` on the training loader leaves out the samples of the ragged batch in each epoch, others
    each time when the data are shuffled, so the fix is unsafe. It is written where a script builds the loader or a
    training file states `drop_last`. On a validation loader it would lose samples: for a loader that evaluation
    draws from too, and for one without a full batch, the fix is advice.

    ## References

    - [PyTorch: DataLoader](https://docs.pytorch.org/docs/stable/data.html)
    - [PyTorch: DistributedSampler](https://docs.pytorch.org/docs/stable/data.html)
    """

    code = "BN102"
    name = "ragged-last-batch"
    severity = Severity.ERROR
    fixable = True
    needs = ("graph",)  # each loader states its own batch size and what it does with the last batch

    valid = (
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "dataset_size": 257, "drop_last": True},
            note="the repaired twin",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "dataset_size": 258, "drop_last": False},
            note="two samples are left",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "dataset_size": 256, "drop_last": False},
            note="none is left",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))",
            inputs=((3, 8, 8),),
            training={"batch_size": 64, "dataset_size": 257, "drop_last": False},
            note="a single image has many values per channel",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 4, "world_size": 3, "dataset_size": 3712, "drop_last": False},
            note="1238 samples per rank after padding, and 2 of them in the last batch",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={
                "batch_size": 64,
                "world_size": 2,
                "strategy": "ddp",
                "sync_batchnorm": True,
                "dataset_size": 130,
                "drop_last": False,
            },
            note="SyncBatchNorm over two ranks skips the check",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 1, "dataset_size": 5, "drop_last": False},
            note="every batch holds one sample: BN101 says so",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "eval_batch_size": 1, "dataset_size": 256, "drop_last": False},
            note="evaluation takes batches of 1, in eval mode",
        ),
        Valid(
            GHOST.format(size=11),
            inputs=((4,),),
            training={"batch_size": 1000, "dataset_size": 1101, "drop_last": False},
            note="virtual batches of 11: the last of 10 pieces of 101 rows has 2",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 8, "world_size": 4, "strategy": "dp", "dataset_size": 73, "drop_last": False},
            note="a last batch of 9 on 4 DataParallel devices is 3, 3 and 3",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={
                "loaders": [
                    {"name": "labelled", "batch_size": 16, "dataset_size": 209, "drop_last": True},
                    {"name": "unlabelled", "batch_size": 64, "dataset_size": 128, "drop_last": False},
                ]
            },
            note="two loaders: one drops its last batch, the other has none",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"loaders": [{"name": "labelled", "dataset_size": 209, "drop_last": False}]},
            note="the batch size of the loader is unknown",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={
                "batch_size": 64,
                "world_size": 2,
                "strategy": "ddp",
                "dataset_size": 130,
                "drop_last": False,
                "even_batches": True,
            },
            note="Accelerate fills the last batch of each of 2 ranks up: 65 samples are 64 and 64",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "strategy": "ddp", "drop_last": False, "even_batches": True},
            note="how many ranks there are is unknown: two or more have no ragged batch",
        ),
        Valid(MLP, inputs=((4,),), training={"batch_size": 16, "dataset_size": 209}, note="drop_last is unknown"),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "strategy": "ddp", "dataset_size": 257, "drop_last": False},
            note="how many ranks share the 257 samples is unknown: 2 get 129 each, and one is left, 3 get 86",
        ),
        Valid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 16, "strategy": "dp", "dataset_size": 209, "drop_last": False},
            note="DataParallel over an unknown number of devices",
        ),
    )
    invalid = (
        Invalid(
            SCRIPT.format(arguments="batch_size=64, shuffle=True", evaluated="test_loader"),
            inputs=((4,),),
            fixed=SCRIPT.format(arguments="batch_size=64, shuffle=True, drop_last=True", evaluated="test_loader"),
            modules=("1",),
            message="257 = 4 x 64 + 1",
            note="a script: its training loader drops the last batch, the other one keeps it",
        ),
        Invalid(
            SCRIPT.format(arguments="**dict(batch_size=64), drop_last=False", evaluated="test_loader"),
            inputs=((4,),),
            fixed=SCRIPT.format(arguments="**dict(batch_size=64), drop_last=True", evaluated="test_loader"),
            modules=("1",),
            note="said in so many words",
        ),
        Invalid(
            SCRIPT.format(arguments="batch_size=64", evaluated="train_loader"),
            inputs=((4,),),
            modules=("1",),
            note="evaluation draws from the same loader, and BN309 would speak: no edit",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 64, "dataset_size": 257, "drop_last": False},
            modules=("1",),
            message="257 = 4 x 64 + 1",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 16, "world_size": 2, "dataset_size": 33, "drop_last": False},
            modules=("1",),
            message="ceil(33 / 2) = 17",
            note="per rank",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 16, "drop_last": False},
            modules=("1",),
            message="number of samples is unknown",
            note="some data set size leaves one sample",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={
                "batch_size": 64,
                "world_size": 1,
                "dataset_size": 257,
                "drop_last": False,
                "even_batches": True,
            },
            modules=("1",),
            message="257 = 4 x 64 + 1",
            note="a single rank has nothing to be even with: its last batch stays as it is",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={
                "batch_size": 8,
                "world_size": 8,
                "strategy": "dp",
                "dataset_size": 70,
                "drop_last": False,
                "even_batches": True,
            },
            modules=("1",),
            message="6 pieces of 1",
            note="DataParallel is one process, whose loader nobody fills up",
        ),
        Invalid(
            """\
class GhostBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x):
        return torch.cat([self.norm(part) for part in x.split(10)])


model = GhostBatchNorm()
""",
            inputs=((4,),),
            training={"batch_size": 50, "dataset_size": 141, "drop_last": False},
            modules=("norm",),
            message="the last batch of 41",
            note="ghost batch norm: 41 rows in pieces of 10 leave one of 1",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 16, "dataset_size": 209, "drop_last": False},
            modules=("1",),
            message="209 = 13 x 16 + 1",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"total_batch_size": 64, "world_size": 1, "dataset_size": 129, "drop_last": False},
            modules=("1",),
            message="129 = 2 x 64 + 1",
            note="a total batch size",
        ),
        Invalid(
            GHOST.format(size=10),
            inputs=((4,),),
            training={"batch_size": 1000, "dataset_size": 1101, "drop_last": False},
            modules=("norm",),
            message="the last batch of 101",
            note="virtual batches of 10: the last of 11 pieces of 101 rows has 1",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 8, "world_size": 8, "strategy": "dp", "dataset_size": 70, "drop_last": False},
            modules=("1",),
            message="70 = 1 x 64 + 6: the last batch of 6, which DataParallel cuts into 6 pieces of 1,",
            note="six pieces on eight devices",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={"batch_size": 8, "world_size": 4, "strategy": "dp", "dataset_size": 74, "drop_last": False},
            modules=("1",),
            message="cuts into 3, 3, 3 and 1",
            note="the last replica gets what is left",
        ),
        Invalid(
            MLP,
            inputs=((4,),),
            training={
                "loaders": [
                    {"name": "labelled", "batch_size": 16, "dataset_size": 209, "drop_last": False},
                    {"name": "unlabelled", "batch_size": 64, "dataset_size": 256, "drop_last": False},
                    {"name": "replay", "batch_size": 4, "dataset_size": 9, "drop_last": False},
                ]
            },
            modules=("1", "1"),
            message="loader ",
            note="two of three loaders end in a batch of 1",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        facts = context.training
        if facts.loaders is not None:
            for loader in facts.loaders:
                yield from self._check_loader(context, loader, f"loader {loader.name}: ")
            return
        yield from self._check_loader(
            context, Loader("", facts.batch_size, facts.dataset_size, facts.drop_last, facts.origin("drop_last")), ""
        )

    def _check_loader(self, context: Context, loader: Loader, prefix: str) -> Iterator[Diagnostic | NotChecked]:
        facts, samples = context.training, loader.dataset_size
        if loader.drop_last:
            return
        unknown = _unknown(facts, loader)
        if unknown or loader.batch_size is None:
            yield self.not_checked(prefix + unknown)
            return
        spread = facts.strategy in ("ddp", "fsdp", "deepspeed")
        if spread and facts.world_size is None and (samples is not None or facts.even_batches):
            yield self.not_checked(f"{prefix}number of ranks unknown (give --world-size)")
            return
        devices = facts.world_size or 1
        batch = loader.batch_size * (devices if facts.strategy == "dp" else 1)  # of one process
        ranks = 1 if facts.strategy in ("dp", "none") else devices
        if facts.even_batches and ranks > 1:
            return
        last = 1 if samples is None else -(-samples // ranks) % batch
        if last == 0:
            return
        replicas = facts.replicas(last)
        full = {call.path for size in set(facts.replicas(batch)) for call in self._vulnerable(context, size)}
        calls = [
            call for size in sorted(set(replicas)) for call in self._vulnerable(context, size) if call.path not in full
        ]
        if not calls:
            return
        layers = list(dict.fromkeys(call.path for call in calls))
        if samples is None:
            cause = "the loader keeps the last batch and the number of samples is unknown: a last batch of 1"
        elif ranks == 1:
            cause = f"{samples} = {samples // batch} x {batch} + {last}: the last batch of {last}"
        else:
            each = -(-samples // ranks)
            cause = (
                f"each of {ranks} ranks gets ceil({samples} / {ranks}) = {each} samples and "
                f"{each} = {each // batch} x {batch} + {last}: the last batch of {last}"
            )
        if len(replicas) > 1:
            cause += f", which DataParallel cuts into {pieces(replicas)},"
        noun = "batch norm" if len(layers) == 1 else "batch norms"
        yield self.diagnostic(
            _span(facts, loader, calls[0]),
            f"{prefix}{cause} leaves {len(layers)} {noun} with 1 value per channel, and training raises: "
            + ", ".join(layers),
            module=calls[0].path,
            severity=Severity.WARNING if samples is None else None,
            data={
                "layers": layers,
                "last_batch_size": last,
                "replicas": list(replicas),
                "batch_size": batch,
                "dataset_size": samples,
                "world_size": ranks,
                "loader": loader.name or None,
                "key": loader.name or facts.key("drop_last"),
                "source": loader.place,
            },
            fix=_fix(context, loader, batch, samples, ranks),
        )

    def _vulnerable(self, context: Context, batch_size: int) -> list[NormCall]:
        return [
            call
            for call in context.graph(batch_size).calls("batch")
            if call.values == 1
            and call.uses_batch_statistics
            and not call.data_dependent
            and call.checked
            and context.ranks(call.layer) == 1
        ]


def _fix(context: Context, loader: Loader, batch: int, samples: int | None, ranks: int) -> Fix:
    """`drop_last=True` where the loader is built or configured; advice where no full batch would be left."""
    facts = context.training
    title = "Give the training loader drop_last=True, or a batch size that leaves more than one sample"
    if samples is not None and -(-samples // ranks) < batch:
        return Fix("Give the training loader a smaller batch: there is no full one")
    if loader.name:
        path, _, line = (loader.place or "").rpartition(":")
        return context.drop_last_batch(Span(path, int(line)) if line.isdigit() else None, title=title)
    if facts.key("drop_last").endswith("DataLoader.drop_last"):
        return context.drop_last_batch(facts.span("drop_last"), title=title)
    if (facts.origin("drop_last") or "--").startswith("--"):
        return Fix(title)  # a flag would have the last word
    return context.state_facts({"drop_last": True}, title=title)


def _unknown(facts: TrainingConfig, loader: Loader) -> str:
    reasons = []
    if loader.batch_size is None:
        reasons.append("batch size unknown (give --batch-size)")
    if loader.drop_last is None:
        reasons.append("drop-last setting unknown (give --drop-last or --no-drop-last)")
    if facts.strategy == "dp" and facts.world_size is None:
        reasons.append("number of devices unknown (give --world-size)")
    return ", ".join(reasons)


def _span(facts: TrainingConfig, loader: Loader, call: NormCall) -> Span | None:
    """The loader's own place, the line of the configuration that decides, or the layer."""
    path, _, line = (loader.place or "").rpartition(":")
    if loader.name:
        return Span(path, int(line)) if path and line.isdigit() else call.span
    return facts.span("drop_last", "dataset_size", "batch_size", "total_batch_size") or call.span
