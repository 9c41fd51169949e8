"""The mode of a model at each call of a script: marked in the script itself as `# train`, `# eval`, `# unknown`."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from bnlint.program.events import Forward
from bnlint.program.program import Program
from bnlint.source.file import SourceFile

HEAD = "import torch\nfrom torch import nn\nimport torch.nn.functional as F\n"

SCRIPTS = {
    "a model is built in training mode": """
        model = nn.Linear(2, 2)
        model(x)  # train
        model.eval()
        model(x)  # eval
        model.train()
        model(x)  # train
    """,
    "train takes a mode": """
        model = nn.Linear(2, 2)
        model.train(False)
        model(x)  # eval
        model.train(mode=True)
        model(x)  # train
        model.train(args.train)
        model(x)  # both
    """,
    "chained calls hand the model on": """
        model = nn.Linear(2, 2).to(device).eval()
        model.half().cuda()(x)  # eval
    """,
    "one branch alone does not dominate": """
        model = nn.Linear(2, 2)
        if args.fast:
            model.eval()
        model(x)  # both
    """,
    "both branches dominate": """
        model = nn.Linear(2, 2)
        if args.fast:
            model.eval()
        else:
            model = model.eval()
        model(x)  # eval
    """,
    "the same condition asked twice": """
        model = nn.Linear(2, 2)
        if args.fast:
            model.eval()
        print("between")
        if args.fast:
            model(x)  # eval
        if not args.fast:
            model(x)  # train
    """,
    "a condition handed to a function": """
        def run(training):
            model.train(training)
            if not training:
                model(x)  # eval
            else:
                model(x)  # train

        model = nn.Linear(2, 2)
        run(args.train)
    """,
    "a loop that may not run": """
        model = nn.Linear(2, 2)
        for batch in loader:
            model.eval()
        model(x)  # both
    """,
    "a loop over a literal runs": """
        model = nn.Linear(2, 2)
        for phase in ["val"]:
            model.eval()
        model(x)  # eval
    """,
    "phases": """
        model = nn.Linear(2, 2)
        for epoch in range(3):
            for phase in ("train", "val"):
                if phase == "train":
                    model.train()
                else:
                    model.eval()
                if phase == "val":
                    model(x)  # eval
                else:
                    model(x)  # train
    """,
    "the second pass of a loop": """
        model = nn.Linear(2, 2)
        for epoch in range(3):
            model(x)  # both
            model.eval()
    """,
    "while true runs": """
        model = nn.Linear(2, 2)
        while True:
            model.eval()
            break
        model(x)  # eval
    """,
    "an early return": """
        def validate(model):
            model.eval()
            if not improved():
                return None
            model.train()
            return 1

        model = nn.Linear(2, 2)
        validate(model)
        model(x)  # both
    """,
    "finally restores": """
        def validate(model):
            model.eval()
            try:
                return model(x)  # eval
            finally:
                model.train()

        model = nn.Linear(2, 2)
        validate(model)
        model(x)  # train
    """,
    "the flag is kept and restored": """
        def validate(model):
            was_training = model.training
            model.eval()
            out = model(x)  # eval
            model.train(was_training)
            return out

        model = nn.Linear(2, 2)
        validate(model)
        model(x)  # train
        model.eval()
        validate(model)
        model(x)  # eval
    """,
    "the flag is asked": """
        def validate(model):
            training = model.training
            if training:
                model.eval()
            model(x)  # eval
            if training:
                model.train()

        model = nn.Linear(2, 2)
        validate(model)
        model(x)  # train
    """,
    "a generator restores": """
        from contextlib import contextmanager

        @contextmanager
        def evaluating(net):
            net.eval()
            yield
            net.train()

        model = nn.Linear(2, 2)
        with evaluating(model), torch.no_grad():
            model(x)  # eval
        model(x)  # train
    """,
    "a class restores": """
        class evaluating:
            def __init__(self, net):
                self.net = net

            def __enter__(self):
                self.net.eval()

            def __exit__(self, *error):
                self.net.train()

        model = nn.Linear(2, 2)
        with evaluating(model):
            model(x)  # eval
        model(x)  # train
    """,
    "a decorator restores": """
        def in_eval_mode(function):
            def inner(model, *arguments):
                model.eval()
                out = function(model, *arguments)
                model.train()
                return out

            return inner

        @in_eval_mode
        def sample(model, n):
            return model(x)  # eval

        model = nn.Linear(2, 2)
        sample(model, 3)
        model(x)  # train
    """,
    "wrappers share the mode of what they wrap": """
        from torch.nn.parallel import DistributedDataParallel as DDP

        model = nn.Linear(2, 2)
        ddp = DDP(model)
        ddp.eval()
        model(x)  # eval
        ddp.module.train()
        ddp(x)  # train
        compiled = torch.compile(ddp)
        compiled.eval()
        model(x)  # eval
    """,
    "a copy has a mode of its own": """
        import copy

        model = nn.Linear(2, 2)
        target = copy.deepcopy(model)
        target.eval()
        model(x)  # train
        target(x)  # eval
    """,
    "a part has a mode of its own": """
        model = nn.Sequential(nn.Linear(2, 2))
        model.backbone.eval()
        model.backbone(x)  # eval
        model(x)  # train
        model.train()
        model.backbone(x)  # train
    """,
    "the model of a trainer": """
        class Trainer:
            def __init__(self, model):
                self.model = model

            def fit(self):
                self.model.train()
                self.validate()
                self.model(x)  # eval

            def validate(self):
                self.model.eval()
                self.model(x)  # eval

        Trainer(nn.Linear(2, 2)).fit()
    """,
    "an inherited method": """
        class Base:
            def prepare(self):
                self.net.eval()

        class Task(Base):
            def __init__(self):
                self.net = nn.Linear(2, 2)

            def run(self):
                super().prepare()
                self.net(x)  # eval

        Task().run()
    """,
    "a factory": """
        def build():
            model = nn.Linear(2, 2)
            return model.eval()

        model = build()
        model(x)  # eval
    """,
    "several results": """
        def build():
            return nn.Linear(2, 2), nn.Linear(2, 2).eval()

        one, other = build()
        one(x)  # train
        other(x)  # eval
    """,
    "models in a mapping": """
        models = {"online": nn.Linear(2, 2), "target": nn.Linear(2, 2)}
        for name in ("online", "target"):
            models[name].eval()
        models["online"](x)  # eval
        for model in models.values():
            model.train()
        models["target"](x)  # train
    """,
    "one of several classes": """
        if args.deep:
            model = nn.Sequential(nn.Linear(2, 2))
        elif args.wide:
            model = nn.Linear(2, 2)
        else:
            model = nn.Bilinear(2, 2, 2)
        model(x)  # train
        model.eval()
        model(x)  # eval
    """,
    "a closure": """
        def main():
            model = nn.Linear(2, 2)

            def evaluate():
                model(x)  # eval

            model.eval()
            evaluate()

        main()
    """,
    "a global": """
        model = nn.Linear(2, 2)

        def switch():
            global model
            model = model.eval()

        switch()
        model(x)  # eval
    """,
    "a partial": """
        from functools import partial

        def evaluate(model, flag):
            if flag:
                model.eval()
            model(x)  # eval

        partial(evaluate, nn.Linear(2, 2), flag=True)()
    """,
    "spawned processes": """
        import torch.multiprocessing as mp

        def worker(rank, evaluate):
            model = nn.Linear(2, 2)
            if evaluate:
                model.eval()
            model(x)  # eval

        if __name__ == "__main__":
            mp.spawn(worker, nprocs=2, args=(True,))
    """,
    "what a library does with it is not known": """
        import somelibrary

        model = nn.Linear(2, 2)
        somelibrary.prepare_for_evaluation(model)
        model(x)  # unknown
    """,
    "what cannot be resolved may be in either mode": """
        import somelibrary

        model = somelibrary.load_model("x")
        model(x)  # unknown
        model.eval()
        model(x)  # eval
    """,
    "a parameter nobody passes": """
        def evaluate(model):
            model(x)  # unknown
            model.eval()
            model(x)  # eval
    """,
    "an optimiser, a summary and a logger leave it alone": """
        import wandb

        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        wandb.watch(model)
        print(model)
        torch.save(model.state_dict(), "x.pt")
        model(x)  # train
    """,
    "a user's own train function is not the method": """
        def train(model):
            model(x)  # eval

        model = nn.Linear(2, 2)
        model.eval()
        train(model)
    """,
    "an environment that has eval()": """
        import envs

        env = envs.make("x")
        model = nn.Linear(2, 2)
        env.eval()
        model(x)  # train
    """,
    "a lambda": """
        model = nn.Linear(2, 2)
        switch = lambda net: net.eval()
        switch(model)
        model(x)  # eval
    """,
    "a conditional expression": """
        model = nn.Linear(2, 2)
        model.eval() if args.fast else model.train()
        model(x)  # both
    """,
    "an exception handler": """
        model = nn.Linear(2, 2)
        try:
            model.eval()
            model(x)  # eval
        except RuntimeError:
            model(x)  # train
    """,
    "recursion ends": """
        def run(model, depth):
            model.eval()
            if depth:
                run(model, depth - 1)
            model(x)  # eval

        run(nn.Linear(2, 2), 3)
    """,
    "a method that is looked up by name": """
        model = nn.Linear(2, 2)
        for mode in ("train", "eval"):
            getattr(model, mode)()
            if mode == "eval":
                model(x)  # eval
            else:
                model(x)  # train
        getattr(model, args.mode)()
        model(x)  # unknown
    """,
    "a method that is bound to a name": """
        model = nn.Linear(2, 2)
        off = model.eval
        model(x)  # train
        off()
        model(x)  # eval
        switch = model.train if args.train else model.eval
        switch()
        model(x)  # unknown
    """,
    "one of two methods": """
        def run(training):
            (model.train if training else model.eval)()
            if training:
                model(x)  # train
            else:
                model(x)  # eval

        model = nn.Linear(2, 2)
        run(args.train)
    """,
    "a method of the class": """
        model = nn.Linear(2, 2)
        nn.Module.eval(model)
        model(x)  # eval
        nn.Module.train(model, True)
        model(x)  # train
    """,
    "what map() calls is not followed": """
        first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        list(map(nn.Module.eval, [first]))
        first(x)  # unknown
        second(x)  # train
    """,
    "exec may do anything": """
        model = nn.Linear(2, 2)
        exec(command)
        model(x)  # unknown
    """,
    "match over phases": """
        model = nn.Linear(2, 2)
        for epoch in range(3):
            for phase in ["train", "val"]:
                match phase:
                    case "train":
                        model.train()
                    case "val" | "test":
                        model.eval()
                if phase == "val":
                    model(x)  # eval
                else:
                    model(x)  # train
    """,
    "the last case takes what is left": """
        model = nn.Linear(2, 2)
        match args.mode:
            case "fit":
                model.train()
            case "tune" if args.slow:
                model.train()
            case _:
                model.eval()
        if args.mode == "fit":
            model(x)  # train
    """,
    "match that takes a value apart": """
        model = nn.Linear(2, 2)
        match command.split():
            case ["predict", name]:
                model.eval()
                model(x)  # eval
        model(x)  # both
    """,
    "match over the classes of modules": """
        model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        model.eval()
        for module in model.modules():
            match module:
                case nn.BatchNorm1d():
                    module.train()
        model(x)  # eval
    """,
    "what follows an endless loop": """
        model = nn.Linear(2, 2)
        while True:
            model.train()
            model(x)  # train
            model.eval()
            if improved():
                break
        model(x)  # eval
    """,
    "a flag does not make a loop endless": """
        model = nn.Linear(2, 2)
        running = True
        while running:
            model.eval()
            running = improved()
            model.train()
        model(x)  # train
    """,
    "the program ends": """
        import sys

        model = nn.Linear(2, 2)
        if args.evaluate:
            model.eval()
            model(x)  # eval
            sys.exit(0)
        model(x)  # train
    """,
    "a decorator with arguments": """
        def in_mode(training):
            def decorate(function):
                def wrapper(*args):
                    model.train(training)
                    return function(*args)
                return wrapper
            return decorate

        @in_mode(False)
        def predict(inputs):
            return model(inputs)  # eval

        @in_mode(training=True)
        def fit(inputs):
            return model(inputs)  # train

        model = nn.Linear(2, 2)
        predict(x)
        fit(x)
    """,
    "decorators on each other": """
        def evaluating(function):
            def wrapper(*args):
                model.eval()
                return function(*args)
            return wrapper

        def logged(function):
            def wrapper(*args):
                print("called")
                return function(*args)
            return wrapper

        @logged
        @torch.no_grad()
        @evaluating
        def predict(inputs):
            return model(inputs)  # eval

        model = nn.Linear(2, 2)
        predict(x)
    """,
    "a decorator of another package": """
        from helpers import eval_mode

        @eval_mode
        def predict(inputs):
            return model(inputs)  # unknown

        model = nn.Linear(2, 2)
        predict(x)
    """,
    "a context manager that is entered elsewhere": """
        import contextlib

        @contextlib.contextmanager
        def evaluating(model):
            model.eval()
            yield
            model.train()

        model = nn.Linear(2, 2)
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluating(model))
            model(x)  # unknown
    """,
    "a model with its own call": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(2, 2)

            def forward(self, inputs):
                return self.linear(inputs)

            def __call__(self, inputs, training=False):
                self.train(training)
                return super().__call__(inputs)  # both

        model = Net()
        model(x, training=True)
        model(x)
    """,
}


def expected_modes(text: str) -> dict[int, str]:
    """The marks by line."""
    marks = ("train", "eval", "unknown", "both")
    found = {}
    for number, line in enumerate(text.splitlines(), start=1):
        mark = line.partition("  # ")[2]
        if mark in marks:
            found[number] = mark
    return found


def program(text: str, folder: Path) -> Program:
    path = folder / "script.py"
    path.write_text(text, encoding="utf-8")
    return Program.of(SourceFile.read(path), SourceFile.read)


def found_modes(followed: Program) -> dict[int, str]:
    """What was found at each line where a model is called."""
    modes: dict[int, set[bool | None]] = {}
    for call in followed.forwards:
        assert isinstance(call, Forward)
        modes.setdefault(call.where.span.line, set()).add(call.mode.training)
    words = {frozenset({True}): "train", frozenset({False}): "eval", frozenset({None}): "unknown"}
    return {line: words.get(frozenset(found), "both") for line, found in modes.items()}


@pytest.mark.parametrize("name", SCRIPTS)
def test_mode_at_each_call(name: str, tmp_path: Path) -> None:
    text = HEAD + textwrap.dedent(SCRIPTS[name])

    followed = program(text, tmp_path)

    assert followed.complete
    assert found_modes(followed) == expected_modes(text)


GRADIENTS = {
    "with": "with torch.no_grad():\n    model(x)  # off\nmodel(x)  # on\n",
    "inference mode": "with torch.inference_mode():\n    model(x)  # off\n",
    "inference mode switched off": "with torch.inference_mode(False):\n    model(x)  # on\n",
    "set for good": "torch.set_grad_enabled(False)\nmodel(x)  # off\n",
    "set within": "with torch.no_grad():\n    with torch.enable_grad():\n        model(x)  # on\n    model(x)  # off\n",
    "a constant flag": "with torch.set_grad_enabled(False):\n    model(x)  # off\n",
    "decorated": "@torch.no_grad()\ndef run():\n    model(x)  # off\n\nrun()\nmodel(x)  # on\n",
    "decorated without a call": "@torch.inference_mode\ndef run():\n    model(x)  # off\n\nrun()\n",
    "several items": "with open('x') as file, torch.no_grad():\n    model(x)  # off\n",
    "through a function": "def run():\n    return model(x)  # off\n\nwith torch.no_grad():\n    run()\n",
    "by another name": "from torch import no_grad as off\nwith off():\n    model(x)  # off\n",
    "either": "from contextlib import suppress as off\nwith torch.no_grad() if a else off():\n    model(x)  # both\n",
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_at_each_call(name: str, tmp_path: Path) -> None:
    text = f"{HEAD}model = nn.Linear(2, 2)\n{GRADIENTS[name]}"
    found: dict[int, set[bool | None]] = {}

    for call in program(text, tmp_path).forwards:
        found.setdefault(call.where.span.line, set()).add(call.gradients)

    words: dict[frozenset[bool | None], str] = {frozenset({True}): "on", frozenset({False}): "off"}
    marks = {
        number: line.partition("  # ")[2] for number, line in enumerate(text.splitlines(), start=1) if "  # " in line
    }
    assert {line: words.get(frozenset(seen), "both") for line, seen in found.items()} == marks


def test_functions_of_local_files_are_followed(tmp_path: Path) -> None:
    package = tmp_path / "tools"
    package.mkdir()
    (package / "__init__.py").write_text("from .engine import evaluate\n", encoding="utf-8")
    (package / "engine.py").write_text(
        "from .switch import off\n\n\ndef evaluate(model):\n    off(model)\n    return model(1)\n", encoding="utf-8"
    )
    (package / "switch.py").write_text("def off(net):\n    net.eval()\n", encoding="utf-8")
    text = f"{HEAD}from tools import evaluate\n\nmodel = nn.Linear(2, 2)\nevaluate(model)\nmodel(2)\n"

    followed = program(text, tmp_path)

    calls = [(call.where.span.path.rpartition("/")[2], call.mode.training) for call in followed.forwards]
    assert calls == [("engine.py", False), ("script.py", False)]


def test_a_script_with_too_many_paths_is_given_up_in_words(tmp_path: Path) -> None:
    branches = "".join(f"    if args.a{n}:\n        model{n}.eval()\n" for n in range(40))
    models = "".join(f"model{n} = nn.Linear(2, 2)\n" for n in range(40))
    nested = "".join(f"{'    ' * depth}for a{depth} in loader{depth}:\n" for depth in range(14))
    text = f"{HEAD}{models}for epoch in range(3):\n{branches}{nested}{'    ' * 14}model1(x)\n"

    followed = program(text, tmp_path)

    assert not followed.complete or len(followed.forwards) > 0
