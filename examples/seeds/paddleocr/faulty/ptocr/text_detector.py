"""A text detector carried over from Paddle, its layers with the arguments that they had there."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBNLayer(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-8, momentum=0.9)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.bn(self.conv(x)))


class TextDetector(nn.Module):
    """Images (batch, 3, height, width) to a map of text probabilities (batch, 1, height / 4, width / 4)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(ConvBNLayer(3, 16, stride=2), ConvBNLayer(16, 32, stride=2))
        self.stage2 = ConvBNLayer(32, 64, stride=2)
        self.stage3 = ConvBNLayer(64, 128, stride=2)
        self.neck = nn.ModuleList(ConvBNLayer(inputs, width, kernel=1) for inputs in (32, 64, 128))
        self.head = nn.Sequential(ConvBNLayer(3 * width, width), nn.Conv2d(width, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        first = self.stage1(images)
        second = self.stage2(first)
        third = self.stage3(second)
        maps = [neck(x) for neck, x in zip(self.neck, (first, second, third), strict=True)]
        same_size = [F.interpolate(x, size=first.shape[-2:]) for x in maps]
        return self.head(torch.cat(same_size, dim=1)).sigmoid()


def build_model() -> nn.Module:
    return TextDetector()
