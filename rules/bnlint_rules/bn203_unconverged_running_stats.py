"""BN203: a run too short for the running statistics to leave their initial values."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log, log1p

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, TrainingConfig, Valid

MODEL = "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))"
SLOW = "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.001))"
LEFT = 0.01  # of the initial values, at the end of the run


class UnconvergedRunningStats(Rule):
    """Running statistics start at mean 0 and variance 1, and each training forward replaces a share of them.

    The share is the momentum, so `(1 - momentum) ** updates` of the initial values is left at the end of the
    run. The rule speaks when that is more than 1 %. With PyTorch's momentum of 0.1 it takes 44 updates to get
    below it, with 0.01 459, with 0.001 4603.

    ## Why it matters

    Evaluation normalises with what the running statistics are by then. A layer with a variance of 100 whose
    statistics still hold 5 % of the initial 1 is close; one with a variance of 0.001 is off by a factor of 50. The
    training loss shows nothing of it. Low momentum is copied from recipes of hundreds of thousands of
    steps into short fine-tuning runs and tests.

    Updates are the training forwards of the layer: the batches of all epochs, or `max_steps` times the
    accumulation, times the calls of the layer in one forward. Silent for a run that starts from pretrained
    weights (stated, or asked for by the model when it is built), for layers of a live model that were updated
    before it was handed over (`bnlint.check(model)` after some training), for a run that recomputes the statistics
    (stochastic weight averaging), for `momentum=None` (a cumulative average has no initial share), for momentum 0
    (BN202) and for frozen layers. With the number of ranks unknown one is assumed, which makes the most updates.

    ## Fix safety

    Advice only: a longer run, another momentum and statistics that are recomputed before evaluation all change
    the result.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html)
    - Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, section 3 (statistics that are recomputed)
    - [PyTorch: update_bn](https://docs.pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema)
    """

    code = "BN203"
    name = "unconverged-running-stats"
    severity = Severity.WARNING
    needs = ("graph",)

    valid = (
        Valid(
            MODEL,
            inputs=((3, 8, 8),),
            training={"max_steps": 44},
            note="44 updates with momentum 0.1 leave 0.97 %",
        ),
        Valid(
            MODEL,
            inputs=((3, 8, 8),),
            training={"max_steps": 11, "gradient_accumulation_steps": 4},
            note="the forwards of a step count, not the steps",
        ),
        Valid(
            MODEL,
            inputs=((3, 8, 8),),
            training={"epochs": 4, "dataset_size": 170, "batch_size": 16, "drop_last": False},
            note="11 batches in each of 4 epochs, the ragged one included",
        ),
        Valid(SLOW, inputs=((3, 8, 8),), training={"max_steps": 100, "pretrained": True}, note="loaded statistics"),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None))",
            inputs=((3, 8, 8),),
            training={"max_steps": 2},
            note="a cumulative average has no initial share",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.0))",
            inputs=((3, 8, 8),),
            training={"max_steps": 2},
            note="BN202 speaks here",
        ),
        Valid(
            "model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False))",
            inputs=((3, 8, 8),),
            training={"max_steps": 2},
            note="no running statistics",
        ),
        Valid(SLOW, inputs=((3, 8, 8),), training={"max_steps": 100, "frozen": ["1"]}, note="a frozen layer"),
        Valid(
            SLOW,
            inputs=((3, 8, 8),),
            training={"max_steps": 100, "weight_averaging": "swa"},
            note="stochastic weight averaging recomputes the statistics with update_bn",
        ),
        Valid(
            """\
class Refinement(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        for _ in range(5):
            x = self.norm(x)
        return x


model = Refinement()
""",
            inputs=((3, 4, 4),),
            training={"max_steps": 10},
            note="five calls in each forward are 50 updates",
        ),
        Valid(
            """\
class Finetuned(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.load_state_dict(torch.load("weights.pt"))

    def forward(self, x):
        return self.norm(x)


model = Finetuned
""",
            inputs=((3, 4, 4),),
            training={"max_steps": 10},
            note="the model loads its statistics from a checkpoint",
        ),
        Valid(SLOW, inputs=((3, 8, 8),), note="the length of the run is unknown"),
        Valid(
            SLOW,
            inputs=((3, 8, 8),),
            training={"epochs": 10, "batch_size": 16},
            note="how many batches an epoch has is unknown",
        ),
    )
    invalid = (
        Invalid(
            MODEL,
            inputs=((3, 8, 8),),
            training={"max_steps": 43},
            modules=("1",),
            message="43 updates with momentum 0.1 leave 1.08 % of the initial running mean 0 and variance 1",
            note="one update less than it takes",
        ),
        Invalid(
            SLOW,
            inputs=((3, 8, 8),),
            training={
                "epochs": 10,
                "dataset_size": 3712,
                "batch_size": 4,
                "world_size": 8,
                "strategy": "ddp",
                "drop_last": True,
            },
            modules=("1",),
            message="1160 updates with momentum 0.001 leave 31.3 %",
            note="464 samples per rank, 116 batches in each epoch",
        ),
        Invalid(
            "model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.01))",
            inputs=((3, 8, 8),),
            training={"epochs": 3, "dataset_size": 640, "batch_size": 64, "drop_last": False, "world_size": 1},
            modules=("0", "2"),
            message="30 updates",
            note="a trial run: neither layer has settled",
        ),
        Invalid(
            MODEL,
            inputs=((3, 8, 8),),
            training={
                "epochs": 1,
                "dataset_size": 1000,
                "batch_size": 8,
                "world_size": 4,
                "strategy": "dp",
                "drop_last": False,
            },
            modules=("1",),
            message="32 updates",
            note="DataParallel takes one batch of 32 in each forward, and keeps the statistics of one replica",
        ),
        Invalid(
            MODEL,
            inputs=((3, 8, 8),),
            training={"epochs": 5, "dataset_size": 60, "batch_size": 64, "drop_last": True},
            modules=("1",),
            message="0 updates",
            note="the only batch of an epoch is dropped",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        if training.pretrained or context.loads_weights or training.weight_averaging == "swa":
            return
        layers = [layer for layer in context.updating_norms() if (layer.momentum or 0) > 0]
        layers = [layer for layer in layers if not context.frozen(layer) and not context.has_updated_statistics(layer)]
        if not layers:
            return
        length = _forwards(training)
        if length is None:
            yield self.not_checked(_missing(training))
            return
        forwards, said = length
        fact = "epochs" if training.max_steps is None else "max_steps"
        place = training.span(fact, "dataset_size", "batch_size")
        for layer in layers:
            calls = _updates_per_forward(context, layer)
            updates = forwards * calls
            momentum = layer.momentum or 0.0
            left = (1 - momentum) ** updates if momentum < 1 else 0.0
            if not calls or left <= LEFT:
                continue
            needed = ceil(log(LEFT) / log1p(-momentum))
            repeated = f" x {calls} calls" if calls > 1 else ""
            yield self.diagnostic(
                layer,
                f"{updates} updates with momentum {momentum:g} leave {100 * left:.3g} % of the initial running mean 0 "
                f"and variance 1 at the end of training ({said}{repeated}), and evaluation normalises with them: below "
                f"{100 * LEFT:g} % it takes {needed}",
                related=() if place is None else ((place, f"{training.key(fact)} sets the length of the run"),),
                data={
                    "momentum": momentum,
                    "updates": updates,
                    "needed_updates": needed,
                    "initial_share": left,
                    "forwards": forwards,
                    "calls": calls,
                    "key": training.key(fact),
                    "source": training.origin(fact),
                },
                fix=Fix(
                    f"{_momentum_advice(updates)}rain for {ceil(needed / calls)} forwards or more, or recompute the "
                    "statistics before evaluation with torch.optim.swa_utils.update_bn"
                ),
            )


def _momentum_advice(updates: int) -> str:
    enough = 1 - LEFT ** (1 / max(updates, 1))
    return f"Use momentum {ceil(enough * 1000) / 1000:g}, t" if enough <= 0.5 else "T"


def _forwards(training: TrainingConfig) -> tuple[int, str] | None:
    """The training forwards of one process in the whole run and the arithmetic in words; None when unknown."""
    if training.max_steps is not None:
        steps = training.gradient_accumulation_steps or 1
        said = f"{training.max_steps} steps" + (f" x accumulation {steps}" if steps > 1 else "")
        return training.max_steps * steps, said
    batches = _batches(training)
    if training.epochs is None or batches is None:
        return None
    return int(
        training.epochs * batches
    ), f"{training.epochs:g} epoch{'s' * (training.epochs != 1)} x {batches} batches"


def _batches(training: TrainingConfig) -> int | None:
    """The batches of an epoch of one process; with the last one where it may be kept."""
    samples, batch = training.dataset_size, training.batch_size
    ranks = 1 if training.strategy in ("dp", "none") else training.world_size or 1
    if batch is None or training.strategy == "dp":
        batch, ranks = training.samples_per_forward, 1
    if samples is None or batch is None:
        return None
    each = -(-samples // ranks)
    return each // batch if training.drop_last else -(-each // batch)


def _missing(training: TrainingConfig) -> str:
    if training.epochs is None:
        return "length of the run unknown (give --epochs, or max_steps in the training file)"
    if training.dataset_size is None:
        return "dataset size unknown (give --dataset-size, or max_steps in the training file)"
    return "batch size unknown (give --batch-size)"


def _updates_per_forward(context: Context, layer: Layer) -> int:
    """How often one training forward updates a layer's statistics; twice a call that is computed twice."""
    calls = context.graph().alike(layer)
    return sum(2 if call.checkpointed else 1 for call in calls if call.uses_batch_statistics)
