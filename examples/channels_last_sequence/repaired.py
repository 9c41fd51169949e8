# bnlint check repaired.py --batch-size 16 --input 64,12
# expect: nothing
"""Forecast of a sensor series with attention; the norm gets its channels on the second axis."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 64
WIDTH = 64


class Forecaster(nn.Module):
    """Windows (batch, time, sensors) to the next reading (batch, sensors)."""

    def __init__(self, sensors: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(sensors, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.head = nn.Linear(WIDTH, sensors)

    def forward(self, windows: Tensor) -> Tensor:
        x = self.embed(windows)
        attended, _ = self.attention(x, x, x, need_weights=False)
        x = self.norm((x + attended).transpose(1, 2)).transpose(1, 2)
        return self.head(x[:, -1])


def main() -> None:
    torch.manual_seed(0)
    model = Forecaster()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(3):
        series = torch.randn(16, WINDOW + 1, 12)
        loss = F.mse_loss(model(series[:, :-1]), series[:, -1])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
