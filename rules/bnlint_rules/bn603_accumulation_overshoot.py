"""BN603: gradient accumulation that takes the batch beyond the one the recipe was tuned for."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnlint.api import BatchScaling, Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Valid

MODEL = "model = nn.Linear(4, 2)"
ACCELERATE = """\
model = nn.Linear(4, 2)


def train(dataset):
    from accelerate import Accelerator

    accelerator = Accelerator(gradient_accumulation_steps={steps})
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, shuffle=True, drop_last=True)
    net, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=2e-4), loader)
    for x, y in loader:
        with accelerator.accumulate(net):
            accelerator.backward(F.cross_entropy(net(x), y))
            optimizer.step()
            optimizer.zero_grad()
"""
LOOP = """\
model = nn.Linear(4, 2)


def train(dataset):
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4)
    for i, (x, y) in enumerate(loader):
        loss = F.cross_entropy(model(x), y){divided}
        loss.backward()
        if (i + 1) % {steps} == 0 or i + 1 == len(loader):
            optimizer.step()
            optimizer.zero_grad()
"""
FACT = "gradient_accumulation_steps"


class AccumulationOvershoot(Rule):
    """Gradient accumulation multiplies the batch by a whole number, and the ranks have multiplied it already.

    The rule speaks when accumulation takes the samples of one optimiser step more than 12.5 % beyond the
    batch that the learning rate was tuned for.

    ## Why it matters

    Accumulation is meant to make up for missing GPUs: a recipe for 8 GPUs x 4 runs on 4 x 3 with an accumulation
    of 3, which makes 36 samples of the 32. The number copied from the recipe of one GPU (8) makes 96, three times
    the batch: a third of the optimiser steps in the same epochs, with a learning rate that is too small for
    them. Schedules that count optimiser steps end early.

    The rule is silent where the learning rate was scaled for the samples: by the framework, or by hand (it
    differs from the reference's and lies between the linearly and the square-root scaled one). A batch that is
    off for other reasons is BN601's.

    ## Fix safety

    Unsafe: the fix writes the nearest whole number over the literal in the configuration, which changes
    training; a total that stands beside it, as in DeepSpeed's files, changes with it. What a base states that other
    files build on is overridden in the file itself. There is no edit for a computed value, where no other number
    comes nearer, nor where a script writes the same number down again, as in `loss / 8` beside `(i + 1) % 8`: the two
    must change together.

    ## References

    - Goyal et al., "Accurate, Large Minibatch SGD", 2017, https://arxiv.org/abs/1706.02677
    - Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014,
      https://arxiv.org/abs/1404.5997
    - https://docs.pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    code = "BN603"
    name = "accumulation-overshoot"
    severity = Severity.WARNING
    needs = ("training.reference_batch_size",)
    fixable = True

    valid = (
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 3,
                "reference_batch_size": 32,
            },
            note="36 against 32 is exactly 12.5 %: whole numbers come no nearer",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
            },
            note="accumulation that falls short is BN601's",
        ),
        Valid(
            MODEL,
            training={"batch_size": 64, "world_size": 4, "reference_batch_size": 32},
            note="too large without accumulation is BN601's",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate": 6e-4,
            },
            note="a large batch on purpose: the learning rate was scaled for its 96 samples",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 64,
                "world_size": 8,
                "gradient_accumulation_steps": 4,
                "reference_batch_size": 256,
                "reference_learning_rate": 0.1,
                "learning_rate_scaling": "linear",
            },
            note="the framework scales the learning rate for the batch, accumulation included",
        ),
        Valid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
                "learning_rate_scaling": "linear-without-accumulation",
            },
            note="what the framework counted is BN601's question",
        ),
        Valid(
            MODEL,
            training={"batch_size": 3, "gradient_accumulation_steps": 8, "reference_batch_size": 32},
            note="the number of ranks is unknown",
        ),
    )
    invalid = (
        Invalid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
                "learning_rate": 2e-4,
            },
            message=(
                "accumulation 8 (--accumulate) makes an optimiser step of 96 samples (4 ranks x 3 x accumulation 8), "
                "3 times (+200 %) the 32 that the learning rate was tuned for (--reference-batch-size): for 96 samples "
                "linear scaling makes 6e-4 of 2e-4, square-root scaling 3.46e-4; accumulation 3 gives 36 (+12.5 %), "
                "the nearest whole number (exact would be 2.67; 2 gives 24, -25 %); exactly 32: 4 x 4 x accumulation 2 "
                "or 4 x 2 x accumulation 4"
            ),
            note="the accumulation of one GPU, on four",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 4,
                "world_size": 8,
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
            },
            message="accumulation 1 gives exactly 32",
            note="accumulation on the full number of ranks",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 20,
                "strategy": "none",
                "gradient_accumulation_steps": 2,
                "reference_batch_size": 32,
            },
            message="no other accumulation comes nearer; exactly 32: batch size 16 x accumulation 2 or batch size 32",
            note="40 is nearer to 32 than 20 is: another batch size is the way",
        ),
        Invalid(
            MODEL,
            training={
                "batch_size": 3,
                "world_size": 4,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
                "reference_learning_rate": 2e-4,
                "learning_rate": 2e-4,
            },
            note="the learning rate of the reference was not touched",
        ),
        Invalid(
            MODEL,
            training={
                "total_batch_size": 12,
                "gradient_accumulation_steps": 8,
                "reference_batch_size": 32,
            },
            message="12 over all devices x accumulation 8",
            note="a total is enough: how it is divided does not matter here",
        ),
        Invalid(
            MODEL,
            training={"effective_batch_size": 64, "batch_size": 4, "world_size": 8, "reference_batch_size": 32},
            message="accumulation 2 (effective_batch_size) makes an optimiser step of 64 samples",
            note="accumulation that nobody states: it follows from the three sizes",
        ),
        Invalid(
            ACCELERATE.format(steps=8),
            training={"world_size": 4, "reference_batch_size": 32},
            fixed=ACCELERATE.format(steps=3),
            message="accumulation 8 (Accelerator.gradient_accumulation_steps) makes an optimiser step of 96 samples",
            note="the number stands in the script",
        ),
        Invalid(
            LOOP.format(steps=8, divided=""),
            training={"world_size": 4, "reference_batch_size": 32},
            fixed=LOOP.format(steps=3, divided=""),
            message="accumulation 8 makes an optimiser step of 96 samples",
            note="the number stands in the loop of the script",
        ),
        Invalid(
            LOOP.format(steps=8, divided=" / 8"),
            training={"world_size": 4, "reference_batch_size": 32},
            message="accumulation 8 makes an optimiser step of 96 samples",
            note="the loss is divided by the same number: to change one of the two would scale the gradient",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        training = context.training
        if training.learning_rate_scaling not in (None, "none"):
            return
        scaling = BatchScaling.of(training)
        if scaling is None:
            if (training.gradient_accumulation_steps or 1) > 1:
                yield self.not_checked(BatchScaling.missing(training))
            return
        if not scaling.overshoots or scaling.scaled_by_hand:
            return
        key = training.key(FACT)
        named = "" if key == "accumulation" else f" ({key})"  # what a script's own loop is called
        times = f"{scaling.samples / scaling.reference:.3g} times ({scaling.error(scaling.samples)})"
        yield self.diagnostic(
            training.span(FACT, "effective_batch_size", "reference_batch_size"),
            f"accumulation {scaling.accumulation}{named} makes an optimiser step of {scaling.samples} samples "
            f"({scaling.terms}), {times} the {scaling.reference} that the learning rate was tuned for "
            f"({scaling.origin}): {scaling.ways}",
            data={**scaling.data, "key": key, "source": training.origin(FACT)},
            fix=_fix(context, scaling),
        )


def _fix(context: Context, scaling: BatchScaling) -> Fix:
    """The nearest accumulation; as an edit only where its number is written down."""
    key, nearest, forward = context.training.key(FACT), scaling.nearest_accumulation, scaling.forward
    if nearest is None or forward is None or nearest == scaling.accumulation:
        return Fix("Change the batch size per device, or scale the learning rate with the batch")
    source, total = context.training.sources.get(FACT), context.training.effective_batch_size
    if source is not None and source.derivation is not None:
        samples = f"{nearest * forward} samples in one optimiser step"
        return Fix(f"Choose {key} so that the accumulation becomes {nearest} ({samples})")
    if total is not None:  # stated beside it: to change one of the two alone would contradict the other
        title = f"Set {key} to {nearest} and {context.training.key('effective_batch_size')} to {nearest * forward}"
        return context.state_facts({FACT: nearest, "effective_batch_size": nearest * forward}, title=title)
    if _stands_twice(context, scaling.accumulation):
        return Fix(f"Set {key} to {nearest}, in every place of the loop that has the number {scaling.accumulation}")
    return context.state_facts({FACT: nearest}, title=f"Set {key} to {nearest}")


def _stands_twice(context: Context, steps: int) -> bool:
    """Whether a script calculates with the accumulation in another place too, as in `loss / 8` and `i % 8 == 7`."""
    span = context.training.span(FACT)
    source = None if span is None else context.read_source(span.path)
    if span is None or source is None:
        return False
    return any(
        isinstance(number, ast.Constant) and number.value in same and source.span_of(number) != span
        for node in ast.walk(source.tree)
        for number, same in _operands(node, steps)
    )


def _operands(node: ast.AST, steps: int) -> list[tuple[ast.expr, tuple[float, ...]]]:
    """The operands of a calculation or comparison, each with the numbers that mean the accumulation there."""
    match node:
        case ast.BinOp(left=left, right=right, op=ast.Div() | ast.Mult() | ast.Mod() | ast.FloorDiv()):
            return [(operand, (steps, 1 / steps)) for operand in (left, right)]
        case ast.AugAssign(value=value, op=ast.Div() | ast.Mult()):
            return [(value, (steps, 1 / steps))]
        case ast.Compare(comparators=comparators):
            return [(operand, (steps, steps - 1)) for operand in comparators]
    return []
