"""What a file may offer as models, told from its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from bnlint.source.discover import Candidates, find_candidates
from bnlint.source.file import SourceFile

HEADER = """
import torch
import torch.nn as nn
from torch.nn import Module
import pytorch_lightning as pl
from transformers import BertPreTrainedModel
from torchvision import models
import timm
"""


def find(text: str) -> Candidates:
    return find_candidates(SourceFile.parse(HEADER + text, Path("model.py")))


def roots(text: str) -> list[str]:
    return [item.name for item in find(text).root_classes]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("class Net(nn.Module): pass", ["Net"], id="nn.Module"),
        pytest.param("class Net(torch.nn.Module): pass", ["Net"], id="torch.nn.Module"),
        pytest.param("class Net(Module): pass", ["Net"], id="imported Module"),
        pytest.param("class Lit(pl.LightningModule): pass", ["Lit"], id="Lightning"),
        pytest.param("class Bert(BertPreTrainedModel): pass", ["Bert"], id="PreTrainedModel"),
        pytest.param("class Net(nn.Sequential): pass", ["Net"], id="a subclass of a layer"),
        pytest.param("class Net(models.ResNet): pass", ["Net"], id="a subclass of a library's model"),
        pytest.param("class Net(Unknown):\n    def forward(self, x): return x", ["Net"], id="unknown base, a forward"),
        pytest.param("class Net(Unknown): pass", [], id="unknown base, nothing more"),
        pytest.param("class Data(pl.LightningDataModule): pass", [], id="a data module"),
        pytest.param("class Net: pass", [], id="no base"),
        pytest.param("class F(torch.autograd.Function):\n    def forward(self, x): return x", [], id="autograd"),
        pytest.param("class DiceLoss(nn.Module): pass", [], id="a loss"),
        pytest.param("class MyCriterion(nn.Module): pass", [], id="a criterion"),
        pytest.param("class Base(nn.Module): pass\nclass Net(Base): pass", ["Net"], id="only a base"),
        pytest.param(
            "class Base(nn.Module): pass\nclass Net(Base): pass\ndef build_base(): return Base()",
            ["Base", "Net"],
            id="a base that is built as well",
        ),
        pytest.param(
            "class Part(nn.Module): pass\nclass Net(nn.Module):\n    def __init__(self): self.p = Part()",
            ["Net"],
            id="a part of another class",
        ),
        pytest.param(
            "class Part(nn.Module): pass\nclass Net(nn.Module):\n    part = Part",
            ["Net"],
            id="a class attribute",
        ),
        pytest.param(
            "class Block(nn.Module): pass\nclass Net(nn.Module):\n"
            "    def __init__(self, block): self.b = block()\ndef build_net(): return Net(Block)",
            ["Net"],
            id="a block passed to the constructor",
        ),
        pytest.param(
            "class Part(nn.Module): pass\nclass Trainer:\n    def __init__(self): self.net = Part()",
            ["Part"],
            id="built by a class that is no module",
        ),
        pytest.param(
            "class A(nn.Module): pass\nclass B(nn.Module):\n    def set(self, m: A):\n"
            "        if isinstance(m, A): self.m: A = m",
            ["A", "B"],
            id="only in type tests and annotations",
        ),
        pytest.param(
            "class Tree(nn.Module):\n    def __init__(self, n=2): self.child = n and Tree(n - 1)",
            ["Tree"],
            id="recursive",
        ),
        pytest.param(
            "from abc import abstractmethod\nclass N(nn.Module):\n    @abstractmethod\n    def f(self): ...",
            [],
            id="abstract",
        ),
        pytest.param("try:\n    class Net(nn.Module): pass\nexcept NameError: pass", ["Net"], id="inside try"),
        pytest.param("if __name__ == '__main__':\n    class Net(nn.Module): pass", [], id="inside the main guard"),
        pytest.param(
            "class Generator(nn.Module): pass\nclass Discriminator(nn.Module): pass",
            ["Generator", "Discriminator"],
            id="two models, in file order",
        ),
    ],
)
def test_root_classes(text: str, found: list[str]) -> None:
    assert roots(text) == found


def test_required_arguments_come_from_the_constructor_or_its_base() -> None:
    found = find(
        "class Base(nn.Module):\n    def __init__(self, a, b=1, *args, c, d=2, **kw): pass\n"
        "class Net(Base):\n    def forward(self, x): return x\n"
    )
    (net,) = found.root_classes
    assert net.required == ("a", "c")
    assert (net.span.line, net.span.column, net.span.end_column, net.line) == (11, 7, 10, 11)
    (unbuildable,) = found.unbuildable
    assert unbuildable.reason == "Net() requires the arguments a, c"
    assert unbuildable.required == ("a", "c")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("build_model", True),
        ("create_net", True),
        ("make_resnet18", True),
        ("get_sparse_transformer", True),
        ("build_sentiment_classifier", True),
        ("get_symmetric_net", True),
        ("_build_model", True),
        ("get_train_loader", False),
        ("make_dataset", False),
        ("get_data", False),
        ("build_optimizer", False),
        ("create_scheduler", False),
        ("get_loss", False),
        ("build_criterion", False),
        ("get_transforms", False),
        ("get_args", False),
        ("create_parser", False),
        ("get_logger", False),
        ("get_config", False),
        ("get_time", False),
        ("model", False),
        ("forget_model", False),
    ],
)
def test_factories_are_told_by_their_name(name: str, found: bool) -> None:
    assert [item.name for item in find(f"def {name}(n=1): return n").factories] == [name] * found


def test_a_factory_and_what_it_returns_are_one_target() -> None:
    found = find(
        "class Head(nn.Module): pass\nclass Net(nn.Module): pass\nclass Other(nn.Module): pass\n"
        "def _assemble(): return nn.Sequential(Net(), Head())\n"
        "def build_model():\n    model = _assemble()\n    return model.eval()\n"
    )
    assert [(item.name, item.returns) for item in found.factories] == [("build_model", ("Head", "Net"))]
    assert [item.name for item in found.root_classes] == ["Head", "Net", "Other"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("def build_net(width): return Net(width)", "build_net() requires the argument width", id="one"),
        pytest.param(
            "def get_net(a, *, b):\n    net = Net(a)\n    return net.to(b)",
            "get_net() requires the arguments a, b",
            id="two",
        ),
        pytest.param(
            "def get_net():\n    net = Net()\n    tune(net)\n    return net\ndef tune(n): n(1).backward()",
            "get_net() trains, so it is not called",
            id="trains",
        ),
        pytest.param("def get_accuracy(net, x): return net(x)", None, id="no model is returned"),
        pytest.param("def get_flops(x):\n    return count(Net(), x)", None, id="a model is only used"),
        pytest.param("def make_layer(block, n): return nn.Sequential(block(n))", None, id="a helper"),
    ],
)
def test_factories_that_cannot_be_called_say_why(text: str, reason: str | None) -> None:
    found = find("class Net(nn.Module):\n    def __init__(self, w=1): pass\n" + text)
    assert found.factories == ()
    assert [item.reason for item in found.unbuildable] == ([reason] if reason else [])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("model = Net()", ("model",), id="a class of the file"),
        pytest.param("x = Net()", ("x",), id="whatever its name"),
        pytest.param("x: nn.Module = Net()", ("x",), id="annotated"),
        pytest.param("x = Net().to('cpu').eval()", ("x",), id="chained"),
        pytest.param("x = build_net()", ("x",), id="a factory of the file"),
        pytest.param("x = nn.Sequential(nn.Linear(1, 1))", ("x",), id="layers"),
        pytest.param("x = models.resnet18(weights=None)", ("x",), id="torchvision"),
        pytest.param("x = models.__dict__['resnet18']()", ("x",), id="torchvision by name"),
        pytest.param("x = timm.create_model('resnet18')", ("x",), id="timm"),
        pytest.param("from nets.unet import UNet\nx = UNet(3)", ("x",), id="a folder of networks"),
        pytest.param("net = load_it('x')", ("net",), id="a telling name"),
        pytest.param("G, D = Net(), Net()", ("G", "D"), id="a pair"),
        pytest.param("model, optimizer = make()", ("model",), id="unpacked"),
        pytest.param("model = Net() if A else Net(2)", ("model",), id="either"),
        pytest.param("if A:\n    model = Net()\nelse:\n    model = Net(2)", ("model",), id="in branches"),
        pytest.param("with torch.no_grad():\n    model = Net()", ("model",), id="in a context"),
        pytest.param("model = Net()\nmodel = torch.compile(model)", ("model",), id="wrapped"),
        pytest.param("import copy\nmodel = Net()\nbest = copy.deepcopy(model)", ("model",), id="copied"),
        pytest.param("model = Net()\nparallel = nn.DataParallel(model)", ("model",), id="an alias"),
        pytest.param("criterion = nn.CrossEntropyLoss()", (), id="a loss"),
        pytest.param("criterion = DiceLoss()", (), id="a loss of the file"),
        pytest.param("x = get_loader()", (), id="a loader"),
        pytest.param("model_name = make()", (), id="a name that only begins so"),
        pytest.param("model = 'resnet18'", (), id="no call"),
        pytest.param("model = str(1)", (), id="a conversion"),
        pytest.param("from sklearn.preprocessing import LabelEncoder\nencoder = LabelEncoder()", (), id="scikit-learn"),
        pytest.param("model = train_model(Net())", (), id="a training call"),
        pytest.param("model = trainer.fit(Net())", (), id="a trainer"),
        pytest.param("optimizer = torch.optim.SGD(Net().parameters())", (), id="an optimiser"),
        pytest.param("if __name__ == '__main__':\n    model = Net()", (), id="the main guard"),
        pytest.param("def f():\n    model = Net()", (), id="a function"),
    ],
)
def test_instances(text: str, found: tuple[str, ...]) -> None:
    definitions = (
        "class Net(nn.Module): pass\nclass DiceLoss(nn.Module): pass\n"
        "def build_net(): return Net()\ndef get_loader(): return 1\n"
    )
    assert find(definitions + text).instances == found
