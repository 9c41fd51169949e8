"""Training scripts as people write them; `trip()` stands for whatever must not run."""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """A script, the names that its slice must bind to modules, and pieces of code that may not be kept."""

    reason: str
    text: str
    models: tuple[str, ...]
    dropped: tuple[str, ...] = ()


HEADER = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\nfrom torch import optim\n"

NET = """
class Net(nn.Module):
    def __init__(self, width=8, classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))
"""

SCRIPTS = (
    Script(
        "argparse inside main(), everything behind the guard",
        HEADER
        + NET
        + """
import argparse

def train(args, model, device, train_loader, optimizer, epoch):
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        F.nll_loss(model(data), target).backward()
        optimizer.step()

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=1.0)
    args = parser.parse_args()
    trip()
    model = Net()
    train(args, model, "cpu", None, optim.SGD(model.parameters(), lr=args.lr), 1)

if __name__ == "__main__":
    trip()
    main()
""",
        ("Net",),
        ("main()\n",),
    ),
    Script(
        "a training loop at top level",
        HEADER
        + NET
        + """
torch.manual_seed(0)
model = Net()
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.1)
for epoch in range(2):
    trip()
    optimizer.zero_grad()
    loss = criterion(model(torch.randn(2, 3, 8, 8)), torch.zeros(2).long())
    loss.backward()
    optimizer.step()
    print(epoch, loss.item())
torch.save(model.state_dict(), "model.pth")
""",
        ("model",),
        ("backward", "torch.save", "print", "SGD"),
    ),
    Script(
        "argparse at top level feeds the model",
        HEADER
        + NET
        + """
import argparse

parser = argparse.ArgumentParser(description="train")
parser.add_argument("--width", default=16, type=int)
parser.add_argument("--classes", default=7, type=int)
parser.add_argument("--no-cuda", action="store_true")
args = parser.parse_args()
args.cuda = not args.no_cuda and False
print(args)
device = torch.device("cuda" if args.cuda else "cpu")
model = Net(args.width, classes=args.classes).to(device)
assert model.fc.out_features == 7
trip()
""",
        ("model",),
        ("print", "assert"),
    ),
    Script(
        "a GAN with netG and netD built at top level and data branches that set constants",
        HEADER
        + """
import argparse, os, random
parser = argparse.ArgumentParser()
parser.add_argument("--dataset", default="fake")
parser.add_argument("--ngf", type=int, default=4)
parser.add_argument("--netG", default="")
parser.add_argument("--outf", default=".")
opt = parser.parse_args()
print(opt)

try:
    os.makedirs(opt.outf)
    trip()
except OSError:
    pass

opt.manualSeed = random.randint(1, 10000)
if opt.dataset == "folder":
    dataset = trip()
    nc = 1
elif opt.dataset == "fake":
    dataset = [trip]
    nc = 3
dataloader = torch.utils.data.DataLoader(dataset, batch_size=4)
ngf = int(opt.ngf)
nz = 5

def weights_init(m):
    if "Conv" in m.__class__.__name__:
        m.weight.data.normal_(0.0, 0.02)

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.ConvTranspose2d(nz, ngf, 4), nn.BatchNorm2d(ngf), nn.Conv2d(ngf, nc, 1))

    def forward(self, x):
        return self.main(x)

netG = Generator()
netG.apply(weights_init)
if opt.netG != "":
    netG.load_state_dict(torch.load(opt.netG))
print(netG)

class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(nc, 4, 4), nn.LeakyReLU(0.2))

    def forward(self, x):
        return self.main(x).view(-1, 1).squeeze(1)

netD = Discriminator()
netD.apply(weights_init)
criterion = nn.BCELoss()
fixed_noise = torch.randn(64, nz, 1, 1)
optimizerD = optim.Adam(netD.parameters(), lr=0.1)
for epoch in range(3):
    for i, data in enumerate(dataloader, 0):
        trip()
""",
        ("netG", "netD"),
        ("fixed_noise", "DataLoader", "makedirs", "load_state_dict", "Adam"),
    ),
    Script(
        "a registry filled by decorators",
        HEADER
        + """
MODELS = {}
SIZES = {"small": 4}
SIZES["large"] = 8

def register(name):
    def wrap(builder):
        MODELS[name] = builder
        return builder
    return wrap

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.bn = nn.BatchNorm1d(width)

@register("small")
def small():
    return Block(SIZES["small"])

@register("large")
def large():
    return Block(SIZES["large"])

model = MODELS["large"]()
assert trip()
""",
        ("model",),
    ),
    Script(
        "imports inside try, with a fallback and a message",
        HEADER
        + """
try:
    from apex_that_is_missing.parallel import SyncBatchNorm
    has_apex = True
except ImportError:
    print("no apex")
    SyncBatchNorm = nn.BatchNorm2d
    has_apex = False

try:
    import json
except ImportError as error:
    raise ImportError("install json") from error

net = nn.Sequential(nn.Conv2d(3, 4, 1), SyncBatchNorm(4))
trip()
""",
        ("net",),
        ("print",),
    ),
    Script(
        "sys.path and environment set before the imports",
        """
import os
import sys
os.environ["BNLINT_TEST_WIDTH"] = "6"
os.environ.setdefault("BNLINT_TEST_OTHER", "1")
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path.insert(0, "lib")
import torch.nn as nn
os.system("nvidia-smi") or trip()
width = int(os.environ["BNLINT_TEST_WIDTH"])
local_rank = int(os.environ["BNLINT_TEST_RANK_THAT_IS_UNSET"])
encoder = nn.Linear(width, 2)
""",
        ("encoder",),
        ("os.system", "local_rank"),
    ),
    Script(
        "layers appended in a loop",
        HEADER
        + """
widths = [3, 8, 16]
layers = []
for i in range(len(widths) - 1):
    layers.append(nn.Conv2d(widths[i], widths[i + 1], 3))
    if i:
        layers += [nn.BatchNorm2d(widths[i + 1])]
losses = []
for i in range(2):
    losses.append(trip())
layers.append(nn.Flatten())
model = nn.Sequential(*layers)
assert len(model) == 4
losses.append(model(torch.zeros(1, 3, 9, 9)))
""",
        ("model",),
        ("losses.append",),
    ),
    Script(
        "a head replaced, layers frozen and norms set after creation",
        HEADER
        + NET
        + """
model = Net()
for param in model.parameters():
    param.requires_grad = False
features = model.fc.in_features
model.fc = nn.Linear(features, 2)
for module in model.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 0.01
def forward(self, x):
    return self.fc(self.conv(x).mean((2, 3)))
Net.forward = forward
setattr(Net, "patched", True)
model.eval()
model = torch.nn.DataParallel(model)
history = trip()
best = max(history)
""",
        ("model",),
        ("model.eval()", "best"),
    ),
    Script(
        "a notebook export with magics, prints and bare expressions",
        """#!/usr/bin/env python
# coding: utf-8

# In[1]:

get_ipython().system("pip install timm")
get_ipython().run_line_magic("matplotlib", "inline")

# In[2]:

import torch
from torch import nn
import torch.nn.functional as F

print(torch.__version__)
torch.cuda.is_available()

# In[3]:
"""
        + NET
        + """
# In[4]:

net = Net(4)
net

# In[5]:

summary(net, (3, 8, 8))
history = net.fit(trip())
x = torch.randn(2, 3, 8, 8)
y = net(x)
y.shape
trip()
""",
        ("net",),
        ("get_ipython", "print", "summary", "history"),
    ),
    Script(
        "DistributedDataParallel around the model, with the ranks in the environment",
        HEADER
        + NET
        + """
import os
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

local_rank = int(os.environ["BNLINT_TEST_LOCAL_RANK"])
dist.init_process_group("nccl")
torch.cuda.set_device(local_rank)
model = nn.SyncBatchNorm.convert_sync_batchnorm(Net())
model = DDP(model, device_ids=[local_rank])
assert isinstance(trip(), DDP)
""",
        ("model",),
        ("init_process_group", "DDP(", "set_device"),
    ),
    Script(
        "a configuration object merged at top level, and a logger",
        HEADER
        + NET
        + """
import logging
from types import SimpleNamespace

class Node(dict):
    def merge_from_list(self, pairs):
        self.update(dict([pairs]))

logging.basicConfig()
logger = logging.getLogger(__name__)
cfg = Node()
cfg["width"] = 4
cfg.merge_from_list(("width", 12))
logger.info(f"{trip()}")

def build_model():
    logger.debug("building")
    return Net(cfg["width"])

def train_model():
    model = build_model()
    model(torch.zeros(1)).backward()
    trip()

model = build_model()
assert model.bn.num_features == 12
model = train_model()
""",
        ("model",),
        ("logger.info", "model = train_model"),
    ),
    Script(
        "a script in the manner of nanoGPT: branches that build, resume or stop",
        HEADER
        + """
from contextlib import nullcontext
from dataclasses import dataclass

init_from = "scratch"
n_layer = 2
dtype = "bfloat16" if torch.cuda.is_available() else "float32"
ctx = nullcontext()
config_keys = [k for k, v in globals().items() if not k.startswith("_")]
iter_num = 0
best_val_loss = 1e9

@dataclass
class GPTConfig:
    n_layer: int = 12
    n_embd: int = 4

class GPT(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(config.n_embd, config.n_embd) for _ in range(config.n_layer)])
        self.norm = nn.LayerNorm(config.n_embd)

model_args = dict(n_layer=n_layer)
if init_from == "scratch":
    print("Initializing a new model from scratch")
    gptconf = GPTConfig(**model_args)
    model = GPT(gptconf)
elif init_from == "resume":
    checkpoint = torch.load("ckpt.pt")
    gptconf = GPTConfig(**checkpoint["model_args"])
    model = GPT(gptconf)
    model.load_state_dict(checkpoint["model"])
    iter_num = checkpoint["iter_num"]
model.to("cpu")
scaler = torch.cuda.amp.GradScaler(enabled=trip())
optimizer = model.configure_optimizers(0.1)
while True:
    with ctx:
        trip()
""",
        ("model",),
        ("GradScaler", "while", "print"),
    ),
    Script(
        "everything inside an experiment's context",
        HEADER
        + NET
        + """
with mlflow.start_run():
    width = 5
    student = Net(width)
    with open("train.log", "w") as log:
        log.write("start")
    teacher = Net(2 * width)
    for _ in range(2):
        trip()
with torch.no_grad():
    classifier = nn.Linear(2, 2)
    trip()
""",
        ("student", "teacher", "classifier"),
        ("mlflow", "train.log"),
    ),
    Script(
        "arguments that come from data which only training needs",
        HEADER
        + NET
        + """
train_set = trip()
test_loader = torch.utils.data.DataLoader(train_set)
size = len(train_set)
steps = size // 4

def evaluate(loader=test_loader):
    return loader

def accuracy(model):
    return evaluate()

model = Net()
scheduler = optim.lr_scheduler.StepLR(optim.SGD(model.parameters(), lr=0.1), steps)
with torch.no_grad():
    print(accuracy(model))
""",
        ("model",),
        ("size", "def evaluate", "StepLR"),
    ),
)
