"""Camera and lidar features, fused in the bird's-eye view of a scene and turned into a heat map of objects."""

import torch
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class CameraEncoder(nn.Module):
    """Images (batch, views, 3, height, width) to a bird's-eye view (batch, channels, size, size)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(3, 16, 2), block(16, 32, 2), block(32, channels, 2))
        self.view_transform = nn.AdaptiveAvgPool2d(size)

    def forward(self, images: Tensor) -> Tensor:
        batch, views = images.shape[:2]
        features = self.view_transform(self.backbone(images.flatten(0, 1)))
        return features.unflatten(0, (batch, views)).sum(dim=1)


class LidarEncoder(nn.Module):
    """Height slices of a voxel grid (batch, slices, size, size) to features (batch, channels, size, size)."""

    def __init__(self, slices: int, channels: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(block(slices, channels), block(channels, channels))

    def forward(self, voxels: Tensor) -> Tensor:
        return self.backbone(voxels)


class BEVFusion(nn.Module):
    """Images and voxels to a heat map for each class (batch, classes, size / 2, size / 2)."""

    def __init__(self, classes: int = 10, channels: int = 64, slices: int = 8, size: int = 32) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {"camera": CameraEncoder(channels, size), "lidar": LidarEncoder(slices, channels)}
        )
        self.fuser = block(2 * channels, channels)
        self.decoder = nn.Sequential(block(channels, 128, 2), block(128, 128))
        self.heads = nn.ModuleDict({"object": nn.Conv2d(128, classes, 1)})

    def forward(self, images: Tensor, voxels: Tensor) -> Tensor:
        views = [self.encoders["camera"](images), self.encoders["lidar"](voxels)]
        return self.heads["object"](self.decoder(self.fuser(torch.cat(views, dim=1))))


def build_model() -> nn.Module:
    return BEVFusion()
