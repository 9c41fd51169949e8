# bnlint check faulty.py --input 16
# expect: BN302
"""From the second epoch on the model trains in evaluation mode."""

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


class Trainer:
    def __init__(self, model: nn.Module, loader: DataLoader) -> None:
        self.model = model
        self.loader = loader
        self.optimiser = torch.optim.SGD(model.parameters(), lr=0.05)

    def fit(self, epochs: int) -> None:
        self.model.train()
        for epoch in range(epochs):
            for rows, labels in self.loader:
                loss = F.cross_entropy(self.model(rows), labels)
                self.optimiser.zero_grad()
                loss.backward()
                self.optimiser.step()
            print(f"epoch {epoch}: {self.validate():.3f}")

    @torch.no_grad()
    def validate(self) -> float:
        self.model.eval()
        losses = [F.cross_entropy(self.model(rows), labels).item() for rows, labels in self.loader]
        return sum(losses) / len(losses)


def main() -> None:
    torch.manual_seed(0)
    rows = torch.randn(512, 16)
    data = TensorDataset(rows, (rows[:, 0] > 0).long())
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    Trainer(Classifier(), loader).fit(20)


if __name__ == "__main__":
    main()
