"""BN102: the last batch of an epoch leaves a batch norm with one value per channel."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    NormCall,
    NotChecked,
    Rule,
    Severity,
    Valid,
)

MLP = "model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))"


class RaggedLastBatch(Rule):
    """The last batch of an epoch holds what is left of the data, and that can be a single sample.

    A loader without `drop_last` gives every sample, so 257 rows in batches of 64 end in a batch of 1. With
    several ranks each gets `ceil(samples / ranks)` of them, because the distributed sampler pads.

    ## Why it matters

    Training runs for a whole epoch and then raises `Expected more than 1 value per channel when training` in
    the first batch norm that sees a single value. The rule traces the model at the very size of the last
    batch, since models chunk, fold and pool. With an unknown number of samples it warns where a batch of 1
    would raise: some data set size ends in one.

    Layers that see one value at the full batch size already are BN101's.

    ## Fix safety

    `drop_last=True` on the training loader leaves out the samples of the ragged batch in each epoch, others
    each time when the data are shuffled. It is advice: the loader is not part of the model. On a validation
    loader it would lose samples.

    ## References

    - [PyTorch: DataLoader](https://docs.pytorch.org/docs/stable/data.html)
    - [PyTorch: DistributedSampler](https://docs.pytorch.org/docs/stable/data.html)
    """

    code = "BN102"
    name = "ragged-last-batch"
    severity = Severity.ERROR
    needs = ("graph", "training.batch_size", "training.drop_last")

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
    )
    invalid = (
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
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        facts = context.training
        if facts.drop_last:
            return
        batch, samples, ranks = context.batch_size, facts.dataset_size, facts.world_size or 1
        last = 1 if samples is None else -(-samples // ranks) % batch
        if last == 0:
            return
        full = {call.path for call in self._vulnerable(context, batch)}
        calls = [call for call in self._vulnerable(context, last) if call.path not in full]
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
        noun = "batch norm" if len(layers) == 1 else "batch norms"
        yield self.diagnostic(
            calls[0],
            f"{cause} leaves {len(layers)} {noun} with 1 value per channel, and training raises: " + ", ".join(layers),
            severity=Severity.WARNING if samples is None else None,
            data={
                "layers": layers,
                "last_batch_size": last,
                "batch_size": batch,
                "dataset_size": samples,
                "world_size": ranks,
            },
            fix=Fix("Give the training loader drop_last=True, or a batch size that leaves more than one sample"),
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
