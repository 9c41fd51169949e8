# bnlint check faulty.py --training faulty.yaml
# expect: BN102
# raises: Expected more than 1 value per channel
"""Multi-layer perceptron for tabular data: 257 rows in batches of 64."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

FEATURES = 20


class TabularNet(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 1),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


def main() -> None:
    torch.manual_seed(0)
    rows = torch.randn(257, FEATURES)
    data = TensorDataset(rows, rows[:, :1] * 2 + rows[:, 1:2])
    loader = DataLoader(data, batch_size=64, shuffle=True)
    model = TabularNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for epoch in range(20):
        for inputs, targets in loader:
            loss = F.mse_loss(model(inputs), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
