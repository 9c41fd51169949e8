# bnlint check faulty.py --training faulty.yaml
# expect: BN102
# raises: Expected more than 1 value per channel
"""Multi-layer perceptron for tabular data: 257 rows in batches of 64."""

from pathlib import Path

import torch
import yaml
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
    run = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    rows = torch.randn(257, FEATURES)
    data = TensorDataset(rows, rows[:, :1] * 2 + rows[:, 1:2])
    loader = DataLoader(data, batch_size=run["batch_size"], shuffle=True, drop_last=run["drop_last"])
    model = TabularNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=run["learning_rate"])
    model.train()
    for epoch in range(run["epochs"]):
        for inputs, targets in loader:
            loss = F.mse_loss(model(inputs), targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
