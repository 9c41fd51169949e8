"""BN308: an averaged model with batch-norm statistics that are not its own."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Span, Valid, events

_USE_BUFFERS = 4  # the position of use_buffers among the arguments of AveragedModel
# Ways to bring the buffers along that are not followed.
_BUFFERS = re.compile(
    r"buffers\(|running_(mean|var)|num_batches_tracked|bn_update|update_bn|state_dict\(\)\s*\.\s*items"
)


class AveragedModelStaleStatistics(Rule):
    """An average of parameters leaves the batch-norm statistics behind: they belong to another model.

    ## Why it matters

    The activations of averaged weights have a mean and a variance of their own. In evaluation mode a batch norm
    normalises with its buffers, so these must follow. They do not where a moving average goes over `parameters()`
    alone: the buffers of the copy keep the values of the moment in which it was made, after an epoch or two those of a
    model that no longer exists.

    `torch.optim.swa_utils.AveragedModel` copies the buffers of the live model at each `update_parameters` (read in the
    source of torch 2.13), which are not those of an average over many epochs: its documentation asks for `update_bn`
    once the averaging is done, or for `use_buffers=True`.

    The rule fires where the averaged model has batch norm and is called in evaluation mode (an AveragedModel also
    where it is exported, or its state alone is saved), and nothing gives it statistics: no `update_bn`, no loop over
    buffers, no `load_state_dict` during the training, no call of it in training mode. A momentum encoder that is called
    in training mode normalises with its batches and is left alone; so is an average over `state_dict()`, which has the
    buffers in it. For an AveragedModel with a function of its own (an exponential average) it says that it did not
    check: near the live model the live statistics may do.

    ## Fix safety

    Unsafe: the averaged model evaluates differently. The fix gives the AveragedModel `use_buffers=True`, which averages
    the statistics as well; a pass over the training data with `update_bn` costs more and gives those of the average.
    It is advice for an average that the script computes on its own.

    ## References

    - [PyTorch: torch.optim.swa_utils](https://docs.pytorch.org/docs/stable/optim.html#taking-care-of-batch-normalization)
    - https://arxiv.org/abs/1803.05407 (stochastic weight averaging, section 3.2)
    """

    code = "BN308"
    name = "averaged-model-stale-statistics"
    severity = Severity.WARNING
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
from torch.optim.swa_utils import AveragedModel, update_bn

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
swa_model = AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    swa_model.update_parameters(model)
update_bn([], swa_model)
swa_model.eval()
with torch.no_grad():
    print(swa_model(torch.randn(16, 4)))
""",
        ),
        Valid(
            """\
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
ema_model.update_parameters(model)
ema_model.eval()
print(ema_model(torch.randn(16, 4)))
""",
            note="the buffers are averaged as well",
        ),
        Valid(
            """\
import copy


class EMA:
    def __init__(self, model, decay=0.999):
        self.ema = copy.deepcopy(model).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, model):
        for average, parameter in zip(self.ema.parameters(), model.parameters()):
            average.mul_(self.decay).add_(parameter, alpha=1 - self.decay)
        for kept, buffer in zip(self.ema.buffers(), model.buffers()):
            kept.copy_(buffer)


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ema = EMA(model)
for step in range(100):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    ema.update(model)
with torch.no_grad():
    print(ema.ema(torch.randn(16, 4)))
""",
            note="the buffers are copied beside the parameters",
        ),
        Valid(
            """\
import copy

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ema = copy.deepcopy(model).eval()
for step in range(100):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    with torch.no_grad():
        source = model.state_dict()
        for key, value in ema.state_dict().items():
            if value.dtype.is_floating_point:
                value.mul_(0.99).add_(source[key], alpha=0.01)
print(ema(torch.randn(16, 4)))
""",
            note="a state dict has the buffers in it",
        ),
        Valid(
            """\
import copy

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
momentum_encoder = copy.deepcopy(model)
for step in range(100):
    with torch.no_grad():
        for key, query in zip(momentum_encoder.parameters(), model.parameters()):
            key.data = key.data * 0.99 + query.data * 0.01
        goal = momentum_encoder(torch.randn(16, 4))
    F.mse_loss(model(torch.randn(16, 4)), goal).backward()
    optimizer.step()
""",
            note="a momentum encoder in training mode: it normalises with its batches",
        ),
        Valid(
            """\
import copy

network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
target = copy.deepcopy(network)
target.eval()
for step in range(100):
    with torch.no_grad():
        value = target(torch.randn(16, 4))
    F.mse_loss(network(torch.randn(16, 4)), value).backward()
    optimizer.step()
    if step % 10 == 0:
        target.load_state_dict(network.state_dict())
""",
            note="a target network that takes over the whole state",
        ),
        Valid(
            """\
import copy

model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
ema = copy.deepcopy(model).eval()
for step in range(100):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    with torch.no_grad():
        for average, parameter in zip(ema.parameters(), model.parameters()):
            average.lerp_(parameter, 0.01)
print(ema(torch.randn(16, 4)))
""",
            note="no batch norm: the parameters are all there is",
        ),
        Valid(
            """\
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
ema_model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.999))
ema_model.update_parameters(model)
ema_model.eval()
print(ema_model(torch.randn(16, 4)))
""",
            note="not checked: an exponential average with the live model's statistics",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.optim.swa_utils import AveragedModel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
swa_model = AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    swa_model.update_parameters(model)
swa_model.eval()
with torch.no_grad():
    print(swa_model(torch.randn(16, 4)))
""",
            fixed="""\
from torch.optim.swa_utils import AveragedModel

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
swa_model = AveragedModel(model, use_buffers=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    swa_model.update_parameters(model)
swa_model.eval()
with torch.no_grad():
    print(swa_model(torch.randn(16, 4)))
""",
            message="is called in evaluation mode on line 13",
            note="a plain loop: update_bn is missing",
        ),
        Invalid(
            """\
import copy


def update_average(ema, model, decay):
    with torch.no_grad():
        for average, parameter in zip(ema.parameters(), model.parameters()):
            average.data.mul_(decay).add_(parameter.data, alpha=1 - decay)


def evaluate(model):
    model.eval()
    with torch.no_grad():
        return model(torch.randn(16, 4)).argmax(1)


def main():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    ema = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(100):
        F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
        optimizer.step()
        update_average(ema, model, 0.999)
    print(evaluate(ema))


if __name__ == "__main__":
    main()
""",
            message="ema, which evaluate() gets on line 25, is called in evaluation mode on line 14, but only its "
            "parameters are averaged: the running statistics of its 1 batch norm stay those of the copy on line 19",
            note="functions",
        ),
        Invalid(
            """\
import copy


class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.ema_model = copy.deepcopy(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def update(self):
        for (_, average), (_, parameter) in zip(self.ema_model.named_parameters(), self.model.named_parameters()):
            average.data = 0.999 * average.data + 0.001 * parameter.data

    def fit(self):
        for epoch in range(3):
            self.model.train()
            F.cross_entropy(self.model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
            self.optimizer.step()
            self.update()
            self.validate()

    @torch.no_grad()
    def validate(self):
        self.ema_model.eval()
        return self.ema_model(torch.randn(16, 4)).argmax(1)


Trainer().fit()
""",
            message="self.ema_model is called in evaluation mode",
            note="a trainer class",
        ),
        Invalid(
            """\
from torch.optim import swa_utils

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
averaged = swa_utils.AveragedModel(model)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    averaged.update_parameters(model)
torch.save(averaged.module.state_dict(), "average.pt")
""",
            fixed="""\
from torch.optim import swa_utils

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
averaged = swa_utils.AveragedModel(model, use_buffers=True)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    averaged.update_parameters(model)
torch.save(averaged.module.state_dict(), "average.pt")
""",
            message="is saved on line 11",
            note="the average is saved for good",
        ),
        Invalid(
            """\
actor, critic = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), nn.Linear(2, 1)
target = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(actor.parameters(), lr=0.1)
target.load_state_dict(actor.state_dict())
target.eval()
for step in range(100):
    with torch.no_grad():
        action = target(torch.randn(16, 4))
    F.mse_loss(critic(actor(torch.randn(16, 4))), critic(action)).backward()
    optimizer.step()
    for kept, parameter in zip(target.parameters(), actor.parameters()):
        kept.data.copy_(0.005 * parameter.data + 0.995 * kept.data)
""",
            message="those of the model built on line 3",
            note="the soft update of a target network",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        assert context.program is not None
        groups: dict[object, list[events.Averaged]] = defaultdict(list)
        for averaged in context.program.of_kind(events.Averaged):
            groups[averaged.target.allocation].append(averaged)
        for group in groups.values():
            event = next((item for item in group if _is_average(item)), None)
            layers = None if event is None else context.mode_dependent(event.target)
            if event is None or layers is None or layers.has_batch_norm is False or _is_refreshed(context, group):
                continue
            use = _use(context, event)
            if use is None:
                continue
            line = f"{use.where.span.path}:{use.where.span.line}"
            reason = _doubt(event)
            if reason is None and layers.has_batch_norm is None:
                reason = "whether the averaged model has batch norm is not known"
            yield self._finding(context, event, use) if reason is None else self.not_checked(f"{line}: {reason}")

    def _finding(
        self, context: Context, event: events.Averaged, use: events.Forward | events.Export | events.Saved
    ) -> Diagnostic:
        line, built = use.where.span.line, event.target.allocation
        name = "the averaged model" if isinstance(use, events.Saved) else context.name_in(use)
        handed = None if isinstance(use, events.Saved) else context.handed_over(use)
        shown, given = name, list[tuple[Span, str]]()
        if handed is not None:
            name, function, call = handed
            place = "" if call.path == use.where.span.path else f" of {call.path}"
            shown = f"{name}, which {function}() gets on line {call.line}{place},"
            given = [(call, f"{name} is handed over here")]
        what = "saved" if isinstance(use, events.Saved) else "exported" if isinstance(use, events.Export) else "called"
        done = f"{shown} is {what}{' in evaluation mode' * (what == 'called')} on line {line}"
        layers = context.mode_dependent(event.target)
        number = layers.batch_norms
        norms = "its batch norms" if number is None else f"its {number} batch norm{'s' * (number > 1)}"
        data = {"model": name, "line": line, "batch_norms": layers.batch_norms, "kind": event.kind}
        if event.kind == "AveragedModel":
            return self.diagnostic(
                event.where.span,
                f"{done} without update_bn: the running statistics of {norms} are those of the live model at the last "
                f"update_parameters(), not of the average",
                module=layers.module,
                related=(*given, (use.where.span, f"it is {what} here")),
                data=data,
                fix=context.replace_call_argument(
                    event.where.span,
                    "use_buffers",
                    "True",
                    position=_USE_BUFFERS,
                    title=f"Call torch.optim.swa_utils.update_bn(loader, model) before it is {what}, or set "
                    f"use_buffers=True",
                ),
            )
        made = built.module.span(built.node)
        kept = f"the copy on line {made.line}" if built.origin == "copy" else f"the model built on line {made.line}"
        return self.diagnostic(
            use.where.span,
            f"{done}, but only its parameters are averaged: the running statistics of {norms} stay those of {kept}",
            module=layers.module,
            related=(
                *given,
                (event.where.span, "its parameters are averaged here"),
                (made, "its buffers are from here"),
            ),
            data=data,
            fix=Fix(
                "Copy the buffers where the parameters are averaged: kept.copy_(buffer) over both models' buffers()"
            ),
        )


def _is_average(event: events.Averaged) -> bool:
    """Whether it is an average of parameters alone that goes on through the training."""
    if event.kind == "AveragedModel":
        return event.buffers is not True
    return event.source is not None and not event.buffers and len(event.where.loops) > 1


def _doubt(event: events.Averaged) -> str | None:
    """Why the statistics may do nevertheless."""
    if event.kind == "AveragedModel":
        if event.buffers is None:
            return "whether use_buffers is set is not known"
        call = event.where.node
        options = {item.arg: item.value for item in call.keywords} if isinstance(call, ast.Call) else {}
        function = options.get("multi_avg_fn") or options.get("avg_fn")
        is_equal = function is None or re.fullmatch(r"None|(.*\.)?get_swa\w*\(\)", ast.unparse(function)) is not None
        return None if is_equal else "an exponential average has the live model's statistics, which may be near its own"
    if _BUFFERS.search(event.where.module.source.text):
        return "whether the buffers are copied as well is not known"
    return None


def _is_refreshed(context: Context, group: list[events.Averaged]) -> bool:
    """Whether something gives the averaged model statistics: a pass over data, a copy, a call in training mode."""
    assert context.program is not None
    target = group[0].target.allocation
    if any(event.buffers for event in group):
        return True
    for event in context.program.all_events:
        match event:
            case events.StatisticsUpdated(model=model) if model.allocation is target:
                return True
            case events.Forward(model=model, mode=mode) if model.allocation is target and mode.training is not False:
                return True
            case events.WeightsLoaded(model=model) if model.allocation is target and event.where.loops:
                return True
    return False


def _use(context: Context, event: events.Averaged) -> events.Forward | events.Export | events.Saved | None:
    """What the averaged model is for, where its statistics count."""
    assert context.program is not None
    found: events.Forward | events.Export | events.Saved | None = None
    for item in context.program.all_events:
        if not isinstance(item, events.Forward | events.Export | events.Saved):
            continue
        if item.model.allocation is not event.target.allocation:
            continue
        if isinstance(item, events.Forward):
            return item
        if event.kind == "AveragedModel":
            found = found or item
    return found
