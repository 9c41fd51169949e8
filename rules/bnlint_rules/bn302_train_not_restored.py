"""BN302: a training loop that goes on in evaluation mode."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from bnlint.api import Context, Diagnostic, Invalid, NotChecked, Rule, Severity, Valid, events


@dataclass(frozen=True)
class _Step:
    """A training forward that an `eval()` left in evaluation mode, and the innermost loop around both."""

    call: events.Forward
    loop: ast.AST


class TrainNotRestored(Rule):
    """After `eval()` a model stays in evaluation mode until `train()` is called: the rest of the training, too.

    ## Why it matters

    A validation inside the training loop calls `model.eval()`. Without `model.train()` before the next training
    step, all steps from then on normalise with the running statistics, which no longer move, and without dropout:
    the model is regularised in its first epoch alone, and its statistics are those of a model that is long gone.
    Nothing raises.

    The rule follows the script through functions, methods and early returns. It fires where a forward that gradients
    are computed from finds the model in evaluation mode, and the `eval()` stands in a loop around that forward. An
    `eval()` before the loop is a choice and no fault, as is a mode that an option of the user decides for every step.
    It is silent for models without batch norm and dropout.

    ## Fix safety

    The fix writes `model.train()` where the training part of the loop begins. It is unsafe: the training changes.
    Advice where that would set frozen parts back to training mode (BN304).

    ## References

    - [PyTorch: Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html)
    - [PyTorch: evaluation mode](https://docs.pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval)
    """

    code = "BN302"
    name = "train-not-restored"
    severity = Severity.ERROR
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    model.train()
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
        ),
        Valid(
            """\
def validate(model, loader):
    was_training = model.training
    model.eval()
    with torch.no_grad():
        scores = [model(x).argmax(1) for x, _ in loader]
    model.train(was_training)
    return scores


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step, (x, y) in enumerate([]):
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    if step % 100 == 0:
        validate(model, [])
""",
            note="the validation itself restores the mode that it found",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.eval()
for x, y in []:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
""",
            note="fine-tuning in evaluation mode from the start: a choice",
        ),
        Valid(
            """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--fix-bn", action="store_true")
args = parser.parse_args()


def train_one_epoch(model, loader, optimizer):
    if args.fix_bn:
        model.eval()
    else:
        model.train()
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    train_one_epoch(model, [], optimizer)
""",
            note="an option decides for every step",
        ),
        Valid(
            """\
for fold in range(5):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            note="cross-validation: every fold builds a new model",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            note="no layer with a mode",
        ),
        Valid(
            """\
import copy

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    best = copy.deepcopy(model).eval()
    with torch.no_grad():
        print(best(torch.randn(16, 4)).argmax(1))
""",
            note="a copy evaluates",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(30):
    if epoch >= 20:
        model.eval()
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
""",
            note="eval() for the last epochs and no evaluation: it may be meant for the training, not checked",
        ),
    )
    invalid = (
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.train()
for epoch in range(3):
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            fixed="""\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.train()
for epoch in range(3):
    model.train()
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            message="after eval() on line 9 model trains on",
            note="a plain loop, validation after each epoch",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def train(model, loader, optimizer):
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def validate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x, _ in loader]


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, [], optimizer)
        validate(model, [])


if __name__ == "__main__":
    main()
""",
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))

    def forward(self, x):
        return self.layers(x)


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def validate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x, _ in loader]


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, [], optimizer)
        validate(model, [])


if __name__ == "__main__":
    main()
""",
            message="training forward on line 13",
            note="functions",
        ),
        Invalid(
            """\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.best = 0.0

    def fit(self, loader, steps):
        self.model.train()
        for step in range(steps):
            self.train_step(*next(loader))
            if step % 500 == 0:
                self.validate(loader)

    def train_step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self, loader):
        self.model.eval()
        score = sum((self.model(x).argmax(1) == y).float().mean().item() for x, y in loader)
        if score <= self.best:
            return
        self.best = score
        torch.save(self.model.state_dict(), "best.pt")
        self.model.train()


Trainer().fit([], 10_000)
""",
            fixed="""\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.best = 0.0

    def fit(self, loader, steps):
        self.model.train()
        for step in range(steps):
            self.train_step(*next(loader))
            if step % 500 == 0:
                self.validate(loader)

    def train_step(self, x, y):
        self.optimizer.zero_grad()
        self.model.train()
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self, loader):
        self.model.eval()
        score = sum((self.model(x).argmax(1) == y).float().mean().item() for x, y in loader)
        if score <= self.best:
            return
        self.best = score
        torch.save(self.model.state_dict(), "best.pt")
        self.model.train()


Trainer().fit([], 10_000)
""",
            message="without dropout",
            note="a trainer class whose validation returns early, before it restores the mode",
        ),
        Invalid(
            """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--validate", action="store_true")
args = parser.parse_args()

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in []:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    if args.validate:
        model.eval()
        with torch.no_grad():
            print(model(torch.randn(16, 4)).argmax(1))
""",
            message="training forward on line 12",
            note="only with an option: that path is a fault all the same",
        ),
        Invalid(
            """\
def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x, _ in loader]


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.train()
for epoch in range(3):
    evaluate(model, [])
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
            fixed="""\
def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x, _ in loader]


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.train()
for epoch in range(3):
    evaluate(model, [])
    model.train()
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
            note="validation first: not even the first epoch trains in the mode that train() set",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        program = context.program
        assert program is not None
        said: set[ast.AST | None] = set()
        for group in _trained_calls(context):
            layers = context.mode_dependent(group[0].model)
            step = _left_in_evaluation(group)
            if step is None or layers.is_none:
                continue
            place = step.call.mode.node
            if place in said:
                continue
            where = step.call.where.span
            line = f"{where.path}:{where.line}"
            left_over = _is_left_over(context, step, group)
            if left_over is False:
                continue
            said.add(place)
            if left_over is None:
                yield self.not_checked(f"{line}: it trains in evaluation mode, which its eval() may be meant for")
            elif layers.is_unknown:
                yield self.not_checked(f"{line}: whether the model has batch norm or dropout is not known")
            else:
                yield self._finding(context, step)

    def _finding(self, context: Context, step: _Step) -> Diagnostic:
        call, mode = step.call, step.call.mode
        assert mode.node is not None and mode.module is not None
        layers = context.mode_dependent(call.model)
        name = context.name_in(call)
        there, here = mode.module.span(mode.node), call.where.span
        file = "" if there.path == here.path else f" of {here.path}"
        effects = ["with running statistics"] * bool(layers.has_batch_norm)
        effects += ["without dropout"] * bool(layers.has_dropout)
        return self.diagnostic(
            there,
            f"after eval() on line {there.line} {name} trains on in evaluation mode, {' and '.join(effects)}: "
            f"no train() comes before the training forward on line {here.line}{file}, which stands in the same loop",
            module=layers.module,
            related=((here, "the training forward"),),
            data={
                "model": name,
                "training_line": here.line,
                "batch_norms": layers.batch_norms,
                "dropouts": layers.dropouts,
            },
            fix=context.script_fixes.set_training(
                call, step.loop, title=f"Call {context.call_of(call, 'train()')} before each training part of the loop"
            ),
        )


def _trained_calls(context: Context) -> Iterator[list[events.Forward]]:
    """The calls that gradients are computed from, by their place and their model."""
    program = context.program
    assert program is not None
    groups: dict[tuple[ast.AST, int, str], list[events.Forward]] = defaultdict(list)
    for call in program.forwards:
        if call in program.trained and call.gradients is not False:
            groups[call.where.node, id(call.model.allocation), call.model.path].append(call)
    yield from groups.values()


def _left_in_evaluation(calls: list[events.Forward]) -> _Step | None:
    """A call that an `eval()` in a loop around it has left in evaluation mode."""
    for call in calls:
        if call.mode.training is not False or not call.mode.explicit or _is_exceptional(call):
            continue
        shared = [loop for loop in call.where.loops if loop in call.mode.loops]
        if shared and isinstance(shared[-1], ast.For | ast.AsyncFor | ast.While):
            return _Step(call, shared[-1])
    return None


def _is_exceptional(call: events.Forward) -> bool:
    """Whether only an exception or an empty loop leads to a call in this mode."""
    assumed = (item.symbol.text for item in call.assumptions if item.holds)
    return any(":except" in text or ":empty" in text for text in assumed)


def _is_left_over(context: Context, step: _Step, group: list[events.Forward]) -> bool | None:
    """Whether the mode is left over from an evaluation (True) or a choice for the training (False)."""
    program = context.program
    assert program is not None
    own = step.call.model.allocation
    evaluates = any(
        call.mode.node is step.call.mode.node and (call not in program.trained or _is_apart(call, step))
        for call in program.forwards
        if call.model.allocation is own
    )
    if not any(call.mode.training is not False and _same_run(call, step.call) for call in group):
        switched = (item for item in program.of_kind(events.ModeChange) if item.model.allocation is own)
        if any(item.mode.training for item in switched):
            return evaluates
        return False if step.call.frozen else None
    return True if evaluates or not _is_chosen(step) else None


def _is_apart(call: events.Forward, step: _Step) -> bool:
    """Whether a call stands in the function that calls `eval()`, and the training step in another one."""
    own = call.where.functions[-1:]
    return own == step.call.mode.functions[-1:] and own != step.call.where.functions[-1:]


def _same_run(call: events.Forward, other: events.Forward) -> bool:
    """Whether no option of the user parts two calls."""
    options = {item.symbol.text: item.holds for item in call.assumptions if not item.symbol.varies}
    return all(options.get(item.symbol.text, item.holds) is item.holds for item in other.assumptions)


def _is_chosen(step: _Step) -> bool:
    """Whether a condition in the loop picks the passes from which on the model is in evaluation mode."""
    places = {*step.call.mode.calls, step.call.mode.node}
    return any(isinstance(item, ast.If) and not places.isdisjoint(ast.walk(item)) for item in ast.walk(step.loop))
