"""The models that a training script builds in its functions are found, built and named; nothing else of it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import dedent, indent

import pytest
import torch
from torch import nn

from bnlint.errors import TargetError, UsageError
from bnlint.graph.parallel import wrappers_taken_off
from bnlint.graph.writes import writes_answered
from bnlint.target import LoadedTarget, NothingToCheck, load_targets

HEADER = """
import argparse
import os
import torch
from torch import nn
from torch.utils.data import DataLoader


def build_loader(*args):
    raise SystemError("data was read")


def fit(model):
    model(torch.zeros(1)).sum().backward()
    raise SystemError("training ran")


class Net(nn.Module):
    def __init__(self, width=4, classes=2):
        super().__init__()
        self.bn = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.bn(x))

"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def write(text: str, name: str = "train.py", header: str = HEADER) -> str:
    Path(name).write_text(header + dedent(text))
    return name


def found(spec: str) -> dict[str, nn.Module]:
    """The models by the name of their target."""
    return {item.name: item.build().model for item in load_targets(spec) if isinstance(item, LoadedTarget)}


def problems(spec: str) -> list[TargetError]:
    return [item for item in load_targets(spec) if isinstance(item, TargetError)]


def shape(model: nn.Module) -> tuple[int, int]:
    fc = model.get_submodule("fc")
    assert isinstance(fc, nn.Linear)
    return fc.in_features, fc.out_features


PLACES = [
    pytest.param(
        """
        def main():
            model = Net(8)
            fit(model)
        if __name__ == "__main__":
            main()
        """,
        "main.model",
        (8, 2),
        id="in a function",
    ),
    pytest.param(
        """
        if __name__ == "__main__":
            width = 8
            model = Net(width)
            fit(model)
        """,
        "model",
        (8, 2),
        id="under the main guard",
    ),
    pytest.param(
        """
        def main_worker(gpu, ngpus, args):
            model = Net(args.width)
            model = nn.parallel.DistributedDataParallel(model, device_ids=[gpu])
            fit(model)
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--width", type=int, default=8)
            args = parser.parse_args()
            torch.multiprocessing.spawn(main_worker, nprocs=2, args=(2, args))
        if __name__ == "__main__":
            main()
        """,
        "main_worker.model",
        (8, 2),
        id="in a spawned worker that wraps it",
    ),
    pytest.param(
        """
        class Trainer:
            def __init__(self, width):
                self.width = width
                self.loader = build_loader(width)
                self.model = Net(self.width)
            def run(self):
                fit(self.model)
        if __name__ == "__main__":
            Trainer(8).run()
        """,
        "Trainer.model",
        (8, 2),
        id="in a trainer's constructor",
    ),
    pytest.param(
        """
        class Trainer:
            def __init__(self, width):
                self.width = width
                self._build()
            def _build(self):
                self.model = Net(self.width)
        if __name__ == "__main__":
            fit(Trainer(8).model)
        """,
        "Trainer.model",
        (8, 2),
        id="in a method that the constructor calls",
    ),
    pytest.param(
        """
        def load_all(width):
            data = build_loader(width)
            model = Net(width)
            return data, model
        def main():
            data, model = load_all(8)
            fit(model)
        if __name__ == "__main__":
            main()
        """,
        "load_all.model",
        (8, 2),
        id="in a helper that reads the data as well",
    ),
    pytest.param(
        """
        parser = argparse.ArgumentParser()
        parser.add_argument("data")
        group = parser.add_argument_group("model")
        group.add_argument("--width", type=int, default=8)
        args = parser.parse_args()
        model = Net(args.width)
        fit(model)
        """,
        "model",
        (8, 2),
        id="at the top level, behind a required argument",
    ),
    pytest.param(
        """
        def main(args):
            model = Net(**vars(args))
            fit(model)
        if __name__ == "__main__":
            parser = argparse.ArgumentParser()
            parser.add_argument("--width", type=int, default=8)
            main(parser.parse_args())
        """,
        "main.model",
        (8, 2),
        id="with all options spread over the constructor",
    ),
    pytest.param(
        """
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--wide", action="store_true")
            args = parser.parse_args()
            if args.wide:
                model = Net(64)
            else:
                model = Net(8)
            model.fc = nn.Linear(8, 5)
            fit(model)
        if __name__ == "__main__":
            main()
        """,
        "main.model",
        (8, 5),
        id="in the branch that the defaults take, with another head",
    ),
]


@pytest.mark.parametrize(("text", "name", "expected"), PLACES)
def test_a_model_is_found_where_it_is_built(text: str, name: str, expected: tuple[int, int]) -> None:
    spec = write(text)
    models = found(spec)
    assert {key: shape(model) for key, model in models.items()} == {f"train.py:{name}": expected}
    assert problems(spec) == []


@pytest.mark.parametrize(("text", "name", "expected"), PLACES)
def test_the_name_that_is_shown_is_a_target(text: str, name: str, expected: tuple[int, int]) -> None:
    spec = f"{write(text)}:{name}"
    assert {key: shape(model) for key, model in found(spec).items()} == {spec: expected}


def test_a_conversion_runs_and_a_wrapper_does_not() -> None:
    spec = write(
        """
        def main():
            model = nn.SyncBatchNorm.convert_sync_batchnorm(Net(8))
            model = nn.DataParallel(torch.compile(model))
            model.module.fc = nn.Linear(8, 3)
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    (model,) = found(spec).values()
    assert type(model).__name__ == "Net"
    assert isinstance(model.get_submodule("bn"), nn.SyncBatchNorm)
    assert shape(model) == (8, 3)
    assert "module" not in vars(model)


WRAPPERS = [
    pytest.param("from torch.nn.parallel import DistributedDataParallel as DDP", "DDP(net, device_ids=[0])", id="DDP"),
    pytest.param("", "nn.parallel.DistributedDataParallel(module=net)", id="by its full name"),
    pytest.param(
        "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP",
        "FSDP(net, device_id=torch.cuda.current_device())",
        id="FSDP",
    ),
    pytest.param(
        "def FSDP(net):\n    from torch.distributed.fsdp import FullyShardedDataParallel\n"
        "    return FullyShardedDataParallel(net)",
        "FSDP(net)",
        id="imported where it is used",
    ),
]


@pytest.mark.parametrize("place", ["the file", "another file"])
@pytest.mark.parametrize(("definition", "wrapped"), WRAPPERS)
def test_a_wrapper_in_a_helper_gives_the_model(definition: str, wrapped: str, place: str) -> None:
    helper = f"""
{definition}
def prepare(net, rank):
    torch.cuda.set_device(rank)
    net = {wrapped}
    net.module.fc = nn.Linear(8, 3)
    return net
"""
    imported = place == "another file"
    if imported:
        Path("helpers.py").write_text("import torch\nfrom torch import nn\n" + helper)
    main = """
def main():
    model = prepare(Net(8), 0)
    model.module.bn = nn.SyncBatchNorm(8)
    fit(model)
if __name__ == "__main__":
    main()
"""
    spec = write(("from helpers import prepare" if imported else helper) + main)
    (model,) = found(spec).values()
    assert type(model).__name__ == "Net"
    assert shape(model) == (8, 3)
    assert isinstance(model.get_submodule("bn"), nn.SyncBatchNorm)
    assert "module" not in vars(model)
    assert problems(spec) == []


def test_a_wrapper_is_itself_again_after_the_building() -> None:
    net = nn.Linear(2, 2)
    with wrappers_taken_off():
        assert id(nn.parallel.DistributedDataParallel(net)) == id(net)
    with pytest.raises(ValueError, match="process group"):
        nn.parallel.DistributedDataParallel(net)


CHECKS = [
    pytest.param("if not torch.cuda.is_available():\n    raise SystemExit('This code requires a GPU')", id="an exit"),
    pytest.param("assert torch.cuda.is_available(), 'no GPU'", id="an assertion"),
    pytest.param("if not torch.accelerator.is_available():\n    raise RuntimeError('no GPU')", id="an accelerator"),
    pytest.param("if torch.cuda.is_available():\n    width = width\nelse:\n    raise OSError", id="the other branch"),
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("place", ["the body", "a helper", "a constructor"])
def test_a_check_for_a_gpu_is_not_run(check: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(owner, "is_available", lambda: False)
    lines = {
        name: indent(check, " " * depth) if name == place else ""
        for name, depth in (("the body", 4), ("a helper", 4), ("a constructor", 8))
    }
    spec = write(
        f"""
class Wide(Net):
    def __init__(self, width):
{lines["a constructor"]}
        super().__init__(width)
def get_net(width):
{lines["a helper"]}
    return Wide(width)
def main():
    width = 8
{lines["the body"]}
    model = get_net(width)
    fit(model)
if __name__ == "__main__":
    main()
"""
    )
    assert [shape(model) for model in found(spec).values()] == [(8, 2)]
    assert problems(spec) == []


def test_what_only_a_machine_with_a_gpu_binds_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    spec = write(
        """
        def main():
            if torch.cuda.is_available():
                width = 8
            else:
                raise OSError("This code requires a GPU")
            model = Net(width)
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    assert [shape(model) for model in found(spec).values()] == [(8, 2)]


def test_every_model_of_a_function_is_a_target_and_its_parts_and_copies_are_none() -> None:
    spec = write(
        """
        import copy
        class Pair(nn.Module):
            def __init__(self, encoder):
                super().__init__()
                self.encoder = encoder
        def main():
            netG = Net(8)
            netD = Net(4, 1)
            encoder = Net(6)
            model = Pair(encoder)
            ema_model = copy.deepcopy(model)
            fit(netG)
        if __name__ == "__main__":
            main()
        """
    )
    assert list(found(spec)) == ["train.py:main.netG", "train.py:main.netD", "train.py:main.model"]


def test_what_comes_after_the_training_does_not_change_the_model() -> None:
    spec = write(
        """
        def main():
            model = Net(8)
            fit(model)
            model.bn = nn.Identity()
            model = nn.Sequential(model)
        if __name__ == "__main__":
            main()
        """
    )
    (model,) = found(spec).values()
    assert isinstance(model.get_submodule("bn"), nn.BatchNorm1d)


def test_a_local_import_is_followed_and_one_that_is_not_needed_may_be_missing() -> None:
    Path("nets.py").write_text(HEADER)
    spec = write(
        """
        import not_installed_tracker
        from nets import Net
        def main():
            not_installed_tracker.init()
            model = Net(8)
            model.zero_grad()
            fit(model)
        def fit(model):
            model(1).backward()
        if __name__ == "__main__":
            main()
        """,
        header="",
    )
    assert [shape(model) for model in found(spec).values()] == [(8, 2)]


NOT_BUILT = [
    pytest.param(
        """
        def main():
            train_set, num_classes = build_dataset("x")
            model = Net(8, num_classes)
            fit(model)
        """,
        "build_dataset() in line 29 reads data",
        "train.py:main.model(num_classes=...)",
        id="a number of classes out of the data",
    ),
    pytest.param(
        """
        import not_installed_models
        def main():
            model = not_installed_models.build_net()
            fit(model)
        """,
        "No module named 'not_installed_models'",
        "install what is missing",
        id="a package that is not installed",
    ),
    pytest.param(
        """
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--arch", required=True)
            args = parser.parse_args()
            model = {"small": Net}[args.arch]()
            fit(model)
        """,
        "--arch is required and was taken as None",
        "train.py:main.model(arch=...)",
        id="a required option",
    ),
    pytest.param(
        """
        import hydra
        @hydra.main(config_path="conf")
        def main(cfg):
            model = Net(cfg.model.width)
            fit(model)
        """,
        "cfg is the configuration that Hydra composes",
        "train.py:main.model(cfg=...)",
        id="Hydra's configuration",
    ),
]


@pytest.mark.parametrize(("text", "reason", "hint"), NOT_BUILT)
def test_what_cannot_be_built_is_said_with_its_reason(text: str, reason: str, hint: str) -> None:
    spec = write(dedent(text) + '\nif __name__ == "__main__":\n    main()\n')
    problem = next(item for item in problems(spec) if item.module == "train.py:main.model")
    assert problem.code == "BN901"
    assert problem.optional
    assert reason in problem.message
    assert hint in problem.hint


def test_a_name_in_the_target_states_a_variable_or_an_option() -> None:
    spec = write(
        """
        def main():
            parser = argparse.ArgumentParser()
            parser.add_argument("--width", type=int, default=8)
            args = parser.parse_args()
            train_set, num_classes = build_dataset("x")
            model = Net(args.width, num_classes)
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    assert [shape(item) for item in found(f"{spec}:main.model(num_classes=7)").values()] == [(8, 7)]
    assert [shape(item) for item in found(f"{spec}:main.model(num_classes=7, width=16)").values()] == [(16, 7)]
    with pytest.raises(UsageError, match="arguments without names"):
        found(f"{spec}:main.model(7)")


def test_the_classes_of_a_published_data_set_are_known() -> None:
    spec = write(
        """
        from torchvision import datasets
        def main():
            train_set = datasets.CIFAR100("data", download=True)
            model = Net(8, len(train_set.classes))
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    text = Path(spec).read_text()
    Path("torchvision").mkdir()
    Path("torchvision/__init__.py").write_text("")
    Path("torchvision/datasets.py").write_text("def CIFAR100(*args, **kwargs):\n    raise SystemError('loaded')\n")
    assert "CIFAR100" in text
    assert [shape(model) for model in found(spec).values()] == [(8, 100)]


def test_a_model_file_with_a_trial_run_stays_what_it_was() -> None:
    spec = write(
        """
        if __name__ == "__main__":
            model = Net(16)
            print(model(torch.randn(2, 16)).shape)
        """
    )
    text = Path(spec).read_text().replace("def fit", "def other").replace(".backward()", "")
    Path(spec).write_text(text.replace("from torch.utils.data import DataLoader\n", ""))
    assert list(found(spec)) == ["train.py:Net"]


def test_a_script_without_a_model_is_silent() -> None:
    spec = write(
        """
        import argparse
        def main():
            parser = argparse.ArgumentParser()
            parser.parse_args()
            loss = compute()
            loss.backward()
        if __name__ == "__main__":
            main()
        """,
        header="",
    )
    assert [type(item) for item in load_targets(spec)] == [NothingToCheck]


TRAPS = [
    pytest.param("open('trap', 'w').write('x')", id="open"),
    pytest.param("__import__('pathlib').Path('trap').touch()", id="a descriptor"),
    pytest.param("__import__('pathlib').Path('trap').write_text('x')", id="pathlib"),
    pytest.param("os.makedirs('trap', exist_ok=True)", id="a folder"),
    pytest.param("torch.save({}, 'trap')", id="a checkpoint"),
    pytest.param("os.system('touch trap')", id="a shell command"),
    pytest.param("__import__('subprocess').run(['touch', 'trap'])", id="a process"),
    pytest.param("__import__('socket').create_connection(('127.0.0.1', 9))", id="the network"),
]


@pytest.mark.parametrize("trap", TRAPS)
def test_what_a_helper_does_besides_building_leaves_nothing_behind(trap: str) -> None:
    spec = write(
        f"""
        def get_net(width):
            try:
                {trap}
            except OSError:
                pass
            return Net(width)
        def main():
            model = get_net(8)
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    assert [shape(model) for model in found(spec).values()] == [(8, 2)]
    assert not Path("trap").exists()


def test_an_exit_on_the_way_to_a_model_is_survived() -> None:
    spec = write(
        """
        def get_net(width):
            raise SystemExit(3)
        def main():
            model = get_net(8)
            fit(model)
        if __name__ == "__main__":
            main()
        """
    )
    assert any("ends the process" in item.message for item in problems(spec))


def test_the_guard_ends_with_the_building(tmp_path: Path) -> None:
    roots = (str(tmp_path) + os.sep,)
    with writes_answered(roots), pytest.raises(PermissionError, match="while the checked code ran"):
        subprocess.run([sys.executable, "-c", ""], check=True)
    with writes_answered(roots):
        Path("inside").write_text("x")
        with tempfile.NamedTemporaryFile("w") as file:  # as ctypes.util.find_library has one
            file.write("x")
            assert Path(file.name).parent == Path(tempfile.gettempdir())
    assert not Path("inside").exists()
    Path("after").write_text("x")
    assert Path("after").read_text() == "x"
    subprocess.run([sys.executable, "-c", ""], check=True)
