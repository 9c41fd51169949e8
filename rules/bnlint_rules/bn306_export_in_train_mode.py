"""BN306: a model that is exported in training mode."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from bnlint.api import (
    Context,
    Diagnostic,
    Invalid,
    NotChecked,
    Rule,
    Severity,
    Valid,
    events,
    happens_beside,
    is_left_over,
    torch_version,
)

_DYNAMO_IS_DEFAULT = (2, 9)  # the release in which torch.onnx.export changed its exporter
_PURPOSES = ("prepare_qat", "export_for_training")  # a graph that is exported to be trained


@dataclass(frozen=True)
class _Outcome:
    """What an exporter makes of a model in training mode; `severity` None: nothing is wrong, or not known (`words`)."""

    severity: Severity | None
    words: str = ""


_FINE = _Outcome(None)


class ExportInTrainMode(Rule):
    """An export of a model in training mode keeps dropout and batch statistics in the exported file.

    Measured on torch 2.13 (onnxscript 0.7, CPU) with a convolution, a batch norm and a dropout of 0.5 in training mode:

    | exporter | result |
    |---|---|
    | `torch.jit.trace` | batch statistics and random dropout, also after `eval()`; moves the running statistics |
    | `torch.export.export` | the same in the graph; `eval()` raises NotImplementedError |
    | `torch.onnx.export`, dynamo=True (default since 2.9) | dropout stays in the file, batch norm in inference form |
    | `torch.onnx.export`, dynamo=False | switches to eval mode by itself and back: right |
    | the same with `training=TrainingMode.PRESERVE` | batch norm is written with `training_mode=1` |
    | `torch.jit.script` | keeps the flag: the saved file is in training mode when it is loaded, `eval()` works there |
    | `prepare_fx` | raises `Fusion only for eval!` |
    | `quantize_dynamic` | switches to eval mode by itself: right |
    | `torch.fx.symbolic_trace`, `torch.compile` | follow `eval()` afterwards: right |

    ## Why it matters

    The file is what is deployed, and nothing in it can be switched any more. Its predictions differ from call to call,
    and those for one sample depend on the others in its batch.

    The rule fires where the model is certainly in training mode and has layers with a mode: for a trace that is saved,
    for a scripted model that is saved in a script that never trains (a warning), for `torch.export.export` in such a
    script, for ONNX and `prepare_fx`. It is silent for `training=TrainingMode.TRAINING` and for the preparation of
    quantisation-aware training, which are meant so. Where `train()` is called for the export, where
    the caller sets the mode, and for exporters that were not measured, it says that it did not check.

    ## Fix safety

    The fix writes `model.eval()` before the export, and `model.train()` where a training would go on in evaluation mode
    otherwise. It is unsafe: the exported file changes.

    ## References

    - [PyTorch: torch.onnx.export](https://docs.pytorch.org/docs/stable/onnx_export.html)
    - [PyTorch: torch.jit.trace](https://docs.pytorch.org/docs/stable/generated/torch.jit.trace.html)
    - [PyTorch: torch.export](https://docs.pytorch.org/docs/stable/user_guide/torch_compiler/export.html)
    """

    code = "BN306"
    name = "export-in-train-mode"
    severity = Severity.ERROR
    needs = ("script",)
    fixable = True

    valid = (
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
model.load_state_dict(torch.load("weights.pt"))
model.eval()
torch.jit.trace(model, torch.randn(2, 4)).save("model.pt")
torch.onnx.export(model, (torch.randn(2, 4),), "model.onnx", dynamo=True)
""",
        ),
        Valid(
            """\
def export(model, path):
    training = model.training
    model.eval()
    torch.jit.save(torch.jit.trace(model, torch.randn(2, 4)), path)
    model.train(training)


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for epoch in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
    export(model, f"model-{epoch}.pt")
""",
            note="a function of the script switches and restores",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).eval()
torch.jit.trace(nn.Sequential(model, nn.Softmax(1)), torch.randn(2, 4)).save("model.pt")
""",
            note="the wrapper's own flag says training, no layer of it does",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
torch.onnx.export(model, torch.randn(2, 4), "model.onnx", dynamo=False)
""",
            note="that exporter switches the model by itself",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1))
torch.onnx.export(model, torch.randn(2, 4), "m.onnx", training=torch.onnx.TrainingMode.TRAINING, dynamo=False)
""",
            note="a file to be trained on",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU())
torch.jit.trace(model, torch.randn(2, 4)).save("model.pt")
""",
            note="no layer with a mode",
        ),
        Valid(
            """\
model = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for _ in range(3):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()
torch.save(model.state_dict(), "weights.pt")
""",
            note="a scripted model follows its mode, and is trained here",
        ),
        Valid(
            """\
model = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)))
model = torch.compile(model)
model.eval()
with torch.no_grad():
    print(model(torch.randn(2, 4)))
""",
            note="scripted and compiled before eval(): both follow it",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
print(torch.jit.trace(model, torch.randn(2, 4)).graph)
""",
            note="not checked: a trace that is only looked at is kept by nobody",
        ),
        Valid(
            """\
def prepared_for_training(model, quantizer):
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    return prepare_qat_pt2e(torch.export.export(model, (torch.randn(2, 4),)).module(), quantizer)


model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
prepared_for_training(model, None)
""",
            note="quantisation-aware training exports in training mode",
        ),
        Valid(
            """\
from torch.ao.quantization import quantize_dynamic

model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
torch.save(quantize_dynamic(model, {nn.Linear}).state_dict(), "quantised.pt")
""",
            note="it switches its copy by itself",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
torch.onnx.export(model, (torch.randn(2, 4),), "model.onnx", dynamo=True)
""",
            note="not checked: torch 2.13 writes its batch norm in inference form, and there is no dropout",
        ),
        Valid(
            """\
def to_onnx(model, path):
    torch.onnx.export(model, (torch.randn(2, 4),), path, dynamo=True)
""",
            note="unknown: whoever imports it may call eval()",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model.load_state_dict(torch.load("weights.pt"))
scripted = torch.jit.script(model)
scripted.eval()
scripted.save("model.pt")
""",
            note="a scripted model is switched before it is saved",
        ),
    )
    invalid = (
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model.load_state_dict(torch.load("weights.pt"))
traced = torch.jit.trace(model, torch.randn(2, 4))
traced.save("model.pt")
""",
            fixed="""\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model.load_state_dict(torch.load("weights.pt"))
model.eval()
traced = torch.jit.trace(model, torch.randn(2, 4))
traced.save("model.pt")
""",
            message="1 batch norm",
            note="a plain script, the trace bakes the mode in",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def train(model, optimizer):
    model.train()
    for _ in range(10):
        F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
        optimizer.step()


def export(model, path):
    with torch.no_grad():
        torch.onnx.export(model, (torch.randn(2, 4),), path, dynamo=True)


def main():
    model = Net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    export(model, "model.onnx")


if __name__ == "__main__":
    main()
""",
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


def train(model, optimizer):
    model.train()
    for _ in range(10):
        F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
        optimizer.step()


def export(model, path):
    model.eval()
    with torch.no_grad():
        torch.onnx.export(model, (torch.randn(2, 4),), path, dynamo=True)


def main():
    model = Net()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1))
    export(model, "model.onnx")


if __name__ == "__main__":
    main()
""",
            message="1 dropout stays on in the file",
            note="functions, the mode is left over from the training",
        ),
        Invalid(
            """\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            F.cross_entropy(self.model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
            self.optimizer.step()
        self.save("model.pt")

    def save(self, path):
        torch.jit.save(torch.jit.trace(self.model, torch.randn(2, 4)), path)


Trainer().fit(3)
""",
            fixed="""\
class Trainer:
    def __init__(self):
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def fit(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            F.cross_entropy(self.model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
            self.optimizer.step()
        self.save("model.pt")

    def save(self, path):
        self.model.eval()
        torch.jit.save(torch.jit.trace(self.model, torch.randn(2, 4)), path)


Trainer().fit(3)
""",
            message="torch.jit.trace gets self.model in training mode",
            note="a trainer class",
        ),
        Invalid(
            """\
def build():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    model.load_state_dict(torch.load("weights.pt"))
    return model


for size in (1, 8):
    model = build()
    program = torch.export.export(model, (torch.randn(size, 4),))
    torch.export.save(program, f"model-{size}.pt2")
""",
            fixed="""\
def build():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5))
    model.load_state_dict(torch.load("weights.pt"))
    return model


for size in (1, 8):
    model = build()
    model.eval()
    program = torch.export.export(model, (torch.randn(size, 4),))
    torch.export.save(program, f"model-{size}.pt2")
""",
            message="raises NotImplementedError",
            note="the model is built in the loop: eval() goes into it",
        ),
        Invalid(
            """\
model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
model.load_state_dict(torch.load("weights.pt"))
torch.jit.script(model).save("model.pt")
""",
            message="in training mode when it is loaded",
            note="a scripted model can be switched where it is loaded: a warning",
        ),
        Invalid(
            """\
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_fx

model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
prepared = prepare_fx(model, get_default_qconfig_mapping(), (torch.randn(1, 3, 4, 4),))
""",
            message="Fusion only for eval!",
            note="post-training quantisation",
        ),
        Invalid(
            """\
def epoch(model, optimizer):
    F.cross_entropy(model(torch.randn(16, 4)), torch.zeros(16).long()).backward()
    optimizer.step()


def main(epochs):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(epochs):
        model.train()
        epoch(model, optimizer)
    torch.jit.trace(model, torch.randn(2, 4)).save("model.pt")


main(3)
""",
            message="train() is called on line 11",
            note="said of the path with epochs, not of that with none",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        assert context.program is not None
        places: dict[ast.AST, list[events.Export]] = defaultdict(list)
        for event in context.program.of_kind(events.Export):
            if not context.mode_dependent(event.model).is_none:
                places[event.where.node].append(event)
        for group in places.values():
            in_training = [event for event in group if event.mode.training]
            others = [event for event in group if not event.mode.training]
            doubt = self._doubt(context, in_training, others)
            certain = [event for event in in_training if happens_beside(event, others)]
            event = max(certain or in_training or others, key=_shows)
            outcome = _outcome(context, event)
            if outcome == _FINE or doubt == "":
                continue
            line = f"{event.where.span.path}:{event.where.span.line}"
            if doubt is not None:
                yield self.not_checked(f"{line}: {doubt}")
            elif context.mode_dependent(event.model).is_unknown:
                yield self.not_checked(f"{line}: whether the model has batch norm or dropout is not known")
            elif outcome.severity is None:
                yield self.not_checked(f"{line}: {outcome.words}")
            else:
                yield self._finding(context, event, outcome)

    def _doubt(self, context: Context, found: list[events.Export], others: list[events.Export]) -> str | None:
        """Why training mode is not certain; empty in evaluation mode, None where it is certain."""
        if not found:
            unknown = next((event for event in others if event.mode.training is None), None)
            return "" if unknown is None else f"the mode of the model is not known: {unknown.mode.why}"
        if any(event.norms is not None and event.norms.training is False for event in found):
            return "its norm layers are in evaluation mode"
        assert context.program is not None
        steps = context.program.of_kind(events.Backward)
        trains = {item.where.functions[-1:] for item in steps}
        for event in found:
            function = event.mode.functions[-1:]
            is_own = event.mode.explicit and function == event.where.functions[-1:] and function not in trains
            if is_own and not is_left_over(event.mode, event.where, steps):
                return f"train() is called for it on line {getattr(event.mode.node, 'lineno', 1)}"
        is_sure = any(happens_beside(event, others) for event in found)
        return None if is_sure else "it depends on the options of the run"

    def _finding(self, context: Context, event: events.Export, outcome: _Outcome) -> Diagnostic:
        mode, layers = event.mode, context.mode_dependent(event.model)
        name = context.name_in(event)
        set_where = "" if mode.node is None or mode.module is None else f" on line {mode.module.span(mode.node).line}"
        since = f"train() is called{set_where}" if mode.explicit else f"it is built{set_where}"
        return self.diagnostic(
            event.where.span,
            f"{event.exporter} gets {name} in training mode: {since} and no eval() comes before; {outcome.words}",
            module=layers.module,
            severity=outcome.severity,
            related=() if mode.node is None or mode.module is None else ((mode.module.span(mode.node), since),),
            data={
                "model": name,
                "exporter": event.exporter,
                "batch_norms": layers.batch_norms,
                "dropouts": layers.dropouts,
            },
            fix=context.script_fixes.set_evaluating(
                [event], title=f"Call {context.call_of(event, 'eval()')} before it is exported"
            ),
        )


def _shows(event: events.Export) -> tuple[bool, bool]:
    """How well an export shows the fault: best after a train(), on a path on which every loop has a pass."""
    return event.mode.explicit, not any(item.symbol.text.endswith(":empty") for item in event.assumptions)


def _outcome(context: Context, event: events.Export) -> _Outcome:
    """What becomes of the layers with a mode, by the exporter."""
    exporter = event.exporter
    kind = exporter.rpartition(".")[2]
    if exporter.startswith("torch.onnx."):
        return _onnx(context, event)
    if exporter == "torch.export.export":
        return _exported_program(context, event)
    if exporter.startswith("torch.jit."):
        return _script(context, event) if kind == "script" else _trace(context, event)
    if kind == "prepare_fx":
        has_norm = context.mode_dependent(event.model).has_batch_norm
        return _Outcome(Severity.ERROR, "it raises 'Fusion only for eval!' for a batch norm") if has_norm else _FINE
    if kind in ("convert", "convert_fx", "quantize_dynamic", "symbolic_trace"):
        return _FINE
    return _Outcome(None, f"what {exporter} makes of a model in training mode is not known")


def _layers(context: Context, event: events.Export) -> str:
    """What its layers do, with their numbers where they are known."""
    layers = context.mode_dependent(event.model)
    parts = []
    if layers.has_batch_norm:
        parts.append(
            _counted(layers.batch_norms, "batch norm", "normalises with the batch", "normalise with the batch")
        )
    if layers.has_dropout:
        parts.append(_counted(layers.dropouts, "dropout", "stays on", "stay on"))
    return " and ".join(parts)


def _counted(number: int | None, noun: str, one: str, many: str) -> str:
    if number is None:
        return f"{noun} {one}"
    return f"1 {noun} {one}" if number == 1 else f"{number} {noun}s {many}"


def _keyword(event: events.Export, name: str) -> object:
    """The value of a keyword: a literal's data, the full name of an imported one, else the value; None without it."""
    value = dict(event.keywords).get(name)
    return getattr(value, "data", getattr(value, "origin", value)) if value is not None else None


def _onnx(context: Context, event: events.Export) -> _Outcome:
    layers, training, dynamo = (
        context.mode_dependent(event.model),
        _keyword(event, "training"),
        _keyword(event, "dynamo"),
    )
    named = dict(event.keywords)
    wanted = "" if training is None else str(training).rpartition(".")[2]
    if "**" in named or (training is not None and wanted not in ("True", "False", "EVAL", "TRAINING", "PRESERVE")):
        return _Outcome(None, "the options of the export are not known")
    if wanted in ("True", "TRAINING"):
        return _FINE
    by_default = event.exporter == "torch.onnx.export" and (torch_version() or _DYNAMO_IS_DEFAULT) >= _DYNAMO_IS_DEFAULT
    if event.exporter.endswith("dynamo_export") or dynamo is True or ("dynamo" not in named and by_default):
        if layers.has_dropout:
            return _Outcome(
                Severity.ERROR, _counted(layers.dropouts, "dropout", "stays on in the file", "stay on in the file")
            )
        return _Outcome(None, "whether the exporter writes batch norm in its inference form depends on its release")
    if "dynamo" in named and dynamo is not False:
        return _Outcome(None, "the options of the export are not known")
    if wanted == "PRESERVE":
        return _Outcome(Severity.ERROR, f"PRESERVE keeps it so in the file: {_layers(context, event)}")
    return _FINE


def _trace(context: Context, event: events.Export) -> _Outcome:
    if not _is_saved(context, event):
        return _Outcome(None, "a trace in training mode, which is not saved here")
    return _Outcome(Severity.ERROR, f"in the saved trace {_layers(context, event)}, also after eval()")


def _script(context: Context, event: events.Export) -> _Outcome:
    assert context.program is not None
    if not _is_saved(context, event) or _is_switched(context, event):
        return _FINE
    if context.program.trains:
        return _Outcome(None, "the scripted model is saved in training mode, whoever loads it may call eval()")
    return _Outcome(Severity.WARNING, "the saved file is in training mode when it is loaded")


def _is_switched(context: Context, event: events.Export) -> bool:
    """Whether the mode of a scripted model is set behind the export: a script, unlike a trace, follows it."""
    assert context.program is not None
    later = context.program.all_events[context.program.all_events.index(event) :]
    return any(
        isinstance(item, events.ModeChange) and item.model == event.model and item.mode.training is not True
        for item in later
    )


def _exported_program(context: Context, event: events.Export) -> _Outcome:
    assert context.program is not None
    text = event.where.module.source.text
    if any(word in text for word in _PURPOSES):
        return _FINE
    if context.program.trains:
        return _Outcome(None, "torch.export.export in training mode may be meant for training")
    kept = _layers(context, event)
    return _Outcome(Severity.ERROR, f"in the exported program {kept}, and eval() on it raises NotImplementedError")


def _is_saved(context: Context, event: events.Export) -> bool:
    """Whether what torch.jit makes of the model is written to a file, or goes on into a converter."""
    assert context.program is not None
    later = context.program.all_events[context.program.all_events.index(event) :]
    return any(
        isinstance(item, events.Saved) and item.kind == "jit" and item.model.allocation is event.model.allocation
        for item in later
    )
