# bnlint check faulty.py --input 16
# expect: BN301
"""The accuracy is taken in training mode: `no_grad` does not switch batch norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


class Classifier(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(16, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


def train(model: nn.Module, loader: DataLoader, optimiser: torch.optim.Optimizer) -> None:
    model.train()
    for rows, labels in loader:
        loss = F.cross_entropy(model(rows), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def accuracy(model: nn.Module, loader: DataLoader) -> float:
    correct = total = 0
    with torch.no_grad():
        for rows, labels in loader:
            correct += int((model(rows).argmax(dim=1) == labels).sum())
            total += len(labels)
    return correct / total


def main() -> None:
    torch.manual_seed(0)
    rows = torch.randn(512, 16)
    data = TensorDataset(rows, (rows[:, 0] > 0).long())
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    held_out = DataLoader(data, batch_size=32)
    model = Classifier()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for epoch in range(20):
        train(model, loader, optimiser)
        print(f"epoch {epoch}: {accuracy(model, held_out):.1%}")


if __name__ == "__main__":
    main()
