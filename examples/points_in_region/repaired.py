# bnlint check repaired.py --batch-size 8 --input 256,4
# expect: nothing
"""Second stage of a lidar detector: classify the region around the sensor from the points that fall into it.

Each point is normalised on its own, so that it does not matter how many of them lie in the region.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 3


class RegionHead(nn.Module):
    """Points (batch, number, 4) with x, y, z and intensity to class scores (batch, classes)."""

    def __init__(self, width: int = 32, half_size: float = 1.0) -> None:
        super().__init__()
        self.half_size = half_size
        self.width = width
        self.point_net = nn.Sequential(
            nn.Linear(4, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
            nn.Linear(width, width, bias=False),
            nn.LayerNorm(width),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, points: Tensor) -> Tensor:
        inside = (points[..., :2].abs() < self.half_size).all(dim=-1)
        scan, _ = torch.nonzero(inside, as_tuple=True)
        features = self.point_net(points[inside])
        pooled = features.new_zeros(points.shape[0], self.width)
        pooled = pooled.index_add(0, scan, features)
        return self.classifier(pooled / inside.sum(dim=1, keepdim=True).clamp(min=1))


def scans(sparse: bool) -> Tensor:
    """Eight scans; in a sparse batch a single point of all of them is near the sensor."""
    points = torch.randn(8, 256, 4)
    if sparse:
        points[..., :2] += 100.0
        points[0, 0, :2] = 0.5
    return points


def main() -> None:
    torch.manual_seed(0)
    model = RegionHead()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for sparse in (False, False, True):
        loss = F.cross_entropy(model(scans(sparse)), torch.randint(CLASSES, (8,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
