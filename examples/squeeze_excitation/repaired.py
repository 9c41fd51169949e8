# bnlint check repaired.py --batch-size 2 --input 3,64,64
# expect: nothing
"""Image classifier with squeeze-and-excitation blocks, trained two images at a time.

The gate has no norm (its input is one vector per image), the convolutions normalise each image on its own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        squeezed = channels // reduction
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, outputs)
        self.attention = SqueezeExcitation(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.attention(self.norm(self.conv(x))))


class Classifier(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 32), Block(32, 64))
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images).mean(dim=(2, 3)))


def main() -> None:
    torch.manual_seed(0)
    model = Classifier()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for step in range(3):
        loss = F.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.randint(CLASSES, (2,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
