"""BN505: a loss that gets probabilities where it wants logits, or logits where it wants probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bnlint.api import (
    Context,
    Diagnostic,
    Fix,
    Invalid,
    LossInput,
    ModelOutput,
    NotChecked,
    Rule,
    Severity,
    Span,
    Valid,
    loss_inputs,
    returned_activation,
)

# The classes, functions and methods of an activation, by its name.
ACTIVATIONS = {
    **dict.fromkeys(("softmax", "Softmax", "Softmax2d"), "softmax"),
    **dict.fromkeys(("log_softmax", "LogSoftmax"), "log_softmax"),
    **dict.fromkeys(("sigmoid", "Sigmoid", "expit"), "sigmoid"),
    **dict.fromkeys(("logsigmoid", "LogSigmoid"), "logsigmoid"),
}
# Which activations a loss must not get as the last operation on its input, and why.
REFUSED = {
    "cross_entropy": (("softmax", "sigmoid"), "which it takes for logits and puts through log_softmax"),
    "nll": (("softmax", "sigmoid"), "of which it does not take the logarithm"),
    "bce_with_logits": (("softmax", "sigmoid"), "which it takes for logits and puts through a sigmoid"),
    "bce": (("log_softmax", "logsigmoid"), "which are negative, where it wants probabilities"),
}
ADVICE = {
    "cross_entropy": "Give the loss the logits: remove the {0}",
    "nll": "Give the loss log-probabilities (log_softmax), or cross_entropy the logits",
    "bce_with_logits": "Give the loss the logits: remove the {0}",
    "bce": "Give binary_cross_entropy_with_logits the logits",
}
# What leaves the values of an output as they are.
SHAPES = (
    *(
        "view",
        "reshape",
        "flatten",
        "Flatten",
        "squeeze",
        "unsqueeze",
        "unflatten",
        "Unflatten",
        "permute",
        "transpose",
    ),
    *("t", "T", "contiguous", "to", "float", "double", "clone", "Identity", "getitem"),
)
# What ends in a number of any size.
LINEAR = ("Linear", "linear", "addmm", "Conv1d", "Conv2d", "Conv3d", "conv1d", "conv2d", "conv3d")
# A file that calls a loss itself is judged where it does.
CALLS_LOSS = re.compile(r"cross_entropy|nll_loss|(CrossEntropy|NLL|BCE|BCEWithLogits)Loss")


@dataclass(frozen=True)
class _Output:
    """The last operation of a model with a single output: `name` is that of an activation, "linear", or empty."""

    name: str
    module: str | None = None
    span: Span | None = None
    classes: int | None = None


class SoftmaxBeforeCrossEntropy(Rule):
    """`CrossEntropyLoss` is log_softmax and `NLLLoss` in one: probabilities are no logits to it.

    Its siblings differ in what they want: `NLLLoss` log-probabilities, `BCEWithLogitsLoss` logits, `BCELoss`
    probabilities. The rule knows the last operation on the prediction from the script, or from the model.

    ## Why it matters

    Nothing raises. Probabilities lie between 0 and 1, so a second softmax can make them no further apart than
    e : 1, and the loss of a perfect prediction is ln(1 + (K - 1) / e) for K classes: 0.313 for 2, 1.461 for 10, 5.909
    for 1000. The gradient of the samples that the model is sure of does not vanish, and training is slow and stalls
    early. After a sigmoid, `BCEWithLogitsLoss` of a perfect negative is ln 2 = 0.693. `NLLLoss` of probabilities is
    minus the probability itself: bounded, and blind to how wrong a prediction is.

    The rule is silent for log_softmax before `CrossEntropyLoss`, which changes nothing; for a softmax that is not the
    last operation, such as attention or a temperature after it; for a logarithm in between; for probabilities as the
    target (soft labels, distillation); for losses of another kind, `KLDivLoss` and `MSELoss` among them; and for
    models with several outputs.

    ## Fix safety

    Unsafe: training changes. The fix takes the activation out of the script, or makes log_softmax of it for
    `NLLLoss`, where its result goes into the loss and nowhere else. It is advice for an activation in the model, which
    may serve the predictions of other code.

    ## References

    - [PyTorch: CrossEntropyLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html), "the
      unnormalized logits"
    - [PyTorch: BCEWithLogitsLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html)
    - [PyTorch: NLLLoss](https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html)
    """

    code = "BN505"
    name = "softmax-before-cross-entropy"
    severity = Severity.WARNING
    needs = ()
    fixable = True

    valid = (
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 10), nn.LogSoftmax(dim=1))
for x, y in []:
    F.nll_loss(model(x), y).backward()
""",
            inputs=((4,),),
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    logits = model(x)
    F.cross_entropy(logits, y).backward()
    accuracy = (F.softmax(logits, dim=1).argmax(1) == y).sum()
""",
            inputs=((4,),),
            note="a softmax for the accuracy alone",
        ),
        Valid(
            """\
class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(4, 1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return self.fc((self.score(x).softmax(dim=1) * x).sum(1))


model = Attention()
for x, y in []:
    F.cross_entropy(model(x), y).backward()
""",
            training={"loss": "cross_entropy"},
            inputs=((5, 4),),
            note="attention is not the output",
        ),
        Valid(
            """\
class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        logits = self.fc(x)
        return logits, logits.softmax(dim=1)


model = Both()
for x, y in []:
    logits, probabilities = model(x)
    F.cross_entropy(logits, y).backward()
""",
            training={"loss": "cross_entropy"},
            inputs=((4,),),
            note="logits and probabilities",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 10), nn.Softmax(dim=1))
for x, y in []:
    probabilities = model(x)
    F.nll_loss(torch.log(probabilities + 1e-8), y).backward()
""",
            inputs=((4,),),
            note="the logarithm is taken by hand",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
teacher = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    soft = F.softmax(teacher(x) / 4, dim=1)
    F.kl_div(F.log_softmax(model(x) / 4, dim=1), soft, reduction="batchmean").backward()
    F.cross_entropy(model(x), soft).backward()
    F.mse_loss(model(x).softmax(dim=1), soft).backward()
""",
            inputs=((4,),),
            note="distillation: probabilities are the target, or the loss is another one",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 1), nn.Sigmoid())
criterion = nn.BCELoss()
for x, y in []:
    criterion(model(x).squeeze(1), y).backward()
    criterion(torch.sigmoid(model[0](x)), y).backward()
""",
            inputs=((4,),),
            note="BCELoss wants the sigmoid",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    similarity = F.softmax(model(x), dim=1) / 0.07
    F.cross_entropy(similarity, y).backward()
""",
            inputs=((4,),),
            note="a temperature after it makes other numbers of the probabilities",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.fc(x)
        return x if self.training else x.softmax(dim=1)


model = Net()
""",
            training={"loss": "cross_entropy"},
            inputs=((4,),),
            note="probabilities in evaluation only",
        ),
        Valid(
            "model = nn.Sequential(nn.Linear(4, 10), nn.LogSoftmax(dim=1))",
            training={"loss": "cross_entropy"},
            inputs=((4,),),
            note="log_softmax of log_softmax is the same",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 1))


def focal(logits, target):
    p = torch.sigmoid(logits)
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (ce * (1 - p) ** 2).mean()


for x, y in []:
    focal(model(x), y).backward()
""",
            inputs=((4,),),
            note="a focal loss has both",
        ),
    )
    invalid = (
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    output = F.softmax(model(x), dim=1)
    loss = F.cross_entropy(output, y)
    loss.backward()
    optimizer.step()
""",
            inputs=((4,),),
            fixed="""\
model = nn.Sequential(nn.Linear(4, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in []:
    output = model(x)
    loss = F.cross_entropy(output, y)
    loss.backward()
    optimizer.step()
""",
            message="cross_entropy gets the output of softmax on line 5, which it takes for logits",
            note="a plain loop",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        return F.softmax(self.fc(x), dim=1)


model = Net()


class Trainer:
    def __init__(self, model):
        self.model = model
        self.criterion = nn.CrossEntropyLoss()

    def step(self, x, y):
        output = self.model(x)
        return self.criterion(output, y)

    def fit(self, loader):
        for x, y in loader:
            self.step(x, y).backward()


Trainer(model).fit([])
""",
            inputs=((4,),),
            modules=("",),
            message="cannot fall below 1.461 for 10 classes",
            note="a trainer class, and the softmax in the model",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 1))


def train(loader, criterion):
    for x, y in loader:
        criterion(torch.sigmoid(model(x)).squeeze(1), y).backward()


train([], nn.BCEWithLogitsLoss())
""",
            inputs=((4,),),
            fixed="""\
model = nn.Sequential(nn.Linear(4, 1))


def train(loader, criterion):
    for x, y in loader:
        criterion(model(x).squeeze(1), y).backward()


train([], nn.BCEWithLogitsLoss())
""",
            message="BCEWithLogitsLoss gets the output of sigmoid on line 7",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 10), nn.Softmax(dim=1))
for x, y in []:
    loss = F.nll_loss(model(x), y)
    loss.backward()
""",
            inputs=((4,),),
            modules=("1",),
            message="nll_loss gets the output of softmax in the model, of which it does not take the logarithm",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
criterion = nn.BCELoss()
for x, y in []:
    output = model(x)
    loss = criterion(output.squeeze(1), y)
    loss.backward()
""",
            inputs=((4,),),
            modules=("2",),
            message="BCELoss gets the output of a linear layer",
            note="logits where probabilities are wanted",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    loss = F.nll_loss(F.softmax(model(x) / 2, dim=1), y)  # temperature 2
    loss.backward()
""",
            inputs=((4,),),
            fixed="""\
model = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    loss = F.nll_loss(F.log_softmax(model(x) / 2, dim=1), y)  # temperature 2
    loss.backward()
""",
            message="nll_loss gets the output of softmax on line 4",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 10))
for x, y in []:
    output = model(x).softmax(dim=1)
    F.cross_entropy(output, y).backward()
    print(output.max())
""",
            inputs=((4,),),
            message="cross_entropy gets the output of softmax on line 4",
            note="the probabilities are shown as well: advice",
        ),
        Invalid(
            "model = nn.Sequential(nn.Linear(4, 3), nn.Softmax(dim=1))",
            training={"loss": "cross_entropy"},
            inputs=((4,),),
            modules=("1",),
            message="cannot fall below 0.551 for 3 classes",
            note="the loss is stated in the configuration",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.program is not None:
            seen: set[Span] = set()
            undecided: dict[Span, NotChecked] = {}
            for item in loss_inputs(context.program.losses):
                if item.criterion not in REFUSED or item.span in seen:
                    continue
                found = self._of_script(item, context)
                if isinstance(found, Diagnostic):
                    seen.add(item.span)
                    yield found
                elif found is not None:
                    undecided[item.span] = found
            yield from (reason for span, reason in undecided.items() if span not in seen)
        elif context.has_model and not _is_of_script(context):
            yield from self._of_configuration(context)

    def _of_script(self, item: LossInput, context: Context) -> Diagnostic | NotChecked | None:
        """A criterion that the script calls, on what it made itself or on what a model returned."""
        refused, why = REFUSED[item.criterion]
        name = item.event.criterion.name
        place = f"{item.span.path}:{item.span.line}"
        if item.activation is not None:
            if item.activation not in refused:
                return None
            if not item.event.is_certain:
                return self.not_checked(f"{place}: whether its module takes this loss is not known")
            span = item.activation_span
            line = "" if span is None else f" on line {span.line}"
            return self.diagnostic(
                item.span,
                f"{name} gets the output of {item.activation}{line}, {why}{_bound(item.criterion, None)}",
                related=() if span is None else ((span, item.activation),),
                data={"loss": item.criterion, "activation": item.activation, "classes": None},
                fix=context.script_fixes.take_activation_off(
                    item, title=ADVICE[item.criterion].format(item.activation), logarithm=item.criterion == "nll"
                ),
            )
        outputs = [_output_of_call(output, context) for output in item.outputs]
        unwanted = (*refused, *(("linear",) if item.criterion == "bce" else ()))
        faulty = [output for output in outputs if output is not None and output.name in unwanted]
        if not faulty:
            return None
        if not item.event.is_certain:
            return self.not_checked(f"{place}: whether its module takes this loss is not known")
        if len(faulty) < len(outputs):
            what = "a linear layer" if faulty[0].name == "linear" else faulty[0].name
            return self.not_checked(
                f"{place}: the prediction may come from {len(outputs)} model calls, of which {len(faulty)} "
                f"return{'s' * (len(faulty) == 1)} the output of {what}"
            )
        return self._of_model(item.criterion, name, faulty[0], item.span)

    def _of_configuration(self, context: Context) -> Iterator[Diagnostic]:
        """A criterion that a training file states, on what the model returns."""
        training = context.training
        loss = training.loss or ""
        output = _output(context) if loss in REFUSED and not training.is_default("loss") else None
        if output is not None and output.name in REFUSED[loss][0]:
            yield self._of_model(loss, training.key("loss") + f" {loss}", output, training.span("loss"))

    def _of_model(self, criterion: str, loss: str, output: _Output, place: Span | None) -> Diagnostic:
        linear = output.name == "linear"
        what = "a linear layer" if linear else f"{output.name} in the model"
        why = "and wants probabilities: what is not between 0 and 1 raises" if linear else REFUSED[criterion][1]
        return self.diagnostic(
            place or output.span,
            f"{loss} gets the output of {what}, {why}{_bound(criterion, output.classes)}",
            module=output.module,
            related=() if output.span is None or place is None else ((output.span, "the last operation of the model"),),
            data={"loss": criterion, "activation": None if linear else output.name, "classes": output.classes},
            fix=Fix(ADVICE[criterion].format(output.name)),
        )


def _bound(criterion: str, classes: int | None) -> str:
    """What the loss cannot fall below, as the end of a sentence."""
    if criterion == "bce_with_logits":
        return f": that of a perfect negative is ln 2 = {math.log(2):.3f}"
    if criterion == "cross_entropy" and classes and classes > 1:
        return f": it cannot fall below {math.log(1 + (classes - 1) / math.e):.3f} for {classes} classes"
    return ""


def _is_of_script(context: Context) -> bool:
    """Whether the loss is called in a script, which is judged there: it may take a logarithm in between."""
    span = context.training.span("loss")
    if span is not None and span.path.endswith((".py", ".ipynb")):
        return True
    return context.source is not None and CALLS_LOSS.search(context.source.text) is not None


def _output_of_call(result: ModelOutput, context: Context) -> _Output | None:
    """The last operation behind what a model call in a script returned: as it was traced, else as its source shows."""
    model = None if result.call.model.path else context.model_of(result.call.model.allocation)
    traced = None if model is None else _output(model, result.place)
    if traced is not None:
        return traced
    found = returned_activation(result)
    if found is None:
        return None
    name, node, module = found
    return _Output(name, span=module.span(node))


def _output(context: Context, place: tuple[int | str, ...] = ()) -> _Output | None:
    """The last operation of a model in training mode; None for several outputs and where it could not be traced."""
    graph = context.graph()
    output = next(iter(graph.fx.find_nodes(op="output")), None)
    if graph.step == "modules" or graph.error is not None or output is None:
        return None
    node: Any = output.args[0]
    shape = graph.output
    for key in place:
        try:
            node, shape = node[key], shape[key]
        except (KeyError, IndexError, TypeError):
            return None
    if not place and len(output.all_input_nodes) == 1:
        node = output.all_input_nodes[0]
    if not isinstance(shape, tuple) or not hasattr(node, "meta"):
        return None
    classes = shape[1] if len(shape) == 2 else None
    while node.meta.get("op") in SHAPES and node.all_input_nodes:
        node = node.all_input_nodes[0]
    op = str(node.meta.get("op"))
    name = ACTIVATIONS.get(op.removesuffix("_"), "linear" if op in LINEAR else "")
    module = node.meta.get("module")
    span = (context.span_of(module) if node.op == "call_module" and module else None) or node.meta.get("span")
    return _Output(name, module, span, classes)
