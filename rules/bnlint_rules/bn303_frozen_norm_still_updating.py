"""BN303: frozen layers whose batch norms keep learning statistics."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase

from bnlint.api import Context, Diagnostic, Fix, Invalid, Layer, NotChecked, Rule, Severity, Span, Valid, events, listed

# Their own code puts what the configuration freezes into evaluation mode.
_FREEZE_COMPLETELY = frozenset(("detectron2", "mmdet2", "mmengine"))


class FrozenNormStillUpdating(Rule):
    """`requires_grad = False` freezes weights and biases; a batch norm in training mode still moves its statistics.

    ## Why it matters

    `running_mean` and `running_var` are buffers: no gradient reaches them, and no optimiser owns them. In training
    mode every forward moves them towards the current batch, and normalises with that batch. A backbone that was frozen
    to keep its pretrained features thus computes other features in evaluation than in training, and others after each
    epoch; with a small batch or another domain its statistics are soon far from the pretrained ones. `model.train()`
    at the start of an epoch puts every layer back into training mode, frozen or not.

    The rule looks at forwards of the training loop: parameters were frozen before, and the norms among them are in
    training mode. In a captured model it names the layers, and takes conditions on parameter names into account; there
    it also reports a class that freezes layers in its own code and leaves their norms in training mode. It is silent
    for norms that are frozen alone, behind layers that train, and where `requires_grad` is switched back and forth
    (the discriminator of a GAN) or the model follows another one (a momentum encoder). What is put back into training
    later is listed as not checked, as are classes that override `train()`. An `eval()` that was called and lost is
    BN304's.

    ## Fix safety

    The fix calls `eval()` for the frozen part after `train()`, or where it is frozen in a script without `train()`. For
    some layers among others it sets those batch norms to evaluation mode whose weights are frozen, and a class that
    freezes its own layers gets a `train()` that does so. It is unsafe: the outputs in training change.

    ## References

    - [PyTorch: BatchNorm2d](https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html), on running
      statistics
    - [PyTorch: Locally disabling gradient computation](https://docs.pytorch.org/docs/stable/notes/autograd.html), on
      `requires_grad` and evaluation mode
    - [vision#2079](https://github.com/pytorch/vision/issues/2079): a frozen model whose predictions change
    """

    code = "BN303"
    name = "frozen-norm-still-updating"
    severity = Severity.ERROR
    needs = ()
    fixable = True

    valid = (
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()


def main(loader):
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()
        model.backbone.eval()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="the frozen part is put back into evaluation mode after train()",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)
        for parameter in self.backbone.parameters():
            parameter.requires_grad = False

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()
""",
            inputs=((3, 4, 4),),
            note="the class overrides train()",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
teacher = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))


def main(loader):
    teacher.requires_grad_(False)
    teacher.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in loader:
        F.mse_loss(model(x), teacher(x)).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="a frozen teacher in evaluation mode",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1))
critic = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 1, 1))


def set_requires_grad(net, flag):
    for parameter in net.parameters():
        parameter.requires_grad = flag


def main(loader):
    steps = torch.optim.Adam(model.parameters()), torch.optim.Adam(critic.parameters())
    for real in loader:
        fake = model(real)
        set_requires_grad(critic, True)
        loss = critic(fake.detach()).mean() - critic(real).mean()
        loss.backward()
        steps[1].step()
        set_requires_grad(critic, False)
        loss = -critic(fake).mean()
        loss.backward()
        steps[0].step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="the critic is frozen for the generator's step alone",
        ),
        Valid(
            """\
import copy

model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))


def main(loader):
    target = copy.deepcopy(model)
    for parameter in target.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x in loader:
        F.mse_loss(model(x), target(x)).backward()
        optimizer.step()
        for slow, fast in zip(target.parameters(), model.parameters()):
            slow.data.mul_(0.99).add_(fast.data, alpha=0.01)


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="a momentum encoder: its parameters follow another model, and so do its statistics",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))


def main(loader):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.requires_grad_(False)
            module.bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for x, y in loader:
        model.train()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="the norms' weights alone, behind convolutions that train: the statistics have to follow those",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))


def main(loader):
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("1.")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for x, y in loader:
        model.train()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="nothing but the norm trains",
        ),
        Valid(
            """\
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))


def fit(loader, epochs):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for epoch in range(epochs):
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    fit([], 1)
    model.requires_grad_(True)
    fit([], 10)
""",
            inputs=((3, 4, 4),),
            note="two stages: what is frozen first trains later, not checked",
        ),
        Valid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))
        self.head = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()


def main(loader):
    for name, parameter in model.named_parameters():
        if "head" not in name:
            parameter.requires_grad_(False)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for x, y in loader:
        model.train()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


if __name__ == "__main__":
    main([])
""",
            inputs=((3, 4, 4),),
            note="the only batch norm belongs to the head, which trains",
        ),
        Valid(
            """\
import copy


class Learner(nn.Module):
    def __init__(self):
        super().__init__()
        self.online = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        self.slow = copy.deepcopy(self.online)
        for parameter in self.slow.parameters():
            parameter.requires_grad = False

    @torch.no_grad()
    def follow(self):
        for own, other in zip(self.slow.parameters(), self.online.parameters()):
            own.lerp_(other, 0.01)

    def forward(self, x):
        with torch.no_grad():
            goal = self.slow(x)
        return F.mse_loss(self.online(x), goal)


model = Learner()
""",
            inputs=((4,),),
            note="a momentum encoder follows another network, its statistics its batches",
        ),
    )
    invalid = (
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


def main(loader):
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()  # dropout and batch norm
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
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.head(self.backbone(x))


model = Net()


def main(loader):
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    for epoch in range(3):
        model.train()  # dropout and batch norm
        model.backbone.eval()
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    main([])
""",
            modules=("backbone.1",),
            message="train() on line 20",
            note="a plain loop",
        ),
        Invalid(
            """\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.fc = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)))


model = Net()


def freeze(net, trained):
    for name, parameter in net.named_parameters():
        if all(word not in name for word in trained):
            parameter.requires_grad_(False)


def train_one_epoch(net, loader, optimizer):
    net.train()
    for x, y in loader:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()


def main():
    freeze(model, ("fc", "body"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for epoch in range(3):
        train_one_epoch(model, [], optimizer)


if __name__ == "__main__":
    main()
""",
            inputs=((3, 4, 4),),
            fixed="""\
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        self.body = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.fc = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.fc(self.body(self.stem(x)))


model = Net()


def freeze(net, trained):
    for name, parameter in net.named_parameters():
        if all(word not in name for word in trained):
            parameter.requires_grad_(False)


def train_one_epoch(net, loader, optimizer):
    net.train()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
            module.eval()
    for x, y in loader:
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()


def main():
    freeze(model, ("fc", "body"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for epoch in range(3):
        train_one_epoch(model, [], optimizer)


if __name__ == "__main__":
    main()
""",
            modules=("stem.1",),
            message="1 batch norm (stem.1)",
            note="functions, and a condition on the names: the norm of the body trains",
        ),
        Invalid(
            """\
def backbone():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))


model = backbone()


class Trainer:
    def __init__(self, net):
        self.net = net
        self.net.requires_grad_(False)
        self.net[4] = nn.Linear(8, 2)
        self.optimizer = torch.optim.SGD(self.net[4].parameters(), lr=0.1)

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.optimizer.step()

    def fit(self, loader):
        for x, y in loader:
            self.step(x, y)


if __name__ == "__main__":
    Trainer(model).fit([])
""",
            inputs=((3, 4, 4),),
            fixed="""\
def backbone():
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))


model = backbone()


class Trainer:
    def __init__(self, net):
        self.net = net
        self.net.requires_grad_(False)
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        self.net[4] = nn.Linear(8, 2)
        self.optimizer = torch.optim.SGD(self.net[4].parameters(), lr=0.1)

    def step(self, x, y):
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(x), y)
        loss.backward()
        self.optimizer.step()

    def fit(self, loader):
        for x, y in loader:
            self.step(x, y)


if __name__ == "__main__":
    Trainer(model).fit([])
""",
            modules=("1",),
            message="it is built on line 3",
            note="a trainer class: everything frozen, then a new head, and never a word about the mode",
        ),
        Invalid(
            """\
class Block(nn.Sequential):
    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class Net(nn.Module):
    def __init__(self, frozen_stages=1):
        super().__init__()
        self.stages = nn.ModuleList(Block(3) for _ in range(2))
        self._freeze_stages(frozen_stages)

    def _freeze_stages(self, count):
        for stage in self.stages[:count]:
            for parameter in stage.parameters():
                parameter.requires_grad = False

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


model = Net()
""",
            inputs=((3, 4, 4),),
            fixed="""\
class Block(nn.Sequential):
    def __init__(self, channels):
        super().__init__(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))


class Net(nn.Module):
    def __init__(self, frozen_stages=1):
        super().__init__()
        self.stages = nn.ModuleList(Block(3) for _ in range(2))
        self._freeze_stages(frozen_stages)

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.weight.requires_grad:
                module.eval()
        return self

    def _freeze_stages(self, count):
        for stage in self.stages[:count]:
            for parameter in stage.parameters():
                parameter.requires_grad = False

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


model = Net()
""",
            modules=("stages.0.1",),
            message="model.train() puts it into training mode",
            note="a class that freezes its own stages",
        ),
    )

    def check(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        if context.program is not None:
            yield from self._check_script(context)
        elif context.has_model:
            yield from self._check_model(context)

    # A model that freezes its own layers -------------------------------------------------------------------

    def _check_model(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        undone = {layer for item in context.own_evaluations for layer in item.layers}  # BN304's
        layers = tuple(layer for layer in context.norms_frozen_by_class if layer not in undone)
        if layers:
            yield self.diagnostic(
                layers[0],
                f"{_counted(layers)} of layers that the model freezes (requires_grad=False) keep{_s(layers)} learning "
                f"running statistics: model.train() puts {'it' if len(layers) == 1 else 'them'} into training mode",
                data={"layers": [layer.path for layer in layers]},
                fix=_fix_of_class(context, layers),
            )
        source = context.training.span("frozen")
        if source is not None and source.path.endswith(".py"):
            return  # what the script itself freezes is followed there
        patterns = context.training.frozen or ()
        stated = [
            layer
            for layer in context.batch_norms(tracking=True, training=True)
            if layer not in layers and not layer.custom and any(fnmatchcase(layer.path, item) for item in patterns)
        ]
        if stated and not context.frameworks & _FREEZE_COMPLETELY:
            yield self.not_checked(
                f"{_counted(stated)} matched by the training file's frozen patterns: whether the training keeps "
                f"{'it' if len(stated) == 1 else 'them'} in evaluation mode is not known"
            )

    # A script that freezes layers --------------------------------------------------------------------------

    def _check_script(self, context: Context) -> Iterator[Diagnostic | NotChecked]:
        for places in _frozen_calls(context).values():
            part = next((part for _, part in places if _is_learning(part)), None)
            doubt = "" if part is None else _doubt(context, places)
            if part is None:
                doubt = next((part.mode.why for _, part in places if _is_open(part)), "")
            if doubt == _NO_FREEZING or (part is None and not doubt):
                continue
            first = places[0][1] if part is None else part
            line = _shown(_place(first))
            norms = context.frozen_norms(first.freezing)
            if norms is False or norms == () or _is_said_of_the_class(context, first, norms):
                continue
            if part is not None and _is_undone(context, part):
                continue
            if doubt:
                yield self.not_checked(f"{line}: whether the frozen batch norms train is not known: {doubt}")
            elif norms is None:
                yield self.not_checked(f"{line}: whether batch norms are among the frozen layers is not known")
            else:
                assert part is not None
                call = next(call for call, item in places if item is part)
                yield self._finding(context, call, part, norms if isinstance(norms, tuple) else ())

    def _finding(
        self, context: Context, call: events.Forward, part: events.FrozenPart, layers: tuple[Layer, ...]
    ) -> Diagnostic:
        mode, freezing = part.mode, part.freezing
        assert mode.node is not None and mode.module is not None
        name = context.name_in(call)
        frozen = f"{name}.{freezing.path}" if freezing.path else name
        place, set_where = _place(part), mode.module.span(mode.node)
        line = _line(set_where, place)
        since = f"train() on {line}" if mode.explicit else f"it is built on {line}"
        why = f"{since} puts {_them(layers)} into" if mode.explicit else f"{since} and never leaves"
        norms = _counted(layers) if layers else "its batch norms"
        whose = f"parameters of {frozen} are" if freezing.selection.picks or freezing.without else f"{frozen} is"
        return self.diagnostic(
            place,
            f"{whose} frozen, but {norms} keep{_s(layers)} learning running statistics: {why} training mode, and the "
            f"training calls it on {_line(call.where.span, place)}",
            module=layers[0].path if layers else None,
            related=((set_where, since), (call.where.span, "a training forward")),
            data={
                "model": name,
                "path": freezing.path,
                "layers": [layer.path for layer in layers],
                "training_line": call.where.span.line,
            },
            fix=_fix(context, part, frozen, layers),
        )


_NO_FREEZING = "it is no freezing"


def _frozen_calls(context: Context) -> dict[tuple[ast.AST, int], list[tuple[events.Forward, events.FrozenPart]]]:
    """The forwards of the training that find frozen parameters, by what froze them."""
    program = context.program
    assert program is not None
    found: dict[tuple[ast.AST, int], list[tuple[events.Forward, events.FrozenPart]]] = defaultdict(list)
    for call in program.forwards:
        if call in program.trained and not any(":except" in item.symbol.text for item in call.assumptions):
            for part in call.frozen:
                found[part.freezing.node, id(part.freezing.allocation)].append((call, part))
    return found


def _is_learning(part: events.FrozenPart) -> bool:
    return bool((part.mode if part.norms is None else part.norms).training)


def _is_open(part: events.FrozenPart) -> bool:
    return (part.mode if part.norms is None else part.norms).training is None


def _doubt(context: Context, places: list[tuple[events.Forward, events.FrozenPart]]) -> str:
    """Why the statistics may be meant to move; `_NO_FREEZING` where the parameters are not frozen for good."""
    program = context.program
    assert program is not None
    call, part = places[0]
    freezing = part.freezing
    own = freezing.allocation
    follows = {event.target.allocation for event in program.of_kind(events.Averaged)}
    follows |= {event.model.allocation for event in program.of_kind(events.WeightsLoaded) if event.where.loops}
    if own in follows or own.origin in ("copy", "average"):
        return _NO_FREEZING
    behind = program.all_events[program.all_events.index(call) + 1 :]
    switched = [event for event in behind if isinstance(event, events.Frozen) and event.model.allocation is own]
    back = [
        event
        for event in switched
        if event.trainable is not False and event.whole and f"{freezing.path}.".startswith(_prefix(event.model.path))
    ]
    if back:
        in_loop = [loop for loop in call.where.loops if loop in back[0].where.loops]
        return _NO_FREEZING if in_loop else f"line {back[0].where.span.line} puts them back into training"
    if program.overrides_train(own):
        return f"{program.class_of(own)} overrides train()"
    return ""


def _prefix(path: str) -> str:
    return f"{path}." if path else ""


def _is_said_of_the_class(context: Context, part: events.FrozenPart, norms: tuple[Layer, ...] | bool | None) -> bool:
    """Whether the same layers are reported of the model, whose class freezes them."""
    model = context.model_of(part.freezing.allocation)
    if model is None or not isinstance(norms, tuple):
        return False
    return {layer.path for layer in norms} <= {layer.path for layer in model.norms_frozen_by_class}


def _is_undone(context: Context, part: events.FrozenPart) -> bool:
    """Whether the frozen part was in evaluation mode before a `train()` in the loop set it back, which is BN304's."""
    own, path = part.freezing.allocation, part.freezing.path
    for change in _switches(context):
        if change.where.node is part.mode.node:
            for undone, was in change.undone:
                is_around = f"{path}.".startswith(_prefix(undone.path.removesuffix("*norms")))
                if undone.allocation is own and is_around and not set(change.where.loops[-1:]) & set(was.loops):
                    return True
    return False


def _place(part: events.FrozenPart) -> Span:
    """The loop that freezes, by the collection that it goes over, else the call."""
    freezing = part.freezing
    loops = (
        item.iter
        for item in ast.walk(freezing.module.source.tree)
        if isinstance(item, ast.For) and any(inner is freezing.node for inner in ast.walk(item))
    )
    within = [item for item in loops if any(isinstance(inner, ast.Call) for inner in ast.walk(item))]
    if isinstance(freezing.node, ast.Call) and not within:
        return freezing.module.span(freezing.node)
    return freezing.module.span(within[-1] if within else freezing.node)


def _line(span: Span, place: Span) -> str:
    return f"line {span.line}" + ("" if span.path == place.path else f" of {span.path}")


def _shown(place: Span) -> str:
    return f"{place.path}:{place.line}"


def _fix(context: Context, part: events.FrozenPart, frozen: str, layers: tuple[Layer, ...]) -> Fix:
    """Writes `eval()` for the frozen part behind the `train()` that reaches it, or behind the freezing; else advice."""
    when = "after train()" if part.mode.explicit else "where it is frozen"
    title = f"Call eval() for the batch norms of {frozen} {when}"
    return context.script_fixes.hold_frozen(part, title=title, are_all=bool(layers) and _are_all(context, part, layers))


def _fix_of_class(context: Context, layers: tuple[Layer, ...]) -> Fix:
    """Gives the model's class a `train()` that sets what is frozen to evaluation mode; else advice."""
    its = "its" if len(layers) == 1 else "their"
    advice = f"Override train() in the class, and call eval() for the frozen layers or {its} batch norms there"
    norms = list(context.norms("batch"))
    frozen = {layer.path for layer in norms if layer.affine and not layer.trainable}
    if frozen != {layer.path for layer in layers} or not all(layer.affine for layer in norms):
        return Fix(advice)
    return context.keep_frozen(
        layers, title="Override train() in the class to keep its frozen batch norms in evaluation mode", advice=advice
    )


def _are_all(context: Context, part: events.FrozenPart, layers: tuple[Layer, ...]) -> bool:
    """Whether these are all batch norms of the part whose weights are frozen, and each one there has a weight."""
    model = context.model_of(part.freezing.allocation)
    if model is None:
        return False
    inside = [layer for layer in model.norms("batch") if f"{layer.path}.".startswith(_prefix(part.freezing.path))]
    frozen = {layer.path for layer in inside if part.freezing.includes(f"{layer.path}.weight") is not False}
    return all(layer.affine for layer in inside) and frozen == {layer.path for layer in layers}


def _switches(context: Context) -> tuple[events.ModeChange, ...]:
    assert context.program is not None
    return context.program.of_kind(events.ModeChange)


def _counted(layers: tuple[Layer, ...] | list[Layer]) -> str:
    return f"{len(layers)} batch norm{'s' * (len(layers) != 1)} ({listed(layers)})"


def _s(layers: tuple[Layer, ...]) -> str:
    return "s" * (len(layers) == 1)


def _them(layers: tuple[Layer, ...]) -> str:
    return "it" if len(layers) == 1 else "them"
