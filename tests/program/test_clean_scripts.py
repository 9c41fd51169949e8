"""Scripts without a fault, in which a careless reader would see one: no rule about scripts has anything to report."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from bnlint.context import Context
from bnlint.linter import found_by
from bnlint.options import Options
from bnlint.program.program import Program
from bnlint.registry import load_rules
from bnlint.source.file import SourceFile
from bnlint.training.config import TrainingConfig

HEAD = """\
import copy
import torch
from torch import nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

images = TensorDataset(torch.randn(64, 3, 16, 16), torch.zeros(64).long())
rows = TensorDataset(torch.randn(64, 4), torch.zeros(64).long())


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 4))


"""

SCRIPTS = {
    "a generator samples for the discriminator": """
        generator, critic = network(), nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        first = torch.optim.Adam(critic.parameters())
        second = torch.optim.Adam(generator.parameters())
        for real, _ in DataLoader(rows, batch_size=16, drop_last=True):
            for _ in range(5):
                with torch.no_grad():
                    fake = generator(torch.randn(len(real), 4))
                mixed = (0.5 * real + 0.5 * fake).requires_grad_(True)
                slope = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
                loss = critic(fake).mean() - critic(real).mean() + ((slope.norm(dim=1) - 1) ** 2).mean()
                first.zero_grad()
                loss.backward()
                first.step()
            second.zero_grad()
            (-critic(generator(torch.randn(16, 4))).mean()).backward()
            second.step()
    """,
    "a momentum encoder that learns with the batch": """
        online, momentum = network(), network()
        momentum.load_state_dict(online.state_dict())
        for parameter in momentum.parameters():
            parameter.requires_grad = False
        optimizer = torch.optim.SGD(online.parameters(), lr=0.1)
        queue = F.normalize(torch.randn(4, 256), dim=0)
        for x, _ in DataLoader(rows, batch_size=16, drop_last=True):
            query = F.normalize(online(x), dim=1)
            with torch.no_grad():
                for own, other in zip(momentum.parameters(), online.parameters()):
                    own.data = own.data * 0.999 + other.data * 0.001
                key = F.normalize(momentum(x + 0.1), dim=1)
            near = torch.einsum("nc,nc->n", query, key).unsqueeze(-1)
            logits = torch.cat([near, query @ queue], dim=1) / 0.07
            loss = F.cross_entropy(logits, torch.zeros(logits.shape[0], dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            queue = torch.cat([queue[:, len(key):], key.T], dim=1)
    """,
    "two views and the labels of both": """
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for x, y in DataLoader(rows, batch_size=8, drop_last=True):
            both = model(torch.cat([x, x + 0.1]))
            first, second = both.chunk(2)
            similar = F.normalize(both, dim=1) @ F.normalize(both, dim=1).T
            places = torch.cat([torch.arange(len(x), 2 * len(x)), torch.arange(len(x))])
            loss = F.cross_entropy(both, y.repeat(2)) + F.cross_entropy(first, y) + F.cross_entropy(similar, places)
            stacked = torch.stack([first, second], dim=1)
            loss = loss + F.cross_entropy(stacked.flatten(0, 1), y.repeat_interleave(2))
            loss = loss + F.cross_entropy(stacked.transpose(1, 2), y.unsqueeze(1).repeat(1, 2))
            loss = loss + F.cross_entropy(stacked.mean(1), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "mixed samples with the losses of both labels": """
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

        def mixed(x, y, share):
            order = torch.randperm(x.size(0))
            return share * x + (1 - share) * x[order], y, y[order]

        for x, y in DataLoader(images, batch_size=16, drop_last=True):
            blend, one, other = mixed(x, y, 0.7)
            output = model(blend)
            loss = 0.7 * F.cross_entropy(output, one) + 0.3 * F.cross_entropy(output, other)
            soft = 0.7 * F.one_hot(one, 10).float() + 0.3 * F.one_hot(other, 10).float()
            loss = loss + F.cross_entropy(output, soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "tokens and their labels, shifted and flattened": """
        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(100, 16)
                self.block = nn.TransformerEncoderLayer(16, 4, batch_first=True)
                self.head = nn.Linear(16, 100)

            def forward(self, tokens):
                return self.head(self.block(self.embedding(tokens)))

        model = Model()
        optimizer = torch.optim.AdamW(model.parameters())
        loader = DataLoader(TensorDataset(torch.zeros(64, 21).long()), batch_size=8)

        @torch.no_grad()
        def perplexity():
            model.eval()
            total = sum(F.cross_entropy(model(t[:, :-1]).flatten(0, 1), t[:, 1:].flatten()) for (t,) in loader)
            model.train()
            return total

        for (tokens,) in loader:
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), tokens[:, 1:].reshape(-1), ignore_index=0)
            loss = loss + F.cross_entropy(logits.permute(0, 2, 1), tokens[:, 1:])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            perplexity()
    """,
    "maps of classes": """
        model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1))
        optimizer = torch.optim.Adam(model.parameters())
        maps = TensorDataset(torch.randn(64, 3, 8, 8), torch.zeros(64, 8, 8).long())
        for x, y in DataLoader(maps, batch_size=4, drop_last=True):
            output = model(x)
            n, c, h, w = output.size()
            loss = F.cross_entropy(output, y, ignore_index=255)
            loss = loss + F.cross_entropy(output.permute(0, 2, 3, 1).reshape(-1, c), y.view(-1))
            loss = loss + F.cross_entropy(output.flatten(2), y.reshape(n, h * w))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "pseudo labels and labelled rows in one forward": """
        from itertools import cycle

        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        labelled = DataLoader(rows, batch_size=8, drop_last=True)
        unlabelled = DataLoader(rows, batch_size=56, drop_last=True)
        for (x, y), (u, _) in zip(cycle(labelled), unlabelled):
            with torch.no_grad():
                sure, guess = model(u).softmax(1).max(1)
            logits = model(torch.cat([x, u]))
            count = x.size(0)
            loss = F.cross_entropy(logits[:count], y)
            loss = loss + (F.cross_entropy(logits[count:], guess, reduction="none") * (sure > 0.9)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    """,
    "a detector gives its losses in training mode": """
        from torchvision.models.detection import fasterrcnn_resnet50_fpn

        model = fasterrcnn_resnet50_fpn(num_classes=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

        def validation_loss(loader):
            with torch.no_grad():
                return sum(sum(model(pictures, targets).values()).item() for pictures, targets in loader)

        for epoch in range(3):
            model.train()
            for pictures, targets in []:
                optimizer.zero_grad()
                sum(model(pictures, targets).values()).backward()
                optimizer.step()
            validation_loss([])
            model.eval()
            with torch.no_grad():
                print(model([torch.rand(3, 64, 64)])[0]["boxes"])
    """,
    "dropout that is sampled": """
        model = network()
        model.load_state_dict(torch.load("weights.pt"))

        def spread(x):
            model.eval()
            for module in model.modules():
                if isinstance(module, nn.Dropout):
                    module.train()
            with torch.no_grad():
                return torch.stack([model(x).softmax(1) for _ in range(20)]).var(0)

        print(spread(torch.randn(2, 4)))
    """,
    "statistics of another domain": """
        model = network()
        model.load_state_dict(torch.load("weights.pt"))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
        model.train()
        with torch.no_grad():
            for x, _ in DataLoader(rows, batch_size=16):
                model(x)
        model.eval()
        with torch.no_grad():
            print(model(torch.randn(2, 4)).argmax(1))
    """,
    "phases told apart by match": """
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(3):
            for phase in ["train", "val"]:
                match phase:
                    case "train":
                        model.train()
                    case _:
                        model.eval()
                for x, y in DataLoader(rows, batch_size=8):
                    with torch.set_grad_enabled(phase == "train"):
                        loss = F.cross_entropy(model(x), y)
                    if phase == "train":
                        optimizer.zero_grad()
                        loss.backward()
                        optimizer.step()
    """,
    "a decorator with arguments sets the mode": """
        def in_mode(training):
            def decorate(function):
                def wrapper(self, *args):
                    self.model.train(training)
                    with torch.set_grad_enabled(training):
                        return function(self, *args)
                return wrapper
            return decorate

        class Trainer:
            def __init__(self):
                self.model = network()
                self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

            @in_mode(True)
            def fit(self, loader):
                for x, y in loader:
                    F.cross_entropy(self.model(x), y).backward()
                    self.optimizer.step()

            @in_mode(False)
            def validate(self, loader):
                return [self.model(x).argmax(1) for x, _ in loader]

        trainer = Trainer()
        for epoch in range(3):
            trainer.fit([])
            trainer.validate([])
    """,
    "the best model after an endless training": """
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        best, bad = 1e9, 0
        while True:
            model.train()
            for x, y in DataLoader(rows, batch_size=8, drop_last=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            model.eval()
            with torch.no_grad():
                value = sum(F.cross_entropy(model(x), y).item() for x, y in DataLoader(rows, batch_size=8))
            if value < best:
                best, bad = value, 0
                continue
            bad += 1
            if bad > 3:
                break
        with torch.no_grad():
            print(model(torch.randn(2, 4)).argmax(1))
    """,
    "a teacher, frozen layers and a trained head": """
        from torchvision import models

        teacher = models.resnet18(num_classes=10)
        teacher.load_state_dict(torch.load("teacher.pt"))
        teacher.eval()
        student = models.resnet18(weights="DEFAULT")
        for parameter in student.parameters():
            parameter.requires_grad = False
        student.fc = nn.Linear(512, 10)
        optimizer = torch.optim.SGD(student.fc.parameters(), lr=0.1)
        for epoch in range(3):
            student.eval()
            student.fc.train()
            for x, y in DataLoader(images, batch_size=16):
                with torch.no_grad():
                    soft = F.softmax(teacher(x) / 4, dim=1)
                output = student(x)
                loss = F.kl_div(F.log_softmax(output / 4, dim=1), soft, reduction="batchmean")
                loss = loss + F.cross_entropy(output, y) + F.cross_entropy(output, soft)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    """,
    "callbacks and hooks of a trainer": """
        class Validate:
            def after_epoch(self, trainer):
                trainer.model.eval()
                with torch.no_grad():
                    print(trainer.model(torch.randn(2, 4)).argmax(1))
                trainer.model.train()

        class Trainer:
            def __init__(self, model, callbacks):
                self.model, self.callbacks = model, callbacks
                self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

            def fit(self, loader):
                for epoch in range(3):
                    for x, y in loader:
                        self.optimizer.zero_grad()
                        F.cross_entropy(self.model(x), y).backward()
                        self.optimizer.step()
                    for callback in self.callbacks:
                        callback.after_epoch(self)

        Trainer(network(), [Validate()]).fit(DataLoader(rows, batch_size=8, drop_last=True))
    """,
    "networks in a mapping": """
        networks = {"first": network(), "second": network()}
        for name in networks:
            networks[name].load_state_dict(torch.load(f"{name}.pt"))
            networks[name].eval()
        with torch.no_grad():
            for name, member in networks.items():
                print(name, member(torch.randn(2, 4)).argmax(1))
    """,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_rule_reports_a_clean_script(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train.py"
    path.write_text(HEAD + textwrap.dedent(SCRIPTS[name]), encoding="utf-8")
    source = SourceFile.read(path)
    program = Program.of(source, SourceFile.read)
    rules = [loaded for loaded in load_rules() if "script" in loaded.rule.needs or not loaded.rule.needs]
    context = Context(None, TrainingConfig(), SourceFile.read, source, program=program)

    found, _ = found_by(rules, context, Options(), "train.py")

    assert program.complete
    assert program.forwards
    assert found == []
