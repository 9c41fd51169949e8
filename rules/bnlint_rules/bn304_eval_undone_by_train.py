"""BN304: norm layers in evaluation mode that a later train() sets back."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bnlint.api import (
    NORMS,
    Context,
    Diagnostic,
    Fix,
    Invalid,
    Mode,
    Model,
    NotChecked,
    Rule,
    Severity,
    Span,
    Undone,
    Valid,
    events,
    installed_version,
    listed,
    undone,
)

_KEEPS_MODES = (2, 2)  # from this Lightning on a fit no longer starts with train()


class EvalUndoneByTrain(Rule):
    """`model.train()` reaches every layer: what was set to evaluation mode before trains again from then on.

    ## Why it matters

    Norm layers are put into evaluation mode to keep their running statistics: with small batches, or in a pretrained
    backbone. The mode is a flag of each module, and `model.train()` at the start of an epoch, or after a validation,
    writes that flag in all of them. The `eval()` in a constructor or before the loop has no effect, or is lost after
    the first validation: batch statistics are used and the running ones move. Nothing is said about it.

    The rule follows the script to the forwards of the training and fires where `train()` has set back norm layers (or
    a part with batch norm) that were in evaluation mode. A captured model is looked at without a script: its own
    class sets batch norms to evaluation mode in the constructor, and has no `train()` that does it again. It is silent
    where the layers are set again before the training goes on, and for a part that was only evaluated. Lightning
    leaves modes as they are from 2.2 on; the Hugging Face Trainer calls `model.train()` in every step.

    ## Fix safety

    The fix gives the class a `train()` that repeats what the constructor does, or repeats the `eval()` after the
    `train()` of a script. It is unsafe: the outputs in training change. Advice where the statement does more than to
    switch modes.

    ## References

    - [PyTorch: Module.train](https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html)
    - [Lightning 2.2](https://lightning.ai/docs/pytorch/stable/upgrade/from_2_1.html), on the modes of submodules
    - [Transformers: Trainer](https://huggingface.co/docs/transformers/main_classes/trainer)
    """

    code = "BN304"
    name = "eval-undone-by-train"
    severity = Severity.ERROR
    needs = ()
    fixable = True

    valid = (
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.eval()

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.conv(x))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="the class overrides train()",
        ),
        Valid(
            """\
def freeze_norms(module):
    if isinstance(module, nn.BatchNorm2d):
        module.eval()


model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        model.apply(freeze_norms)
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            print([model(x) for x, _ in loader])


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="the norms are set again after each train()",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.decoder = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.decoder(self.encoder(x))


model = Net()


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x in loader:
            F.mse_loss(model(x), x).backward()
            optimizer.step()
        model.encoder.eval()
        with torch.no_grad():
            codes = [model.encoder(x) for x in loader]
        print(codes)


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="a part is evaluated, and trains again: that is what train() is for",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


def fit(loader, epochs):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    fit([], 1)
    model.train()
    fit([], 10)
""",
            inputs=((3, 4, 4),),
            note="two stages: frozen norms first, then everything, not checked",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))
        self.teacher.eval()
        self.head = nn.Sequential(nn.Conv2d(8, 2, 1), nn.BatchNorm2d(2))

    def forward(self, x):
        return self.head(self.teacher(x))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="nothing in the part that is set depends on the mode",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.teacher = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.teacher.eval()
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        self.teacher.eval()
        with torch.no_grad():
            features = self.teacher(x)
        return self.head(features)


model = Net()
""",
            inputs=((3, 4, 4),),
            note="each forward sets the part again, not checked",
        ),
        Valid(
            """\
def build():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
    return net.eval()


model = build()


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="a whole model that is handed over in evaluation mode and trained then",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for stage in ("warm-up", "full"):
    for epoch in range(3):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and stage == "warm-up":
                module.eval()
        for x, y in []:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
""",
            note="not checked: set again in each epoch of the first stage, and the second one trains them",
        ),
        Valid(
            """\
import copy


class Average(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.module = copy.deepcopy(network)
        self.module.eval()

    def forward(self, x):
        return self.module(x)


model = Average(nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)))
""",
            inputs=((3, 4, 4),),
            note="an average of another model: nothing trains it",
        ),
    )
    invalid = (
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.eval()  # keeps the statistics

    def forward(self, x):
        return self.norm(self.conv(x))


model = Net()
""",
            inputs=((3, 4, 4),),
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.norm.eval()  # keeps the statistics

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.norm(self.conv(x))


model = Net()
""",
            modules=("norm",),
            message="any train() of the model sets it back",
            note="a class, in its constructor",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
        self.freeze_norms()

    def freeze_norms(self):
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


model = Net()


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2))
        self.freeze_norms()

    def train(self, mode=True):
        super().train(mode)
        self.freeze_norms()
        return self

    def freeze_norms(self):
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


model = Net()


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            modules=("stages.0.1",),
            message="2 batch norms (stages.0.1, stages.1.1)",
            note="a loop over the modules in a method of the class; said once, of the model",
        ),
        Invalid(
            """\
def freeze_norms(module):
    if isinstance(module, nn.BatchNorm2d):
        module.eval()


model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.apply(freeze_norms)
    for epoch in range(3):
        model.train()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            fixed="""\
def freeze_norms(module):
    if isinstance(module, nn.BatchNorm2d):
        module.eval()


model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


def main(loader):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.apply(freeze_norms)
    for epoch in range(3):
        model.train()
        model.apply(freeze_norms)
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            message="train() on line 14",
            note="functions: before the loop, and train() in each epoch",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()


class Trainer:
    def __init__(self, net):
        self.net = net
        self.optimizer = torch.optim.SGD(self.net.head.parameters(), lr=0.1)
        self.net.train()
        self.net.backbone.eval()

    def fit(self, loader, epochs):
        for epoch in range(epochs):
            for x, y in loader:
                F.cross_entropy(self.net(x), y).backward()
                self.optimizer.step()
            self.validate(loader)

    @torch.no_grad()
    def validate(self, loader):
        self.net.eval()
        scores = [self.net(x) for x, _ in loader]
        self.net.train()
        return scores


if __name__ == "__main__":
    Trainer(model).fit([], 3)
""",
            inputs=((3, 4, 4),),
            message="train() on line 33",
            note="a trainer class: frozen for the first epoch, lost after the first validation",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.program is not None:
            yield from self._check_script(context)
        elif context.has_model:
            yield from self._check_model(context)

    # A class that sets its own layers ----------------------------------------------------------------------

    def _check_model(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for item in context.own_evaluations:
            doubt = item.doubt
            if item.is_lightning:
                version = installed_version("lightning") or installed_version("pytorch_lightning")
                if version is not None and version >= _KEEPS_MODES:
                    continue
                doubt = doubt or ("the version of Lightning is not known" if version is None else "")
            count, one = len(item.layers), len(item.layers) == 1
            norms = f"{count} batch norm{'s' * (not one)} ({listed(item.layers)})"
            if doubt:
                yield self.not_checked(f"{norms} set to evaluation mode in {item.class_name}: {doubt}")
                continue
            yield self.diagnostic(
                item.source.span_of(item.call),
                f"{item.class_name} sets {norms} to evaluation mode when it is built, but any train() of the model "
                f"sets {'it' if one else 'them'} back: the class has no train() that does it again",
                module=item.layers[0].path,
                data={"class": item.class_name, "layers": [layer.path for layer in item.layers]},
                fix=context.override_train(
                    item.source, item.call, title=f"Override train() in {item.class_name} to call eval() again"
                ),
            )

    # A script that sets layers -----------------------------------------------------------------------------

    def _check_script(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        program = context.program
        assert program is not None
        said: set[ast.AST | None] = set()
        for item in undone(program):
            if item.was.node in said or _is_evaluated(context, item) or _is_said_of_the_class(context, item):
                continue
            has_norms = _has_batch_norm(context, item.part)
            if has_norms is False:
                continue
            said.add(item.was.node)
            line = _line(item.was)
            if has_norms is None:
                yield self.not_checked(f"{line}: whether the part that train() sets back has batch norm is not known")
            elif _is_a_stage(context, item):
                yield self.not_checked(f"{line}: a later train() may begin another stage of the training")
            else:
                yield self._finding(context, item)
        for managed in program.of_kind(events.Managed):
            for part, was in managed.evaluating:
                if managed.framework != "transformers" or was.node in said or program.overrides_train(part.allocation):
                    continue
                said.add(was.node)
                if _has_batch_norm(context, part):
                    yield self._managed(managed, was)

    def _finding(self, context: Context, item: Undone) -> Diagnostic:
        was, change, call = item.was, item.change, item.call
        assert was.node is not None and was.module is not None
        there, back, here = was.module.span(was.node), change.where.span, call.where.span
        name = context.name_in(call)
        what = _named(name, item)
        return self.diagnostic(
            back,
            f"train() on line {back.line} sets {what} back to training mode, which eval() on {_from(there, back)} had "
            f"set to evaluation mode: the training forward on {_from(here, back)} normalises with the batch and moves "
            f"their running statistics",
            related=((there, "eval() is called"), (here, "the training forward")),
            data={"model": name, "path": item.path, "eval_line": there.line, "training_line": here.line},
            fix=_fix(context, item, what),
        )

    def _managed(self, managed: events.Managed, was: Mode) -> Diagnostic:
        assert was.node is not None and was.module is not None
        there = was.module.span(was.node)
        return self.diagnostic(
            managed.where.span,
            f"the Trainer calls model.train() in every step, which sets back what eval() on "
            f"{_from(there, managed.where.span)} had set to evaluation mode",
            related=((there, "eval() is called"),),
            data={"eval_line": there.line},
            fix=Fix("Override train() in the class of the model to call eval() again"),
        )


def _named(name: str, item: Undone) -> str:
    whole = f"{name}.{item.path}" if item.path else name
    return f"the norm layers of {whole}" if item.is_norms else f"the batch norms of {whole}"


def _from(span: Span, place: Span) -> str:
    return f"line {span.line}" + ("" if span.path == place.path else f" of {span.path}")


def _line(mode: Mode) -> str:
    assert mode.node is not None and mode.module is not None
    span = mode.module.span(mode.node)
    return f"{span.path}:{span.line}"


def _has_batch_norm(context: Context, part: Model) -> bool | None:
    return context.mode_dependent(Model(part.allocation, part.path.removesuffix(NORMS))).has_batch_norm


def _is_evaluated(context: Context, item: Undone) -> bool:
    """Whether a part was in evaluation mode for an evaluation: it is called so, or set so in the loop of `train()`.

    Norm layers alone, and what is frozen, were set for the training.
    """
    program = context.program
    assert program is not None
    path = item.path
    frozen = any(f"{path}.".startswith(f"{part.freezing.path}.") for part in item.call.frozen if part.freezing.path)
    if item.is_norms or frozen:
        return False
    called = any(
        call.mode.node is item.was.node and call not in program.trained
        for call in program.forwards
        if call.model.allocation is item.part.allocation
    )
    return called or any(loop in item.was.loops for loop in item.change.where.loops[-1:])


def _is_a_stage(context: Context, item: Undone) -> bool:
    """Whether the training ran with the part in evaluation mode, and `train()` comes once, or before the `eval()`."""
    program = context.program
    assert program is not None
    used = any(
        (call.norms is not None and call.norms.node is item.was.node)
        or any(mode.node is item.was.node for _, mode in call.parts)
        for call in program.forwards
        if call in program.trained
    )
    again = any(loop in item.was.loops for loop in item.change.where.loops[-1:])  # in each pass, on some of the paths
    return used and (again or not any(loop in item.change.where.loops for loop in item.call.where.loops))


def _is_said_of_the_class(context: Context, item: Undone) -> bool:
    """Whether the same call of `eval()` is reported of the captured model."""
    model = context.model_of(item.part.allocation)
    if model is None or item.was.module is None or item.was.node is None:
        return False
    span = item.was.module.span(item.was.node)
    return any(own.source.span_of(own.call) == span for own in model.own_evaluations)


def _fix(context: Context, item: Undone, what: str) -> Fix:
    """Writes the statements whose `eval()` a `train()` undoes once more behind it; else advice.

    All that it undoes for this model, so that one fix serves the findings of one line.
    """
    assert context.program is not None
    title = f"Call eval() for {what} again after train()"
    where, evaluating = item.change.where, []
    for other in undone(context.program):
        if other.change.where.node is where.node and other.part.allocation is item.part.allocation:
            evaluating.append(_in_function_of(where, other.was))
    found = [node for node in evaluating if node is not None]
    fix = context.script_fixes.evaluate_again(where, found, title=title)
    trial = context.script_fixes.trial(fix.edits) if len(found) == len(evaluating) and fix.edits else None
    if trial is None:
        return Fix(title)
    place = trial.moved(where.span)
    return Fix(title) if any(other.change.where.span == place for other in undone(trial.program)) else fix


def _in_function_of(where: events.Where, was: Mode) -> ast.AST | None:
    """What leads to a call of `eval()` in the function that a `train()` stands in; None where it is not called."""
    shared = len(where.functions)
    if was.functions[:shared] != where.functions or where.calls != was.calls[:shared] or len(was.calls) < shared:
        return None
    return (*was.calls, was.node)[shared]
