"""BN301: a model that evaluates in training mode."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from bnlint.api import Context, Diagnostic, Evaluation, Fix, Invalid, NotChecked, Rule, Severity, Span, Valid, events


class MissingEval(Rule):
    """A model that is not in evaluation mode normalises with the batch it is asked about, and drops out at random.

    ## Why it matters

    In training mode a batch norm uses the mean and variance of the current batch, so the prediction for one
    sample depends on the others in the batch; it raises for one value per channel, and every call moves the
    running statistics towards the validation data. Dropout keeps zeroing activations. `torch.no_grad()` turns
    off gradients and nothing else: `model.eval()` is what switches the layers.

    The rule follows the script: from the construction of the model through functions, loops and wrappers to every
    call that is no part of a training step (under `no_grad`, in a function that evaluates, or in a script that
    loads weights and never trains). It fires where the model is certainly in training mode there. It is silent for
    models without batch norm and dropout, for targets and generated samples of a training step, where the result
    is not used (statistics that are computed anew), and where `train()` is called for that very purpose. What
    depends on a caller or on an option is listed as not checked.

    ## Fix safety

    The fix writes `model.eval()` before the evaluation, and `model.train()` where a training would go on in evaluation
    mode otherwise. It is unsafe: predictions change. The edited script is followed once more before the fix is offered;
    it is advice where that does not show every mode as it is wanted.

    ## References

    - [PyTorch: Module.eval](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html)
    - [PyTorch: evaluation mode and no_grad](https://docs.pytorch.org/docs/stable/notes/autograd.html)
    """

    code = "BN301"
    name = "missing-eval"
    severity = Severity.ERROR
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


def evaluate(model, loader):
    model.eval()
    with torch.no_grad():
        return [model(x).argmax(1) for x, _ in loader]


def train(loader, optimizer):
    for epoch in range(3):
        model.train()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        evaluate(model, loader)


if __name__ == "__main__":
    train([], torch.optim.SGD(model.parameters(), lr=0.1))
""",
        ),
        Valid(
            """\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))

    def run_epoch(self, loader, training):
        self.model.train(training)
        with torch.set_grad_enabled(training):
            for x, y in loader:
                loss = F.cross_entropy(self.model(x), y)
                if training:
                    loss.backward()


trainer = Trainer()
for epoch in range(3):
    for phase in ["train", "val"]:
        trainer.run_epoch([], phase == "train")
""",
            note="one function for both phases: the mode and the gradients follow the same flag",
        ),
        Valid(
            """\
from contextlib import contextmanager


@contextmanager
def evaluating(model):
    was_training = model.training
    try:
        model.eval()
        yield model
    finally:
        model.train(was_training)


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(100):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    with evaluating(model), torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            note="a context manager of the script switches and restores",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
with torch.no_grad():
    print(model(torch.randn(1, 4)))
""",
            note="no layer with a mode",
        ),
        Valid(
            """\
generator = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
critic = nn.Sequential(nn.Linear(8, 1))
optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
for real in torch.randn(3, 16, 8):
    with torch.no_grad():
        fake = generator(torch.randn(16, 4))
    loss = critic(fake).mean() - critic(real).mean()
    loss.backward()
    optimizer.step()
""",
            note="samples for a training step of the other model",
        ),
        Valid(
            """\
import copy

online = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
target = copy.deepcopy(online)
optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
for view in torch.randn(3, 16, 4):
    with torch.no_grad():
        goal = target(view)
    F.mse_loss(online(view + 0.1), goal).backward()
    optimizer.step()
""",
            note="the target network of a self-supervised training",
        ),
        Valid(
            """\
def update_statistics(model, loader):
    model.train()
    with torch.no_grad():
        for x, _ in loader:
            model(x)


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
update_statistics(model, [])
""",
            note="running statistics that are computed anew",
        ),
        Valid(
            """\
def predict_with_dropout(model, x):
    model.train()
    with torch.no_grad():
        return torch.stack([model(x) for _ in range(10)]).std(0)


model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
print(predict_with_dropout(model, torch.randn(2, 4)))
""",
            note="train() is called for that very purpose: not checked",
        ),
        Valid(
            """\
def validate(model, loader):
    with torch.no_grad():
        return [model(x) for x, _ in loader]
""",
            note="unknown: whoever imports it may call eval()",
        ),
        Valid(
            """\
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--bayesian", action="store_true")
args = parser.parse_args()
model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
if not args.bayesian:
    model.eval()
with torch.no_grad():
    print(model(torch.randn(2, 4)))
""",
            note="unknown: an option decides",
        ),
        Valid(
            """\
def build_model(path):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    model.load_state_dict(torch.load(path))
    return model.eval()


model = build_model("weights.pt")
print(model(torch.randn(1, 4)))
""",
            note="the factory hands it back in evaluation mode",
        ),
        Valid(
            """\
class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))

    def forward(self, images, targets=None):
        found = self.body(images)
        if self.training:
            return {"loss": (found - targets).pow(2).mean()}
        return found


model = Detector()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for images, targets in []:
        model(images, targets)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        print(sum(model(images, targets)["loss"].item() for images, targets in []))
""",
            note="not checked: it returns its losses in training mode alone",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
model.load_state_dict(torch.load("weights.pt"))
model[1].eval()
with torch.no_grad():
    print(model(torch.load("sample.pt")).argmax(1))
""",
            note="not checked: a part of it is in evaluation mode",
        ),
        Valid(
            """\
class Tracker:
    def __init__(self, model):
        self.model = model

    def eval(self):
        if isinstance(self.model, (list, tuple)):
            for part in self.model:
                part.eval()
        else:
            self.model.eval()

    def predict(self, x):
        return self.model(x)


tracker = Tracker(nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5)))
tracker.eval()
with torch.no_grad():
    tracker.predict(torch.randn(2, 4))
""",
            note="a model is no list: the branch for several is not taken",
        ),
    )
    invalid = (
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        correct = (model(torch.randn(16, 4)).argmax(1) == 0).sum()
""",
            fixed="""\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    model.train()
    for x, y in []:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        correct = (model(torch.randn(16, 4)).argmax(1) == 0).sum()
""",
            message="1 batch norm normalises with the batch",
            note="a plain loop",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def test(model, loader):
    correct = 0
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum()
    return correct


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, [], optimizer)
        test(model, [])


if __name__ == "__main__":
    main()
""",
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@torch.no_grad()
def test(model, loader):
    correct = 0
    model.eval()
    for x, y in loader:
        correct += (model(x).argmax(1) == y).sum()
    return correct


def main():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, [], optimizer)
        test(model, [])


if __name__ == "__main__":
    main()
""",
            message="train() is called on line 12",
            note="functions, the mode is left over from the training",
        ),
        Invalid(
            """\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            self.model.train()
            for x, y in loader:
                self.step(x, y)
            self.validate(loader)

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()

    def validate(self, loader):
        with torch.inference_mode():
            return [self.model(x) for x, _ in loader]


Trainer().fit([], 3)
""",
            fixed="""\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            self.model.train()
            for x, y in loader:
                self.step(x, y)
            self.validate(loader)

    def step(self, x, y):
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()

    def validate(self, loader):
        self.model.eval()
        with torch.inference_mode():
            return [self.model(x) for x, _ in loader]


Trainer().fit([], 3)
""",
            message="self.model is called in training mode",
            note="a trainer class",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
model.load_state_dict(torch.load("weights.pt"))
print(model(torch.load("sample.pt")).argmax(1))
""",
            fixed="""\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
model.load_state_dict(torch.load("weights.pt"))
model.eval()
print(model(torch.load("sample.pt")).argmax(1))
""",
            message="never trains",
            note="inference with loaded weights",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(10):
    model.train()
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    if epoch % 5 == 0:
        model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            fixed="""\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(10):
    model.train()
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    if epoch % 5 == 0:
        model.eval()
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(16, 4)).argmax(1))
""",
            note="eval() in every fifth epoch, evaluation in each",
        ),
        Invalid(
            """\
class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.upper = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))

    def decode(self, codes):
        return self.upper(codes).sigmoid()

    def forward(self, x):
        return self.decode(self.lower(x))


model = Coder()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def train():
    for x in torch.rand(3, 16, 8):
        F.mse_loss(model(x), x).backward()
        optimizer.step()


for epoch in range(3):
    train()
    with torch.no_grad():
        torch.save(model.decode(torch.randn(16, 4)), "sample.pt")
""",
            fixed="""\
class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        self.upper = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))

    def decode(self, codes):
        return self.upper(codes).sigmoid()

    def forward(self, x):
        return self.decode(self.lower(x))


model = Coder()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def train():
    model.train()
    for x in torch.rand(3, 16, 8):
        F.mse_loss(model(x), x).backward()
        optimizer.step()


for epoch in range(3):
    train()
    model.eval()
    with torch.no_grad():
        torch.save(model.decode(torch.randn(16, 4)), "sample.pt")
""",
            message="model.decode is called in training mode",
            note="a method of the model: said, and repaired, where the script calls it",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    model.train()
    for phase in ["train", "val"]:
        for x, y in []:
            with torch.set_grad_enabled(phase == "train"):
                loss = F.cross_entropy(model(x), y)
            if phase == "train":
                loss.backward()
                optimizer.step()
""",
            note="one call for both phases: eval() in front of it would reach the training",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        assert context.program is not None
        faults: dict[tuple[ast.AST | None, int], list[Evaluation]] = defaultdict(list)
        open_ones: list[str] = []
        for item in context.program.evaluations:
            layers = context.mode_dependent(item.calls[0].model)
            if layers.is_none or item.verdict is False:
                continue
            where = item.calls[0].place
            line = f"{where.span.path}:{where.span.line}"
            if item.verdict is None:
                open_ones.append(f"{line}: {item.why}")
            elif layers.is_unknown:
                open_ones.append(f"{line}: whether the model has batch norm or dropout is not known")
            else:
                function = where.functions[-1] if where.functions else None
                faults[function, id(item.allocation)].append(item)
        yield from map(self.not_checked, dict.fromkeys(open_ones))
        said: set[ast.AST] = set()
        for group in faults.values():
            if group[0].node not in said:  # one call of several models in turn
                said.add(group[0].node)
                yield self._finding(context, group)

    def _finding(self, context: Context, group: list[Evaluation]) -> Diagnostic:
        first = group[0]
        call = first.witness
        assert call is not None and context.program is not None
        mode = call.mode
        layers = context.mode_dependent(call.model)
        set_at = None if mode.node is None or mode.module is None else mode.module.span(mode.node)
        set_where = "" if set_at is None else f" on {place(set_at, call.place.span)}"
        since = f"train() is called{set_where}" if mode.explicit else f"it is built{set_where}"
        name = context.program.name_of(call)
        return self.diagnostic(
            call.place.span,
            f"{name} is called in training mode although {first.reason}: {since} and no eval() comes before this call"
            f"{layers.words}",
            module=layers.module,
            related=() if set_at is None else ((set_at, since),),
            data={
                "model": name,
                "lines": sorted({item.calls[0].place.span.line for item in group}),
                "batch_norms": layers.batch_norms,
                "dropouts": layers.dropouts,
            },
            fix=self._fix(context, [item.witness for item in group if item.witness is not None]),
        )

    def _fix(self, context: Context, calls: list[events.Forward]) -> Fix:
        assert context.program is not None
        evaluate, train = (context.call_of(calls[0], method) for method in ("eval()", "train()"))
        places = {call.place.node for call in calls}
        if any(other.place.node in places for other in context.program.trained):
            return Fix(f"Call {train} where this call trains and {evaluate} where it evaluates")
        return context.script_fixes.set_evaluating(calls, title=f"Call {evaluate} before it evaluates")


def place(span: Span, seen_from: Span) -> str:
    """Where something stands, as "line 12" within one file."""
    return f"line {span.line}" if span.path == seen_from.path else f"line {span.line} of {span.path}"
