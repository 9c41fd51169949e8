# bnlint check faulty.py --batch-size 16 --input 3,32,32 --input 8
# expect: BN106 condition.1
"""Image classifier that is conditioned on a measurement: the measurement's embedding scales the channels.

Batch norm was replaced with GroupNorm in one sweep, with as many groups as channels: on a vector that leaves
one value per group, and the classifier never learns anything from the measurement.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 5


class ConditionedNet(nn.Module):
    """Images (batch, 3, 32, 32) and measurements (batch, 8) to scores (batch, classes)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(width, width),
            nn.ReLU(),
        )
        self.condition = nn.Sequential(nn.Linear(8, width), nn.GroupNorm(width, width), nn.Sigmoid())
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor, measurements: Tensor) -> Tensor:
        scale = self.condition(measurements)
        return self.head((self.features(images) * scale[:, :, None, None]).mean(dim=(2, 3)))


def main() -> None:
    torch.manual_seed(0)
    model = ConditionedNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(3):
        scores = model(torch.randn(16, 3, 32, 32), torch.randn(16, 8))
        loss = F.cross_entropy(scores, torch.randint(CLASSES, (16,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
