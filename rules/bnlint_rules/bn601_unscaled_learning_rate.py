"""BN601: a learning rate that was tuned for another batch than the optimiser takes."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import (
    BatchScaling,
    Context,
    Diagnostic,
    Fix,
    Invalid,
    NotChecked,
    Rule,
    Severity,
    TrainingConfig,
    Valid,
    shown_rate,
)

MODEL = "model = nn.Linear(4, 2)"
SCRIPT = """\
model = nn.Linear(4, 2)


def train(dataset):
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, shuffle=True, drop_last=True)
    optimizer = torch.optim.SGD(model.parameters(), lr={rate})
    for x, y in loader:
        loss = F.cross_entropy(nn.parallel.DistributedDataParallel(model)(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
"""


class UnscaledLearningRate(Rule):
    """A learning rate belongs to the number of samples behind one optimiser step.

    That number is the batch size per device times the ranks times the gradient accumulation. The rule speaks
    when it differs by more than 12.5 % from the batch that the learning rate was tuned for: the one stated as
    the reference, the base batch of an auto-scaling rule, or that of a documented recipe.

    ## Why it matters

    A recipe for 8 GPUs that is run on 2 takes steps of a quarter of the samples, so with the same learning
    rate it moves four times as far per sample, with noisier gradients. Linear scaling multiplies the learning
    rate by the ratio of the batches (SGD), square-root scaling by its root (the variance of the gradient;
    recommended for Adam and its relatives). Gradient accumulation restores the batch instead, within whole
    numbers; it is not advised to users of frameworks that have none (Detectron2, OpenPCDet, PaddleDetection,
    PaddleOCR). Batch norm sees neither: BN103 and BN104.

    The rule is silent where the framework scales the learning rate itself, and where the learning rate differs
    from the reference's and lies between the two scaled values, 12.5 % allowed. A framework that leaves the
    accumulation out of its scaling is held to the samples that it counted. Where accumulation itself makes the
    batch too large, BN603 says so.

    ## Fix safety

    Unsafe: the fix writes the linearly scaled learning rate over the literal in the configuration, which changes
    training. What a base states that other files build on is overridden in the file itself. There is an edit only
    where the learning rate of the reference is known beside it, since without that the scaled value would be scaled
    again in the next run; bnlint's own training file gets `reference_learning_rate` with the old value for that.
    There is none for a value that is computed or a default, nor where the configuration writes the rate in several
    places.

    ## References

    - Goyal et al., "Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677 (linear scaling)
    - Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
      https://arxiv.org/abs/1404.5997 (square-root scaling)
    - You et al., "Large Batch Training of Convolutional Networks", 2017, https://arxiv.org/abs/1708.03888
    - Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms", 2022,
      https://arxiv.org/abs/2205.10287 (square root for Adam)
    """

    code = "BN601"
    name = "unscaled-learning-rate"
    severity = Severity.WARNING
    needs = ("training.reference_batch_size",)
    fixable = True

    valid = (
        Valid(
            MODEL,
            training={"batch_size": 4, "world_size": 8, "reference_batch_size": 32, "learning_rate": 2e-4},
            note="the recipe as it was written",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 3,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
            },
            note="36 against 32 is exactly 12.5 %: whole numbers come no nearer",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 4,
                "world_size": 4,
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
            },
            note="accumulation makes up for the missing ranks",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate": 7.5e-5,
            },
            note="scaled linearly by hand",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate": 1.2e-4,
            },
            note="scaled by the square root by hand, and rounded",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate_scaling": "linear",
            },
            note="the framework scales it",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 2,
                "world_size": 4,
                "reference_batch_size": 16,
                "learning_rate": 0.02,
                "learning_rate_scaling": "linear-without-accumulation",
            },
            note="without accumulation the framework scales for the very batch",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
            },
            note="accumulation overshoots the reference: BN603 says so",
        ),
        Valid(
            MODEL,
            training={"batch_size": 3, "reference_batch_size": 32, "learning_rate": 2e-4},
            note="the number of ranks is unknown: 3 per device may be 33 on 11",
        ),
        Valid(
            MODEL,
            training={"world_size": 4, "reference_batch_size": 32, "learning_rate": 2e-4},
            note="the batch size is unknown",
        ),
        Valid(
            MODEL,
            training={"batch_size": 3, "world_size": 4, "learning_rate": 2e-4},
            note="without a reference nothing is unscaled: not checked",
        ),
    )
    invalid = (
        Invalid(
            MODEL,
            training={"batch_size": 3, "world_size": 4, "reference_batch_size": 32, "learning_rate": 2e-4},
            message=(
                "12 samples (4 ranks x 3), -62.5 % against the 32 that the learning rate was tuned for "
                "(--reference-batch-size): for 12 samples linear scaling makes 7.5e-5 of 2e-4, square-root scaling "
                "1.22e-4; accumulation 3 gives 36 (+12.5 %), the nearest whole number (exact would be 2.67; 2 gives "
                "24, -25 %); exactly 32: 4 x 4 x accumulation 2 or 4 x 2 x accumulation 4"
            ),
            note="a recipe for 8 GPUs x 4, on 4 x 3",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
            },
            message="24 samples (4 ranks x 3 x accumulation 2), -25 %",
            note="accumulation that does not reach the reference",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 1,
                "world_size": 2,
                "reference_batch_size": 8,
                "reference_learning_rate": 0.01,
            },
            message="linear scaling makes 0.0025 of 0.01, square-root scaling 0.005; accumulation 4 gives exactly 8",
            note="a recipe for 8 GPUs x 1, on 2 x 1; which learning rate runs is not stated",
        ),
        Invalid(
            MODEL,
            training={"total_batch_size": 8, "reference_batch_size": 64, "reference_learning_rate": 0.001},
            message="1.25e-4",
            note="a recipe for 8 cards x 8, on 1 x 8",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 8, "world_size": 2, "reference_batch_size": 64, "learning_rate": 0.001},
            message="2.5e-4",
            note="a recipe for 8 cards x 8, on 2 x 8",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 64, "strategy": "none", "reference_batch_size": 16},
            message="4 times the learning rate, square-root scaling 2 times",
            note="no learning rate is stated, the ratio is known",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate": 2e-4,
            },
            note="the learning rate of the reference was not touched",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 128,
                "strategy": "none",
                "reference_batch_size": 256,
                "reference_learning_rate": 0.1,
                "learning_rate": 0.4,
            },
            message="linear scaling makes 0.05 of 0.1, square-root scaling 0.0707, and it is 0.4; accumulation 2",
            note="scaled the wrong way",
        ),
        Invalid(
            MODEL,
            training={"batch_size": 8, "world_size": 2, "strategy": "dp", "reference_batch_size": 64},
            message="16 samples (2 devices x 8)",
            note="DataParallel has devices, and one rank",
        ),
        Invalid(
            SCRIPT.format(rate="2e-4"),
            training={"world_size": 4, "reference_batch_size": 32, "reference_learning_rate": 2e-4},
            fixed=SCRIPT.format(rate="7.5e-5"),
            message="12 samples (4 ranks x 3)",
            note="the learning rate stands in the script",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 4,
                "world_size": 4,
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
                "learning_rate_scaling": "linear-without-accumulation",
            },
            message="scaled for the 16 samples of one forward",
            note="accumulation restores the reference, and the framework halves the learning rate all the same",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        if training.learning_rate_scaling in ("linear", "sqrt"):
            return
        scaling = BatchScaling.of(training)
        if scaling is None:
            yield self.not_checked(BatchScaling.missing(training))
            return
        if training.learning_rate_scaling == "linear-without-accumulation":
            if scaling.accumulation > 1 and scaling.forward is not None:
                yield self._uncounted_accumulation(training, scaling, scaling.forward)
            return
        if not scaling.differs or scaling.overshoots or scaling.scaled_by_hand:
            return
        facts = ("learning_rate", "reference_batch_size", "batch_size", "total_batch_size", "world_size")
        known = [name for name in facts if name in training.facts]
        stated = next((name for name in known if training.span(name)), known[0])
        yield self.diagnostic(
            training.span(stated),
            f"one optimiser step takes {scaling.amount} ({scaling.terms}), {scaling.error(scaling.samples)} against "
            f"the {scaling.reference} that the learning rate was tuned for ({scaling.origin}): {scaling.ways}",
            data={**scaling.data, "key": training.key(stated), "source": training.origin(stated)},
            fix=_fix(context, scaling),
        )

    def _uncounted_accumulation(self, training: TrainingConfig, scaling: BatchScaling, forward: int) -> Diagnostic:
        """The framework multiplies the learning rate by forward / reference, whatever the accumulation is."""
        return self.diagnostic(
            training.span("gradient_accumulation_steps", "learning_rate"),
            f"the learning rate is scaled for the {forward} samples of one forward over all ranks, but one optimiser "
            f"step takes {scaling.samples} ({scaling.terms}): the framework leaves accumulation out. "
            f"{scaling.scaled_rates.capitalize()}",
            data={
                **scaling.data,
                "scaled_for": forward,
                "key": training.key("gradient_accumulation_steps"),
                "source": training.origin("gradient_accumulation_steps"),
            },
            fix=Fix(
                f"Multiply {training.key('learning_rate')} by the accumulation of {scaling.accumulation} "
                "(linear scaling) or by its square root"
            ),
        )


def _fix(context: Context, scaling: BatchScaling) -> Fix:
    """The linearly scaled learning rate, beside that of the reference.

    Where only one of the two is stated, the edited value would be taken for the reference's own and scaled once more:
    a native file, which has a word for both, gets the other one as well.
    """
    training, rates = context.training, scaling.learning_rates
    if rates is None or scaling.base_rate is None:
        return Fix("Scale the learning rate with the batch, or bring the batch back to the reference")
    linear, root = map(shown_rate, rates)
    title = f"Scale {training.key('learning_rate')} linearly to {linear} (by the square root: {root})"
    reference, own = training.sources.get("reference_learning_rate"), training.sources.get("learning_rate")
    if reference is None or own is None or (reference.span is not None and reference.span == own.span):
        title = f"{title}, and state {shown_rate(scaling.base_rate)} as reference_learning_rate (--reference-lr)"
        if own is None or reference is not None:
            return Fix(title)
        both = {"learning_rate": rates[0], "reference_learning_rate": scaling.base_rate}
        return context.state_facts(both, title=title)
    return context.state_facts({"learning_rate": rates[0]}, title=title)
