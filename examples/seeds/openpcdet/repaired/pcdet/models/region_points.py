"""A detector in two stages: a bird's-eye view of the scan, and the points inside a region around the sensor."""

import torch
from torch import Tensor, nn


class BaseBEVBackbone(nn.Module):
    """Pillar features (batch, 16, 64, 64) to features of the scene (batch, 64, 16, 16)."""

    def __init__(self, inputs: int = 16, widths: tuple[int, ...] = (32, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            layers.append(nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False))
            layers.append(nn.GroupNorm(8, width))
            layers.append(nn.ReLU())
            inputs = width
        self.layers = nn.Sequential(*layers)

    def forward(self, pillars: Tensor) -> Tensor:
        return self.layers(pillars)


class RegionHead(nn.Module):
    """Points (batch, number, 4) with x, y, z and intensity to a vector for the region of each scan (batch, 12)."""

    def __init__(self, width: int = 12, radius: float = 1.6) -> None:
        super().__init__()
        self.width, self.radius = width, radius
        self.point = nn.Conv1d(4, width, 1, bias=False)
        self.norm = nn.GroupNorm(3, width)  # of each point by itself: one is enough

    def forward(self, points: Tensor) -> Tensor:
        inside = points[..., :2].norm(dim=-1) < self.radius
        scan, _ = torch.nonzero(inside, as_tuple=True)
        rows = self.point(points[inside].unsqueeze(-1))  # (points in the regions of all scans, width, 1)
        rows = torch.relu(self.norm(rows)).squeeze(-1)
        pooled = rows.new_zeros(points.shape[0], self.width).index_add(0, scan, rows)
        return pooled / inside.sum(dim=1, keepdim=True).clamp(min=1)


class RegionPoints(nn.Module):
    """Pillars and points to the scores of the classes (batch, classes)."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone_2d = BaseBEVBackbone()
        self.roi_head = RegionHead()
        self.scores = nn.Linear(64 + 12, classes)

    def forward(self, pillars: Tensor, points: Tensor) -> Tensor:
        scene = self.backbone_2d(pillars).mean(dim=(2, 3))
        return self.scores(torch.cat([scene, self.roi_head(points)], dim=1))


def build_network() -> nn.Module:
    return RegionPoints()
