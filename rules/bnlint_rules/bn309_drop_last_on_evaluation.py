"""BN309: an evaluation that leaves samples out."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from bnlint.api import Context, Diagnostic, Fix, Invalid, NotChecked, Rule, Severity, Valid, events

_DROP_LAST = 8  # the position of drop_last among the arguments of DataLoader
_HELD_OUT = frozenset(
    (
        *("val", "valid", "validation", "validate", "validating", "test", "testing", "eval", "evaluation", "evaluate"),
        *("dev", "holdout", "predict", "prediction", "infer", "inference"),
    )
)
_TRAINING = frozenset(("train", "training", "trn", "fit", "trainval", "pretrain", "finetune"))
_LOOPS = (ast.For, ast.AsyncFor, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_SUFFIX = re.compile(r"(data)?(loader|loaders|load|dl|set|iter|gen|queue)$")


@dataclass(frozen=True)
class _Use:
    """What shows that a loader evaluates or trains: `evaluates` in words."""

    loader: events.LoaderBuilt
    name: str
    evaluates: str
    trains: bool

    @property
    def is_fault(self) -> bool:
        return bool(self.evaluates) and not self.trains


class DropLastOnEvaluation(Rule):
    """With `drop_last=True` an evaluation leaves out the samples of its last incomplete batch.

    ## Why it matters

    `drop_last` keeps batches that are too small for batch norm out of the training. In evaluation mode a batch norm
    uses its running statistics, so a small batch does no harm there, and every sample counts: with 1,000 validation
    images and batches of 64 the last 40 are never scored, and a prediction run returns 960 results for 1,000 inputs.
    With a shuffling loader they are other ones each time, so that the metric changes from one run to the next.

    A loader counts as one of an evaluation when a loop over it calls a model for evaluation (under `no_grad`, in a
    function that evaluates), when it is returned by Lightning's `val_dataloader`, `test_dataloader` or
    `predict_dataloader`, or by its name (`val_loader`, `testDataLoader`). The rule is silent for a loader that also
    trains, for one with training in its name and for batches of 1, of which none is incomplete.

    ## Fix safety

    The fix writes `drop_last=False`. It is unsafe: the metric is computed over more samples than before, and code
    that relies on batches of equal size has to cope with a smaller one. Advice where the setting stands elsewhere or
    is shared with the training loader.

    ## References

    - [PyTorch: torch.utils.data.DataLoader](https://docs.pytorch.org/docs/stable/data.html#torch.utils.data.DataLoader)
    """

    code = "BN309"
    name = "drop-last-on-evaluation"
    severity = Severity.WARNING
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train_loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
val_loader = DataLoader(data, batch_size=16)
for x, y in train_loader:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
model.eval()
with torch.no_grad():
    print([model(x).argmax(1) for x, _ in val_loader])
""",
            note="dropped in training alone",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    return sum((model(x).argmax(1) == y).sum() for x, y in loader)


data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
for x, y in loader:
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
print("training accuracy", evaluate(model, loader))
""",
            note="the accuracy on the training data, which is a by-product",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

test_loader = DataLoader(TensorDataset(torch.randn(100, 4)), batch_size=1, drop_last=True)
model = nn.Linear(4, 2).eval()
with torch.no_grad():
    print([model(x) for (x,) in test_loader])
""",
            note="a batch of 1 is never incomplete",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset


def get_loader(split):
    data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
    return DataLoader(data, batch_size=16, drop_last=split == "train")


model = nn.Linear(4, 2)
val_loader = get_loader("val")
model.eval()
with torch.no_grad():
    print([model(x).argmax(1) for x, _ in val_loader])
""",
            note="the same function for both, by the split",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model, weights = nn.Linear(4, 2), nn.Linear(4, 2)
optimizer = torch.optim.SGD(weights.parameters(), lr=0.1)
valid_queue = DataLoader(data, batch_size=16, drop_last=True)
for x, y in valid_queue:
    F.cross_entropy(weights(x), y).backward()
    optimizer.step()
""",
            note="an architecture search trains on its validation data",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4))
features = DataLoader(data, batch_size=16, drop_last=True)
teacher, student = nn.Linear(4, 2), nn.Linear(4, 2)
optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
for (x,) in features:
    with torch.no_grad():
        goal = teacher(x)
    F.mse_loss(student(x), goal).backward()
    optimizer.step()
""",
            note="a target without gradients is a part of the training",
        ),
        Valid(
            """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model = nn.Linear(4, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
test_loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=True)
test_batches = iter(test_loader)
for step in range(100):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    if step % 10 == 0:
        x, y = next(test_batches)
        print(F.cross_entropy(model(x), y))
""",
            note="a batch now and then, to look at: no pass over the data",
        ),
        Valid(
            """\
rows = TensorDataset(torch.randn(64, 4))
labelled = DataLoader(rows, batch_size=8, drop_last=True)
test_domain = DataLoader(rows, batch_size=8, drop_last=True)
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for (x,), (shifted,) in zip(labelled, test_domain):
    model(torch.cat([x, shifted])).mean().backward()
    optimizer.step()
""",
            note="the script trains on it, whatever its name says",
        ),
    )
    invalid = (
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model = nn.Linear(4, 2)
loader = DataLoader(data, batch_size=16, num_workers=2, drop_last=True)
model.eval()
with torch.no_grad():
    for x, y in loader:
        print((model(x).argmax(1) == y).sum())
""",
            fixed="""\
from torch.utils.data import DataLoader, TensorDataset

data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
model = nn.Linear(4, 2)
loader = DataLoader(data, batch_size=16, num_workers=2, drop_last=False)
model.eval()
with torch.no_grad():
    for x, y in loader:
        print((model(x).argmax(1) == y).sum())
""",
            message="up to 15 samples",
            note="a plain loop",
        ),
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset


def train(model, loader, optimizer):
    model.train()
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def test(model, loader):
    model.eval()
    with torch.no_grad():
        return sum((model(x).argmax(1) == y).sum() for x, y in loader)


def main():
    data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
    options = dict(batch_size=32, drop_last=True)
    train_loader = DataLoader(data, shuffle=True, **options)
    test_loader = DataLoader(data, **options)
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        train(model, train_loader, optimizer)
        test(model, test_loader)


if __name__ == "__main__":
    main()
""",
            message="test_loader drops",
            note="functions, the keywords are shared",
        ),
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset


class Trainer:
    def __init__(self):
        data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
        phases = ["train", "val"]
        self.loaders = {phase: DataLoader(data, batch_size=16, drop_last=True) for phase in phases}
        self.model = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def epoch(self):
        for phase in ["train", "val"]:
            self.model.train(phase == "train")
            for x, y in self.loaders[phase]:
                with torch.set_grad_enabled(phase == "train"):
                    loss = F.cross_entropy(self.model(x), y)
                    if phase == "train":
                        loss.backward()
                        self.optimizer.step()


Trainer().epoch()
""",
            message="up to 15 samples",
            note="a trainer class with one loader for each phase",
        ),
        Invalid(
            """\
from torch.utils.data import DataLoader, TensorDataset


def loaders(batch_size):
    data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
    trainDataLoader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    testDataLoader = DataLoader(data, batch_size, False, drop_last=True)
    return trainDataLoader, testDataLoader
""",
            fixed="""\
from torch.utils.data import DataLoader, TensorDataset


def loaders(batch_size):
    data = TensorDataset(torch.randn(100, 4), torch.zeros(100).long())
    trainDataLoader = DataLoader(data, batch_size=batch_size, shuffle=True, drop_last=True)
    testDataLoader = DataLoader(data, batch_size, False, drop_last=False)
    return trainDataLoader, testDataLoader
""",
            message="testDataLoader drops",
            note="by its name",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        assert context.program is not None
        look = _Look(context)
        places: dict[ast.AST, list[_Use]] = defaultdict(list)
        for event in context.program.of_kind(events.LoaderBuilt):
            if event.loader.drop_last and (event.loader.samples is None or event.loader.samples.known != 1):
                places[event.where.node].append(look.use(event))
        for group in places.values():
            faults = [use for use in group if use.is_fault]
            if faults:
                shared = any(use.trains or not use.evaluates for use in group)
                yield self._finding(context, faults[0], shared=shared)

    def _finding(self, context: Context, use: _Use, *, shared: bool) -> Diagnostic:
        loader, span = use.loader.loader, use.loader.where.span
        size = None if loader.samples is None else loader.samples.known
        lost = "its last incomplete batch" if size is None else f"up to {size - 1} sample{'s' * (size > 2)}"
        title = "Set drop_last=False for the evaluation"
        advice = Fix(f"{title}: this line builds other loaders as well")
        fix = context.replace_call_argument(span, "drop_last", "False", title=title, position=_DROP_LAST)
        return self.diagnostic(
            span,
            f"{use.name or 'the loader'} drops {lost} (drop_last=True), which no evaluation sees: {use.evaluates}",
            data={"loader": use.name, "batch_size": size},
            fix=advice if shared else fix,
        )


class _Look:
    """What is asked of the program for every loader."""

    def __init__(self, context: Context) -> None:
        assert context.program is not None
        self._program = context.program
        self._evaluated = {call: item for item in context.program.evaluations for call in item.calls}

    def use(self, built: events.LoaderBuilt) -> _Use:
        name = _name(built.where)
        words = _words(name)
        seen_training, evaluates = False, ""
        for used, following in self._loops(built):
            trained, evaluated = self._done_in(used, following)
            seen_training = seen_training or trained
            evaluates = evaluates or ("" if trained else evaluated)
        function = built.where.function_names[-1] if built.where.functions else ""
        if not evaluates and function in ("val_dataloader", "test_dataloader", "predict_dataloader"):
            name, evaluates = name or function, f"it is built in {function}()"
        if not evaluates and words & _HELD_OUT and not seen_training and not self._is_iterated(built, name):
            evaluates = "its name says so" if name.isidentifier() else f"it is {name}"
        return _Use(built, name, evaluates, seen_training or bool(words & _TRAINING))

    def _is_iterated(self, built: events.LoaderBuilt, name: str) -> bool:
        """Whether the script takes batches from it one by one, now and then: `batches = iter(test_loader)`."""
        text = built.where.module.source.text
        return re.search(rf"\biter\(\s*(self\.)?{re.escape(name)}\s*\)", text) is not None

    def _loops(self, built: events.LoaderBuilt) -> Iterator[tuple[events.LoaderUsed, list[events.Event]]]:
        """The loops over a loader, each with what comes until the next loop at the same place."""
        every = self._program.all_events
        for number, event in enumerate(every):
            if not isinstance(event, events.LoaderUsed) or event.loader.allocation is not built.loader.allocation:
                continue
            rest = every[number + 1 :]
            ends = (
                position
                for position, other in enumerate(rest)
                if isinstance(other, events.LoaderUsed)
                and other.where.node is event.where.node
                and other.loader.allocation is event.loader.allocation
            )
            yield event, list(rest[: next(ends, len(rest))])

    def _done_in(self, used: events.LoaderUsed, following: list[events.Event]) -> tuple[bool, str]:
        """Whether a loop trains, and what shows that it evaluates."""
        evaluated = ""
        node = used.where.node
        is_loop = isinstance(node, _LOOPS)  # else `next(loader)`: a batch that the loop around it uses
        for event in following:
            inside = node in event.where.loops if is_loop else event.where.loops[:1] == used.where.loops[:1]
            if not inside:
                continue
            if isinstance(event, events.Backward):
                return True, ""
            if isinstance(event, events.Forward) and event in self._program.trained:
                return True, ""
            if is_loop and isinstance(event, events.Forward) and event in self._evaluated and not evaluated:
                evaluated = f"{self._program.name_of(event)} is called for its batches on line {event.where.span.line}"
        return False, evaluated


def _words(name: str) -> set[str]:
    """The words of a name, without what they say of a loader: "val" and "gen" of gen_valLoader."""
    return {_SUFFIX.sub("", word.lower()) for word in _WORD.findall(name)}


def _name(where: events.Where) -> str:
    """What the script calls what is built at a place: its variable or key, or that of the call that led there."""
    trees: list[ast.AST] = [*reversed(where.functions), where.module.source.tree]
    found = ""
    for node in (where.node, *reversed(where.calls)):
        if isinstance(node, ast.Constant):  # built for one key of a mapping
            return f"the loader of {node.value!r}"
        named = next((name for tree in trees if (name := _bound(tree, node))), "")
        found = found or named
        if _words(named) & (_HELD_OUT | _TRAINING):
            return named
    return found


def _bound(tree: ast.AST, node: ast.AST) -> str:
    """The variable, key or attribute that a tree binds a node to."""
    for item in ast.walk(tree):
        match item:
            case ast.Assign(targets=[target], value=value) if _is_value(value, node):
                return _target(target)
            case ast.AnnAssign(target=target, value=ast.expr() as value) if _is_value(value, node):
                return _target(target)
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                for target, value in zip(targets, values, strict=False):
                    if _is_value(value, node):
                        return _target(target)
            case ast.Dict(keys=keys, values=values):
                for key, value in zip(keys, values, strict=True):
                    if _is_value(value, node) and isinstance(key, ast.Constant):
                        return str(key.value)
            case ast.keyword(arg=str() as name, value=value) if _is_value(value, node):
                return name
    return ""


def _is_value(value: ast.expr, node: ast.AST) -> bool:
    """Whether an expression is a node, or a call around it: `iter(DataLoader(...))`."""
    while value is not node:
        if not isinstance(value, ast.Call) or not value.args:
            return False
        value = value.args[0]
    return True


def _target(target: ast.expr) -> str:
    match target:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str() as key)):
            return key
    return ""
