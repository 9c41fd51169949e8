# bnlint check repaired.py --strategy ddp --world-size 4 --batch-size 32 --input 3,32,32
# expect: nothing
"""Residual image classifier for four processes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + self.shortcut(x))


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 16), nn.MaxPool2d(2), Block(16, 32))
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images).mean(dim=(2, 3)))


def main() -> None:
    torch.manual_seed(0)
    model = ResidualNet()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for step in range(3):
        loss = F.cross_entropy(model(torch.randn(32, 3, 32, 32)), torch.randint(CLASSES, (32,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")
    without_gradient = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    print(f"parameters without a gradient: {without_gradient}")


if __name__ == "__main__":
    main()
