# bnlint check repaired.py --input 16
# expect: nothing
"""Predictions and labels come from the same loader; the other one may have any batch size."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4
BATCH = 32


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
    data = TensorDataset(torch.randn(512, 16), torch.randint(0, CLASSES, (512,)))
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    other = DataLoader(data, batch_size=2 * BATCH, shuffle=True, drop_last=True)
    model = Classifier()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for _, (more, labels) in zip(loader, other, strict=False):
        loss = F.cross_entropy(model(more), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


if __name__ == "__main__":
    main()
