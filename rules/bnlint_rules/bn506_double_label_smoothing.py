"""BN506: labels that are smoothed twice."""

from __future__ import annotations

from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, Rule, Severity, Valid

SCRIPT = """\
model = nn.Linear(4, 2)


def main(loader):
    from timm.data import Mixup

    mixup = Mixup(mixup_alpha=0.8, num_classes=2)
    criterion = nn.CrossEntropyLoss(label_smoothing={smoothing})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in loader:
        x, y = mixup(x, y)
        criterion(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
"""


class DoubleLabelSmoothing(Rule):
    """Labels smoothed by a before a loss that smooths them by b are smoothed by 1 - (1 - a)(1 - b).

    Uniform smoothing mixes the label with 1/K for each of K classes. Done twice, the label keeps the weight
    (1 - a)(1 - b): 0.1 and 0.1 make 0.19, which `cross_entropy` on torch 2.13 confirms to the last digit.

    ## Why it matters

    Both settings are usually meant to be the whole smoothing: one came with the data pipeline (mixup, a
    one-hot transform), the other with the loss or the trainer. The run then trains towards less confident
    predictions than any of its settings says, and a comparison with a published recipe fails.

    ## Fix safety

    Unsafe: training changes. Where a script writes down the smoothing of its loss, the fix sets that to 0 and leaves
    the labels as they come. Elsewhere it is advice: which of the two is meant is not visible.

    ## References

    - Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
      https://arxiv.org/abs/1512.00567
    - [PyTorch: CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html),
      `label_smoothing` with class probabilities as the target
    """

    code = "BN506"
    name = "double-label-smoothing"
    severity = Severity.WARNING
    needs = ("training.label_smoothing", "training.target_smoothing")
    fixable = True

    valid = (
        Valid("model = nn.Linear(4, 2)", training={"label_smoothing": 0.1, "target_smoothing": 0.0}, inputs=((4,),)),
        Valid(
            "model = nn.Linear(4, 2)",
            training={"label_smoothing": 0, "target_smoothing": 0.1},
            inputs=((4,),),
            note="the loss takes the smoothed labels as they are",
        ),
        Valid(
            "model = nn.Linear(4, 2)",
            training={"label_smoothing": 0.1},
            inputs=((4,),),
            note="unknown whether the labels come smoothed",
        ),
    )
    invalid = (
        Invalid(
            "model = nn.Linear(4, 2)",
            training={"label_smoothing": 0.1, "target_smoothing": 0.1},
            inputs=((4,),),
            message="0.19",
        ),
        Invalid(
            "model = nn.Linear(4, 2)",
            training={"label_smoothing": 0.2, "target_smoothing": 0.05},
            inputs=((4,),),
            message="1 - (1 - 0.05)(1 - 0.2) = 0.24",
        ),
        Invalid(
            SCRIPT.format(smoothing="0.1"),
            fixed=SCRIPT.format(smoothing="0.0"),
            inputs=((4,),),
            message="Mixup.label_smoothing 0.1 before the loss",
            note="a script states both",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic]:
        training = context.training
        before, loss = training.target_smoothing, training.label_smoothing
        if not before or not loss:
            return
        together = 1 - (1 - before) * (1 - loss)
        yield self.diagnostic(
            training.span("target_smoothing", "label_smoothing"),
            f"labels are smoothed twice: {training.key('target_smoothing')} {before:g} before the loss and "
            f"{training.key('label_smoothing')} {loss:g} in it, together 1 - (1 - {before:g})(1 - {loss:g}) = "
            f"{together:.4g}",
            data={
                "target_smoothing": before,
                "label_smoothing": loss,
                "combined_smoothing": round(together, 12),
                "key": training.key("target_smoothing"),
                "source": training.origin("target_smoothing"),
                "loss_key": training.key("label_smoothing"),
                "loss_source": training.origin("label_smoothing"),
            },
            fix=_fix(context),
        )


def _fix(context: Context) -> Fix:
    """Turns the smoothing in the loss off where a script states it; which of the two is meant, a file cannot tell."""
    place = context.training.span("label_smoothing")
    if place is None or not place.path.endswith(".py") or not context.is_argument(place):
        return Fix("Smooth the labels in one place: set one of the two to 0")
    return context.state_facts({"label_smoothing": 0.0}, title="Smooth the labels in one place: not in the loss again")
