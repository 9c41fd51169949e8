# bnlint check faulty.py --training faulty.yaml
# expect: BN501
# raises: Expected input batch_size (32) to match target batch_size (64)
"""A training step doubles the labels for two views and takes the predictions of one: 32 meet 64."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 4


class Classifier(nn.Module):
    """Trained by whatever calls `training_step`, as Lightning does."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.encoder(rows))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        rows, labels = batch
        views = torch.cat([rows + 0.1 * torch.randn_like(rows), rows + 0.1 * torch.randn_like(rows)])
        first, second = self.encoder(views).chunk(2)
        return F.cross_entropy(self.head(first), labels.repeat(2)) + F.mse_loss(first, second)


def main() -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(256, 16), torch.randint(0, CLASSES, (256,)))
    loader = DataLoader(data, batch_size=32, shuffle=True, drop_last=True)
    model = Classifier()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(3):
        model.train()
        for batch in loader:
            loss = model.training_step(batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


if __name__ == "__main__":
    main()
