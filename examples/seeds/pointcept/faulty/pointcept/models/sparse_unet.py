"""A U-Net over voxels for three indoor data sets. They share its batch norms.

Dense convolutions stand in for sparse ones, which need a GPU.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn


def norm(channels: int) -> nn.Module:
    return nn.BatchNorm3d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """Two convolutions with a shortcut, (batch, inputs, x, y, z) to (batch, outputs, x, y, z)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        conv = partial(nn.Conv3d, kernel_size=3, padding=1, bias=False)
        self.conv1, self.norm1 = conv(inputs, outputs), norm(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), norm(outputs)
        self.shortcut = nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, voxels: Tensor) -> Tensor:
        features = torch.relu(self.norm1(self.conv1(voxels)))
        return torch.relu(self.norm2(self.conv2(features)) + self.shortcut(voxels))


class SpUNet(nn.Module):
    """Voxel features (batch, 6, x, y, z) to class scores (batch, classes, x, y, z)."""

    def __init__(self, in_channels: int = 6, classes: int = 20, channels: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        self.stem = Block(in_channels, channels[0])
        self.down = nn.ModuleList(Block(inputs, outputs) for inputs, outputs in pairwise(channels))
        self.up = nn.ModuleList(Block(inputs + outputs, inputs) for inputs, outputs in pairwise(channels))
        self.pool = nn.MaxPool3d(2)
        self.unpool = nn.Upsample(scale_factor=2)
        self.head = nn.Conv3d(channels[0], classes, 1)

    def forward(self, voxels: Tensor) -> Tensor:
        stages = [self.stem(voxels)]
        for block in self.down:
            stages.append(block(self.pool(stages[-1])))
        features = stages.pop()
        for block in reversed(self.up):
            features = block(torch.cat([self.unpool(features), stages.pop()], dim=1))
        return self.head(features)


def build_model() -> nn.Module:
    return SpUNet()
