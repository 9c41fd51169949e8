# bnlint check faulty.py --batch-size 32 --input 3,32,32
# expect: BN301
"""Train an image classifier and measure its accuracy on held-out images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.dropout(F.relu(self.norm(self.conv(images))).mean(dim=(2, 3))))


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def accuracy(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> float:
    correct = total = 0
    with torch.no_grad():
        for images, labels in batches:
            correct += int((model(images).argmax(dim=1) == labels).sum())
            total += len(labels)
    return correct / total


def synthetic(count: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(32, 3, 32, 32), torch.randint(CLASSES, (32,))) for _ in range(count)]


def main() -> None:
    torch.manual_seed(0)
    model = SmallNet()
    train(model, synthetic(4))
    print(f"accuracy {accuracy(model, synthetic(2)):.1%}")


if __name__ == "__main__":
    main()
