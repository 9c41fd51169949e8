"""Training scripts in the styles that people write them in, each with the facts that it states.

A line that ends in `# fact` is the line that the fact's source must name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

HEADER = """\
import argparse, math, os, random
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset
"""

LOOP = """
def train(model, loader, optimizer):
    for x, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

train(model, train_loader, optimizer)
"""


class Case(NamedTuple):
    """A script, the facts that it writes down and those that it only has as defaults."""

    reason: str
    text: str
    facts: Mapping[str, Any]
    defaults: Mapping[str, Any] = {}


def loaders(*arguments: str) -> str:
    """A script whose loader gets some arguments."""
    return HEADER + f"train_loader = DataLoader(data, {', '.join(arguments)})\n" + LOOP


def optimiser(*lines: str) -> str:
    """A script with some lines that make its optimiser."""
    return HEADER + "train_loader = make()\n" + "\n".join(lines) + LOOP


CASES = (
    # Where the batch is from -----------------------------------------------------------------------------------
    Case(
        "literals at the call, by position",
        HEADER + "train_loader = DataLoader(data, 8, True, drop_last=True)  # batch_size drop_last" + LOOP,
        {"batch_size": 8, "drop_last": True},
        {"strategy": "none", "world_size": 1},
    ),
    Case(
        "a module constant",
        HEADER + "BATCH = 6  # batch_size\ntrain_loader = DataLoader(data, batch_size=BATCH)" + LOOP,
        {"batch_size": 6},
        {"drop_last": False},
    ),
    Case(
        "the last assignment above the use",
        HEADER + "bs = 4\nbs = 12  # batch_size\ntrain_loader = DataLoader(data, batch_size=bs)\nbs = 1" + LOOP,
        {"batch_size": 12},
    ),
    Case(
        "an item of a dict that was changed",
        HEADER
        + "cfg = dict(bs=2, lr=0.1)\ncfg['bs'] = 5  # batch_size\ntrain_loader = DataLoader(data, cfg['bs'])"
        + LOOP,
        {"batch_size": 5},
    ),
    Case(
        "options that are spread and updated",
        HEADER
        + "options = {'batch_size': 7}  # batch_size\noptions.update({'num_workers': 2})\n"
        + "train_loader = DataLoader(data, **options)"
        + LOOP,
        {"batch_size": 7},
    ),
    Case(
        "a namespace, with one attribute set later",
        HEADER
        + "from types import SimpleNamespace\nargs = SimpleNamespace(bs=3, lr=1)\nargs.bs = 9  # batch_size\n"
        + "train_loader = DataLoader(data, args.bs)"
        + LOOP,
        {"batch_size": 9},
    ),
    Case(
        "class attributes as a configuration",
        HEADER
        + "class Config:\n    batch = 11  # batch_size\n\ncfg = Config()\ntrain_loader = DataLoader(data, cfg.batch)"
        + LOOP,
        {"batch_size": 11},
    ),
    Case(
        "a constructor's parameter, through an attribute",
        HEADER
        + """
class Trainer:
    def __init__(self, bs=4, lr=0.1):
        self.bs = bs

    def run(self):
        loader = DataLoader(data, batch_size=self.bs, shuffle=True)
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            self.optimizer.step()

Trainer(bs=10).run()  # batch_size
""",
        {"batch_size": 10, "loss": "cross_entropy"},
    ),
    Case(
        "one helper for the training and the validation loader",
        HEADER
        + """
def make_loader(dataset, batch, train):
    return DataLoader(dataset, batch_size=batch, shuffle=train, drop_last=train)

train_loader = make_loader(a, 16, True)  # batch_size drop_last
val_loader = make_loader(b, 50, False)  # eval_batch_size
"""
        + LOOP,
        {"batch_size": 16, "eval_batch_size": 50, "drop_last": True},
    ),
    Case(
        "a batch sampler",
        HEADER
        + "sampler = torch.utils.data.BatchSampler(order, 24, drop_last=True)  # batch_size drop_last\n"
        + "train_loader = DataLoader(data, batch_sampler=sampler)"
        + LOOP,
        {"batch_size": 24, "drop_last": True},
    ),
    Case(
        "arithmetic and a condition that is known",
        HEADER + "small = False\nbs = 2 if small else 4 * 8  # batch_size\ntrain_loader = DataLoader(data, bs)" + LOOP,
        {"batch_size": 32},
    ),
    Case(
        "no batch size at all",
        loaders("shuffle=True"),
        {},
        {"batch_size": 1, "drop_last": False},
    ),
    Case(
        "one loader that the loop draws from by hand",
        HEADER
        + """
stream = iter(DataLoader(data, batch_size=4))  # batch_size
for step in range(500):  # max_steps
    x, y = next(stream)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
""",
        {"batch_size": 4, "max_steps": 500, "loss": "cross_entropy"},
    ),
    Case(
        "a few steps on noise say nothing of the length of a training",
        HEADER
        + """
for step in range(3):
    loss = F.cross_entropy(model(torch.randn(4, 8)), torch.randint(0, 2, (4,)))
    loss.backward()
    optimizer.step()
""",
        {"loss": "cross_entropy"},
    ),
    Case(
        "noise beside real data, as a generator needs it",
        HEADER
        + """
loader = DataLoader(data, batch_size=4)  # batch_size
for step in range(500):  # max_steps
    real = next(iter(loader))
    loss = F.mse_loss(model(torch.randn(4, 8)), real)
    loss.backward()
    optimizer.step()
""",
        {"batch_size": 4, "max_steps": 500, "loss": "mse"},
    ),
    # Defaults of options ---------------------------------------------------------------------------------------
    Case(
        "argparse",
        HEADER
        + """
parser = argparse.ArgumentParser()
group = parser.add_argument_group("data")
group.add_argument("-b", "--batch-size", type=int, default=64)  # batch_size
parser.add_argument("--lr", default="1e-3", type=float)  # learning_rate
parser.add_argument("--keep-last", dest="drop", action="store_false")  # drop_last
parser.set_defaults(wd=0.05)  # weight_decay
opt = parser.parse_args()
train_loader = DataLoader(data, batch_size=opt.batch_size, drop_last=opt.drop)
optimizer = optim.AdamW(model.parameters(), vars(opt)["lr"], weight_decay=opt.wd)  # optimizer
"""
        + LOOP,
        {"optimizer": "adamw"},
        {"batch_size": 64, "learning_rate": 1e-3, "drop_last": True, "weight_decay": 0.05, "decay_norm": True},
    ),
    Case(
        "argparse in a function, handed on to another",
        HEADER
        + """
def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bs", type=int, default=48)  # batch_size
    return parser.parse_args()

def main(arguments):
    train_loader = DataLoader(data, batch_size=arguments.bs)
    for x, y in train_loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

if __name__ == "__main__":
    main(get_args())
""",
        {"loss": "cross_entropy"},
        {"batch_size": 48},
    ),
    Case(
        "a data class",
        HEADER
        + """
from dataclasses import dataclass, field

@dataclass
class Settings:
    batch: int = 20  # batch_size
    rate: float = field(default=0.2)  # learning_rate

settings = Settings()
train_loader = DataLoader(data, batch_size=settings.batch)
optimizer = optim.SGD(model.parameters(), lr=settings.rate)  # optimizer
"""
        + LOOP,
        {"optimizer": "sgd"},
        {"batch_size": 20, "learning_rate": 0.2},
    ),
    Case(
        "a data class whose field the call fills",
        HEADER
        + """
from dataclasses import dataclass

@dataclass
class Settings:
    batch: int = 20

settings = Settings(batch=21)  # batch_size
train_loader = DataLoader(data, batch_size=settings.batch)
"""
        + LOOP,
        {"batch_size": 21},
    ),
    Case(
        "HfArgumentParser over a data class of the file",
        HEADER
        + """
from dataclasses import dataclass
from transformers import HfArgumentParser

@dataclass
class Run:
    batch: int = 22  # batch_size

parser = HfArgumentParser((Run,))
(run,) = parser.parse_args_into_dataclasses()
train_loader = DataLoader(data, batch_size=run.batch)
"""
        + LOOP,
        {},
        {"batch_size": 22},
    ),
    Case(
        "click",
        HEADER
        + """
import click

@click.command()
@click.option("--batch-size", "-b", default=40)  # batch_size
@click.option("--drop", is_flag=True)
def main(batch_size, drop):
    train_loader = DataLoader(data, batch_size, drop_last=drop)
    for x, y in train_loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

main()
""",
        {"loss": "cross_entropy"},
        {"batch_size": 40, "drop_last": False},
    ),
    Case(
        "all options handed to a constructor",
        HEADER
        + """
class Run:
    def __init__(self, batch=1, **rest):
        self.loader = DataLoader(data, batch_size=batch)

    def train(self):
        for x, y in self.loader:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, default=26)  # batch_size
Run(**vars(parser.parse_args())).train()
""",
        {"loss": "cross_entropy"},
        {"batch_size": 26},
    ),
    Case(
        "absl flags",
        HEADER
        + """
from absl import app, flags
FLAGS = flags.FLAGS
flags.DEFINE_integer("bs", 14, "the batch")  # batch_size
train_loader = DataLoader(data, batch_size=FLAGS.bs)
"""
        + LOOP,
        {},
        {"batch_size": 14},
    ),
    Case(
        "a function's own default",
        HEADER
        + """
def train(batch=18):  # batch_size
    for x, y in DataLoader(data, batch_size=batch):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
train()
""",
        {"loss": "cross_entropy"},
        {"batch_size": 18},
    ),
    # Devices and processes -------------------------------------------------------------------------------------
    Case(
        "DDP over spawned processes, the total divided by the ranks",
        HEADER
        + """
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel as DDP
parser = argparse.ArgumentParser()
parser.add_argument("--batch", type=int, default=128)  # total_batch_size
args = parser.parse_args()

def main(rank, args):
    world_size = dist.get_world_size()
    net = DDP(model, broadcast_buffers=False)  # strategy broadcast_buffers
    sampler = torch.utils.data.DistributedSampler(data)
    loader = DataLoader(data, batch_size=args.batch // world_size, sampler=sampler)
    for x, y in loader:
        F.cross_entropy(net(x), y).backward()
        optimizer.step()

mp.spawn(main, args=(args,), nprocs=torch.cuda.device_count())
""",
        {"strategy": "ddp", "broadcast_buffers": False, "loss": "cross_entropy"},
        {"total_batch_size": 128, "find_unused_parameters": False},
    ),
    Case(
        "the buffers by the name that torch 2.13 gives their flag",
        HEADER
        + "model = nn.parallel.DistributedDataParallel(  # strategy\n"
        + "    model, broadcast_buffers=True, forward_sync_buffers=False)  # broadcast_buffers"
        + LOOP,
        {"strategy": "ddp", "broadcast_buffers": False},
    ),
    Case(
        "synchronised batch norm wherever the run is distributed",
        HEADER
        + """
def main(model, args):
    if args.distributed:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # sync_batchnorm
        model = nn.parallel.DistributedDataParallel(  # strategy
            model, find_unused_parameters=True)  # find_unused_parameters
    for x, y in DataLoader(data, 4):  # batch_size
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
        {
            "strategy": "ddp",
            "sync_batchnorm": True,
            "find_unused_parameters": True,
            "batch_size": 4,
            "loss": "cross_entropy",
        },
        {"broadcast_buffers": True},
    ),
    Case(
        "a conversion before the wrap in each branch",
        HEADER
        + """
def main(model, gpu):
    if gpu is not None:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # sync_batchnorm
        model = nn.parallel.DistributedDataParallel(model, device_ids=[gpu])  # strategy
    else:
        model = nn.parallel.DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(model))
    for x, y in DataLoader(data, 4):  # batch_size
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
        {"strategy": "ddp", "sync_batchnorm": True, "batch_size": 4, "loss": "cross_entropy"},
        {"broadcast_buffers": True, "find_unused_parameters": False},
    ),
    Case(
        "an option that leaves batch norm alone by default",
        HEADER
        + """
parser = argparse.ArgumentParser()
parser.add_argument("--sync-bn", action="store_true")
args = parser.parse_args()
if args.sync_bn:
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # sync_batchnorm
"""
        + LOOP,
        {},
        {"sync_batchnorm": False},
    ),
    Case(
        "DataParallel over two devices",
        HEADER
        + "model = nn.DataParallel(model, device_ids=[0, 1]).cuda()  # strategy world_size device\n"
        + "train_loader = DataLoader(data, batch_size=9)  # total_batch_size"
        + LOOP,
        {"strategy": "dp", "world_size": 2, "total_batch_size": 9, "device": "cuda"},
    ),
    Case(
        "DataParallel with a batch per device",
        HEADER
        + "model = nn.DataParallel(model)  # strategy\n"
        + "train_loader = DataLoader(data, batch_size=3 * torch.cuda.device_count())  # batch_size"
        + LOOP,
        {"strategy": "dp", "batch_size": 3},
    ),
    Case(
        "FSDP, and the number of processes written down",
        HEADER
        + "from torch.distributed.fsdp import FullyShardedDataParallel as FSDP\n"
        + "torch.distributed.init_process_group('nccl', world_size=4)  # world_size device\n"
        + "model = FSDP(model)  # strategy"
        + LOOP,
        {"strategy": "fsdp", "world_size": 4, "device": "cuda"},
    ),
    # The optimiser ---------------------------------------------------------------------------------------------
    Case(
        "one group with weight decay",
        optimiser(
            "params = [p for p in model.parameters() if p.requires_grad]",
            "WD = 0.05  # weight_decay",
            "optimizer = optim.AdamW(params, lr=3e-4, weight_decay=WD)  # optimizer learning_rate decay_norm",
        ),
        {"optimizer": "adamw", "learning_rate": 3e-4, "weight_decay": 0.05, "decay_norm": True},
    ),
    Case(
        "torch's own defaults",
        optimiser("optimizer = torch.optim.AdamW(model.parameters())  # optimizer"),
        {"optimizer": "adamw"},
        {"learning_rate": 1e-3, "weight_decay": 0.01, "decay_norm": True},
    ),
    Case(
        "groups that spare one-dimensional parameters",
        optimiser(
            "decay, rest = [], []",
            "for name, p in model.named_parameters():",
            "    (rest if p.ndim == 1 else decay).append(p)",
            "groups = [{'params': decay, 'weight_decay': 0.1}, {'params': rest, 'weight_decay': 0.0}]  # weight_decay",
            "optimizer = optim.SGD(groups, lr=0.5, momentum=0.9)  # optimizer learning_rate decay_norm",
        ),
        {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "decay_norm": False},
    ),
    Case(
        "groups that spare biases and LayerNorm only: batch norm may decay",
        optimiser(
            "no_decay = ['bias', 'LayerNorm.weight']",
            "groups = [",
            "    {'params': [p for n, p in model.named_parameters() if not any(d in n for d in no_decay)],",
            "     'weight_decay': 0.1},  # weight_decay",
            "    {'params': [p for n, p in model.named_parameters() if any(d in n for d in no_decay)],",
            "     'weight_decay': 0.0}]",
            "optimizer = optim.Adam(groups, lr=0.5)  # optimizer learning_rate",
        ),
        {"optimizer": "adam", "learning_rate": 0.5, "weight_decay": 0.1},
    ),
    Case(
        "the class chosen by an option's default",
        optimiser(
            "parser = argparse.ArgumentParser()",
            "parser.add_argument('--opt', default='SGD')",
            "opt = parser.parse_args().opt.lower()",
            "if opt.startswith('sgd'):",
            "    optimizer = optim.SGD(model.parameters(), lr=0.3)  # optimizer learning_rate",
            "else:",
            "    raise SystemExit",
        ),
        {"learning_rate": 0.3},
        {"optimizer": "sgd"},
    ),
    Case(
        "the linear scaling rule, accumulation left out",
        HEADER
        + """
BATCH = 32  # batch_size
BASE = 0.1  # reference_learning_rate
train_loader = DataLoader(data, batch_size=BATCH)
torch.distributed.init_process_group("nccl")  # device
lr = BASE * BATCH * torch.distributed.get_world_size() / 256  # learning_rate_scaling reference_batch_size
optimizer = optim.SGD(model.parameters(), lr=lr)  # optimizer
"""
        + LOOP,
        {
            "batch_size": 32,
            "optimizer": "sgd",
            "learning_rate_scaling": "linear-without-accumulation",
            "reference_batch_size": 256,
            "reference_learning_rate": 0.1,
            "device": "cuda",
        },
    ),
    Case(
        "the linear scaling rule over options, when no rate is given",
        HEADER
        + """
import torch.distributed as dist
parser = argparse.ArgumentParser()
parser.add_argument("--batch_size", type=int, default=16)  # batch_size
parser.add_argument("--accum_iter", type=int, default=2)
parser.add_argument("--lr", type=float, default=None)
parser.add_argument("--blr", type=float, default=1e-3)  # reference_learning_rate
args = parser.parse_args()
total = args.batch_size * args.accum_iter * dist.get_world_size()
if args.lr is None:
    args.lr = args.blr * total / 256  # learning_rate_scaling reference_batch_size
train_loader = DataLoader(data, batch_size=args.batch_size)
optimizer = optim.SGD(model.parameters(), lr=args.lr)  # optimizer
"""
        + LOOP,
        {"optimizer": "sgd"},
        {
            "batch_size": 16,
            "learning_rate_scaling": "linear",
            "reference_batch_size": 256,
            "reference_learning_rate": 1e-3,
        },
    ),
    # The loop --------------------------------------------------------------------------------------------------
    Case(
        "epochs and accumulation with a rest",
        HEADER
        + """
EPOCHS = 12  # epochs
k = 4  # gradient_accumulation_steps
for epoch in range(1, EPOCHS + 1):
    for i, (x, y) in enumerate(train_loader):
        loss = F.cross_entropy(model(x), y) / k
        loss.backward()
        if (i + 1) % k == 0 or i + 1 == len(train_loader):
            optimizer.step()
            optimizer.zero_grad()
""",
        {"epochs": 12, "gradient_accumulation_steps": 4, "loss": "cross_entropy"},
    ),
    Case(
        "accumulation up to k - 1, epochs of a resumed run",
        HEADER
        + """
def run(accumulate, start_epoch=0):
    for epoch in range(start_epoch, 30):  # epochs
        for i, (x, y) in enumerate(train_loader):
            F.cross_entropy(model(x), y).backward()
            if i % accumulate == accumulate - 1:
                optimizer.step()
run(8)  # gradient_accumulation_steps
""",
        {"epochs": 30, "gradient_accumulation_steps": 8, "loss": "cross_entropy"},
    ),
    Case(
        "accumulation by skipping the step",
        HEADER
        + """
for i, (x, y) in enumerate(train_loader):
    F.cross_entropy(model(x), y).backward()
    last = (i + 1) % 5 == 0  # gradient_accumulation_steps
    if not last:
        continue
    optimizer.step()
""",
        {"gradient_accumulation_steps": 5, "loss": "cross_entropy"},
    ),
    Case(
        "accumulation to a nominal batch",
        HEADER
        + """
batch = 24  # batch_size
accumulate = max(round(64 / batch), 1)  # gradient_accumulation_steps
train_loader = DataLoader(data, batch_size=batch)
for i, (x, y) in enumerate(train_loader):
    F.cross_entropy(model(x), y).backward()
    if not (i + 1) % accumulate:
        optimizer.step()
""",
        {"batch_size": 24, "gradient_accumulation_steps": 3, "loss": "cross_entropy"},
    ),
    # Data ------------------------------------------------------------------------------------------------------
    Case(
        "a tensor of random samples",
        HEADER
        + "data = TensorDataset(torch.randn(209, 3, 8, 8), torch.zeros(209))  # dataset_size\n"
        + "train_loader = DataLoader(data, batch_size=16)  # batch_size"
        + LOOP,
        {"dataset_size": 209, "batch_size": 16},
        {"drop_last": False},
    ),
    Case(
        "a random split",
        HEADER
        + """
from torch.utils.data import random_split
train_set, val_set = random_split(data, [900, 100])  # dataset_size
train_loader = DataLoader(train_set, batch_size=30)  # batch_size
val_loader = DataLoader(val_set, batch_size=20)  # eval_batch_size
"""
        + LOOP,
        {"dataset_size": 900, "batch_size": 30, "eval_batch_size": 20},
    ),
    Case(
        "a documented dataset",
        HEADER
        + "from torchvision import datasets\n"
        + "train_loader = DataLoader(datasets.CIFAR10('.', train=True), batch_size=100)  # dataset_size batch_size\n"
        + "test_loader = DataLoader(datasets.CIFAR10('.', train=False), batch_size=10)  # eval_batch_size"
        + LOOP,
        {"dataset_size": 50_000, "batch_size": 100, "eval_batch_size": 10},
    ),
    Case(
        "a subset",
        HEADER
        + "part = torch.utils.data.Subset(data, range(129))  # dataset_size\n"
        + "train_loader = DataLoader(part, batch_size=64)  # batch_size"
        + LOOP,
        {"dataset_size": 129, "batch_size": 64},
    ),
    # Precision, device, weights --------------------------------------------------------------------------------
    Case(
        "autocast to bfloat16 on the GPU",
        HEADER
        + """
model = model.to("cuda")  # device
for x, y in train_loader:
    with torch.autocast(device_type="cuda", dtype=torch.bfloat16):  # precision
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
""",
        {"precision": "bf16-mixed", "device": "cuda", "loss": "cross_entropy"},
    ),
    Case(
        "autocast and a scaler behind an option that is off",
        HEADER
        + """
parser = argparse.ArgumentParser()
parser.add_argument("--amp", action="store_true")  # precision
args = parser.parse_args()
scaler = torch.cuda.amp.GradScaler(enabled=args.amp)
for x, y in train_loader:
    with torch.cuda.amp.autocast(enabled=args.amp):
        loss = F.cross_entropy(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
""",
        {"loss": "cross_entropy"},
        {"precision": "32"},
    ),
    Case(
        "a model cast to half precision",
        HEADER + "model = model.cuda()  # device\nmodel.half()  # precision" + LOOP,
        {"precision": "fp16", "device": "cuda"},
    ),
    Case(
        "samples moved to the GPU whatever it runs on",
        HEADER
        + """
for x, y in train_loader:
    F.cross_entropy(model(x.cuda()), y).backward()  # device
    optimizer.step()
""",
        {"device": "cuda", "loss": "cross_entropy"},
    ),
    Case(
        "a device written down and used elsewhere",
        HEADER + "device = torch.device('cuda')  # device\nmodel = build(device)" + LOOP,
        {"device": "cuda"},
    ),
    Case(
        "a pretrained backbone that is frozen",
        HEADER
        + """
import torchvision
model = torchvision.models.resnet18(weights="IMAGENET1K_V1")  # pretrained
for parameter in model.layer1.parameters():
    parameter.requires_grad = False  # frozen
model.conv1.requires_grad_(False)
"""
        + LOOP,
        {"pretrained": True, "frozen": ("layer1.*", "conv1.*")},
    ),
    Case(
        "parameters frozen by their names",
        HEADER
        + """
for name, parameter in model.named_parameters():
    if name.startswith("encoder."):
        parameter.requires_grad = False  # frozen
"""
        + LOOP,
        {"frozen": ("encoder.*",)},
    ),
    Case(
        "averaged weights and differential privacy",
        HEADER
        + """
from opacus import PrivacyEngine
averaged = torch.optim.swa_utils.AveragedModel(model)  # weight_averaging
model, optimizer, train_loader = PrivacyEngine().make_private(module=model, optimizer=optimizer)  # privacy
"""
        + LOOP,
        {"weight_averaging": "swa", "privacy": "dp-sgd"},
    ),
    # The loss --------------------------------------------------------------------------------------------------
    Case(
        "a loss with label smoothing on labels that are smoothed already",
        HEADER
        + """
criterion = nn.CrossEntropyLoss(label_smoothing=0.1)  # loss label_smoothing

def smooth(labels, epsilon, classes=10):
    return labels * (1 - epsilon) + epsilon / classes

for x, y in train_loader:
    loss = criterion(model(x), smooth(y, 0.2))  # target_smoothing
    loss.backward()
    optimizer.step()
""",
        {"loss": "cross_entropy", "label_smoothing": 0.1, "target_smoothing": 0.2},
    ),
    # Frameworks ------------------------------------------------------------------------------------------------
    Case(
        "Lightning's Trainer",
        """
import lightning as L
import torch
from torch.utils.data import DataLoader

class Module(L.LightningModule):
    def __init__(self, lr=1e-3):
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch, index):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)  # optimizer

DEVICES = 2  # world_size
trainer = L.Trainer(
    accelerator="gpu",  # device
    devices=DEVICES,
    strategy="ddp",  # strategy
    precision="16-mixed",  # precision
    max_epochs=7,  # epochs
    accumulate_grad_batches=3,  # gradient_accumulation_steps
    sync_batchnorm=True,  # sync_batchnorm
)
trainer.fit(Module(lr=0.02), DataLoader(data, batch_size=5))  # learning_rate batch_size
""",
        {
            "world_size": 2,
            "device": "cuda",
            "strategy": "ddp",
            "precision": "fp16-mixed",
            "epochs": 7,
            "gradient_accumulation_steps": 3,
            "sync_batchnorm": True,
            "batch_size": 5,
            "optimizer": "adam",
            "learning_rate": 0.02,
        },
    ),
    Case(
        "TrainingArguments",
        """
from transformers import Trainer, TrainingArguments
arguments = TrainingArguments(
    "out",
    per_device_train_batch_size=6,  # batch_size
    gradient_accumulation_steps=2,  # gradient_accumulation_steps
    num_train_epochs=4,  # epochs
    learning_rate=5e-5,  # learning_rate
    label_smoothing_factor=0.1,  # label_smoothing
    bf16=True,  # precision
)
Trainer(model, arguments, train_dataset=data).train()
""",
        {
            "batch_size": 6,
            "gradient_accumulation_steps": 2,
            "epochs": 4,
            "learning_rate": 5e-5,
            "label_smoothing": 0.1,
            "precision": "bf16-mixed",
        },
    ),
    Case(
        "Accelerate, with a batch that it splits",
        HEADER
        + """
from accelerate import Accelerator
accelerator = Accelerator(
    mixed_precision="fp16",  # precision
    gradient_accumulation_steps=4,  # gradient_accumulation_steps
    split_batches=True)
train_loader = DataLoader(data, 32)  # total_batch_size
model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)
for x, y in train_loader:
    with accelerator.accumulate(model):
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        optimizer.step()
""",
        {
            "precision": "fp16-mixed",
            "gradient_accumulation_steps": 4,
            "total_batch_size": 32,
            "loss": "cross_entropy",
        },
    ),
    Case(
        "DeepSpeed with its configuration in the script",
        HEADER
        + """
import deepspeed
CONFIG = {
    "train_batch_size": 64,  # effective_batch_size
    "gradient_accumulation_steps": 2,  # gradient_accumulation_steps
    "fp16": {"enabled": True},  # precision
}
engine, _, loader, _ = deepspeed.initialize(model=model, config=CONFIG)  # strategy
for x, y in loader:
    loss = engine(x, y)
    engine.backward(loss)
    engine.step()
""",
        {
            "strategy": "deepspeed",
            "effective_batch_size": 64,
            "gradient_accumulation_steps": 2,
            "precision": "fp16",
        },
    ),
)


class Silent(NamedTuple):
    """A script that leaves a fact open, and what its note must say (none where nobody would miss it)."""

    reason: str
    text: str
    fact: str
    note: str | None = None


SILENT = (
    Silent("WORLD_SIZE is the launcher's", loaders("batch_size=64 // int(os.environ['WORLD_SIZE'])"), "batch_size"),
    Silent(
        "WORLD_SIZE with a default is the launcher's too",
        loaders("batch_size=8 * int(os.environ.get('WORLD_SIZE', 1))"),
        "batch_size",
        "the loader's batch grows with the number of devices",
    ),
    Silent("the environment", loaders("batch_size=int(os.environ['BATCH'])"), "batch_size", "known only when"),
    Silent(
        "a file that the script reads",
        HEADER + "cfg = yaml.safe_load(open('c.yaml'))\ntrain_loader = DataLoader(data, cfg['bs'])" + LOOP,
        "batch_size",
        "cfg['bs'] is known only when the script runs",
    ),
    Silent(
        "two values, and a condition that nobody can tell",
        HEADER
        + "bs = 4\nif torch.cuda.is_available():\n    bs = 16\ntrain_loader = DataLoader(data, batch_size=bs)"
        + LOOP,
        "batch_size",
        "it may be 16 (line 9) or 4 (line 7)",
    ),
    Silent(
        "two values at two calls",
        HEADER + "if flag():\n    train_loader = DataLoader(a, 4)\nelse:\n    train_loader = DataLoader(b, 8)" + LOOP,
        "batch_size",
        "batch_size is 4 here and 8 at script.py:10",
    ),
    Silent(
        "a value that the loop changes",
        HEADER
        + """
lr = 0.1
for round_ in range(3):
    optimizer = optim.SGD(model.parameters(), lr=lr)
    for x, y in train_loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    lr = lr * 0.1
""",
        "learning_rate",
    ),
    Silent(
        "a required option",
        HEADER
        + "p = argparse.ArgumentParser()\np.add_argument('--bs', type=int, required=True)\nargs = p.parse_args()\n"
        + "train_loader = DataLoader(data, batch_size=args.bs)"
        + LOOP,
        "batch_size",
        "--bs has no default",
    ),
    Silent("an automatic batch", loaders("batch_size=-1"), "batch_size", "it must be at least 1"),
    Silent("a batch that is no number", loaders("batch_size='all'"), "batch_size", "not a whole number"),
    Silent("no batching", loaders("batch_size=None"), "batch_size", "the dataset makes its batches itself"),
    Silent(
        "an option without a default",
        HEADER
        + "p = argparse.ArgumentParser()\np.add_argument('--batch-size', type=int)\nargs = p.parse_args()\n"
        + "train_loader = DataLoader(data, batch_size=args.batch_size)"
        + LOOP,
        "batch_size",
        "--batch-size has no default",
    ),
    Silent(
        "a parameter that two calls give two values",
        HEADER
        + """
def run(bs):
    for x, y in DataLoader(data, batch_size=bs):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
run(2)
run(4)
""",
        "batch_size",
        "batch_size is 2 here and 4 at",
    ),
    Silent(
        "DDP or DataParallel, as the run chooses",
        HEADER
        + "if dist:\n    model = nn.parallel.DistributedDataParallel(model)\nelse:\n    model = nn.DataParallel(model)"
        + LOOP,
        "strategy",
        "wrapped for ddp on line 8 and for dp on line 10",
    ),
    Silent("a model wrapped in another file", HEADER + "model = to_ddp(model)" + LOOP, "strategy"),
    Silent(
        "a device that is asked for",
        HEADER + "model.to(torch.device('cuda' if torch.cuda.is_available() else 'cpu'))" + LOOP,
        "device",
    ),
    Silent(
        "two devices written down",
        HEADER + "device = torch.device('cuda')\nhost = torch.device('cpu')\nmodel = build(device)" + LOOP,
        "device",
    ),
    Silent(
        "a device that is a parameter's default",
        HEADER
        + """
def epoch(model, device=torch.device('cuda')):
    for x, y in train_loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

epoch(model, chosen)
""",
        "device",
    ),
    Silent(
        "a GPU that is used where there is one",
        HEADER + "if torch.cuda.is_available():\n    device = torch.device('cuda')" + LOOP,
        "device",
    ),
    Silent(
        "two optimisers with two rates",
        optimiser("a = optim.Adam(net_g.parameters(), lr=1e-4)", "b = optim.Adam(net_d.parameters(), lr=4e-4)"),
        "learning_rate",
        "learning_rate is 0.0001 here and 0.0004 at",
    ),
    Silent(
        "groups that another file makes have their own weight decay",
        optimiser("optimizer = optim.AdamW(param_groups(model), lr=1e-4)"),
        "weight_decay",
    ),
    Silent(
        "a whole model frozen, then given a new head",
        HEADER + "for p in model.parameters():\n    p.requires_grad = False\nmodel.fc = nn.Linear(8, 2)" + LOOP,
        "frozen",
    ),
    Silent(
        "frozen now, trained later",
        HEADER + "model.backbone.requires_grad_(False)\nif late():\n    model.backbone.requires_grad_(True)" + LOOP,
        "frozen",
    ),
    Silent(
        "a file laid over the values that are written down",
        HEADER
        + "cfg = {'bs': 4}\ncfg.update(json.load(open('c.json')))\n"
        + "train_loader = DataLoader(data, batch_size=cfg['bs'])"
        + LOOP,
        "batch_size",
    ),
    Silent(
        "a name that another file's loader may take",
        HEADER
        + "if streams():\n    train_loader = open_stream()\nelse:\n    train_loader = DataLoader(data, batch_size=4)"
        + LOOP,
        "batch_size",
    ),
    Silent(
        "a name that another loss may take",
        HEADER
        + """
if kind() == "ce":
    criterion = nn.CrossEntropyLoss()
else:
    criterion = Ohem()
for x, y in train_loader:
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
""",
        "loss",
    ),
    Silent(
        "a detector without weights has a pretrained backbone",
        HEADER
        + "import torchvision\nmodel = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None)"
        + LOOP,
        "pretrained",
    ),
    Silent(
        "a library may be used by a program that spreads the training",
        HEADER
        + """
def fit(model, loader, optimizer):
    for x, y in loader:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
""",
        "strategy",
    ),
    Silent(
        "a sampler that draws a part of the data",
        HEADER
        + "data = TensorDataset(torch.randn(100, 3))\n"
        + "train_loader = DataLoader(data, 10, sampler=torch.utils.data.SubsetRandomSampler(chosen))"
        + LOOP,
        "dataset_size",
    ),
    Silent(
        "a term beside the loss",
        HEADER
        + """
for x, y in train_loader:
    penalty = F.mse_loss(model.features(x), reference)
    loss = mine(model(x), y) + penalty
    loss.backward()
    optimizer.step()
""",
        "loss",
    ),
    Silent(
        "a critic that is stepped every fifth time is no accumulation",
        HEADER
        + """
for i, x in enumerate(train_loader):
    critic(x).backward()
    optimizer_critic.step()
    if i % 5 == 0:
        generator(x).backward()
        optimizer_generator.step()
""",
        "gradient_accumulation_steps",
    ),
    Silent(
        "a checkpoint every tenth step is no accumulation",
        HEADER
        + """
for i, x in enumerate(train_loader):
    model(x).backward()
    optimizer.step()
    if i % 10 == 0:
        torch.save(model, "m.pt")
""",
        "gradient_accumulation_steps",
    ),
)

NOT_TRAINING = (
    ("a model", HEADER + "class Net(nn.Module):\n    def forward(self, x):\n        return x\n"),
    (
        "a model with a test of its own",
        HEADER + "class Net(nn.Module):\n    pass\n\nNet()(torch.zeros(1)).sum().backward()\n",
    ),
    (
        "an mmengine configuration",
        "_base_ = ['a.py']\nmodel = dict(type='Net')\ntrain_cfg = dict(type='EpochBasedTrainLoop')\n",
    ),
    (
        "a detector that forwards in training",
        HEADER + "class Head(nn.Module):\n    def loss(self, x):\n        return self.rpn.forward_train(x, 1)\n",
    ),
    ("another framework", "import paddle\nloss.backward()\noptimizer.step()\n"),
    ("an evaluation", HEADER + "model.train(False)\nfor x in DataLoader(data, 4):\n    model(x)\n"),
)
