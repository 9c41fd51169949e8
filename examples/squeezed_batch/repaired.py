# bnlint check repaired.py --batch-size 16 --input 1,128
# expect: nothing
"""Classifier of heartbeats: a one-dimensional convolution network with global pooling."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


class HeartbeatNet(nn.Module):
    """Signals (batch, 1, samples) to scores (batch, classes)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, 2 * width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
        )
        self.pool = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(2 * width, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        pooled = self.pool(self.features(signals)).squeeze(-1)
        return self.head(pooled)


def main() -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(33, 1, 128), torch.randint(CLASSES, (33,)))
    model = HeartbeatNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for signals, labels in DataLoader(data, batch_size=16, shuffle=True):
        loss = F.cross_entropy(model(signals), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"{len(signals)} signals: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
