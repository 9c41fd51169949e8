# bnlint check faulty.py --input 16
# expect: BN501
# raises: Expected input batch_size (32) to match target batch_size (128)
"""One-hot labels flattened to one axis: 32 predictions meet 32 x 4 = 128 targets."""

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


def main() -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 16), torch.randint(0, CLASSES, (256,)))
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    model = Classifier()
    criterion = nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        model.train()
        for rows, labels in loader:
            targets = F.one_hot(labels, num_classes=CLASSES).view(-1)
            loss = criterion(model(rows), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


if __name__ == "__main__":
    main()
