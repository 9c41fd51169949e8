# bnlint check repaired.py --batch-size 16 --input 3,32,32
# expect: nothing
"""Densely connected image classifier whose layers each own a norm of their width."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
GROWTH = 12


class DenseLayer(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, GROWTH, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)


class DenseNet(nn.Module):
    def __init__(self, layers: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, GROWTH, 3, stride=2, padding=1)
        self.layers = nn.Sequential(*(DenseLayer(GROWTH * (index + 1)) for index in range(layers)))
        self.head = nn.Linear(GROWTH * (layers + 1), CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(images)).mean(dim=(2, 3)))


def main() -> None:
    torch.manual_seed(0)
    model = DenseNet()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for step in range(3):
        loss = F.cross_entropy(model(torch.randn(16, 3, 32, 32)), torch.randint(CLASSES, (16,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
