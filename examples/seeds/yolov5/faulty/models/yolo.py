"""An image classifier on the backbone of a detector. It halves the image five times, so that 32 x 32 becomes 1 x 1."""

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (16, 32, 64, 128, 256)


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width)
        self.cv2 = Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C3(nn.Module):
    """Half of the channels pass through a bottleneck, the others beside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = Conv(width, width // 2)
        self.cv2 = Conv(width, width // 2)
        self.m = Bottleneck(width // 2)
        self.cv3 = Conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], dim=1))


class Classify(nn.Module):
    """Features (batch, inputs, height, width) to class scores (batch, classes)."""

    def __init__(self, inputs: int, classes: int, width: int = 512) -> None:
        super().__init__()
        self.conv = Conv(inputs, width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.conv(x)).flatten(1))


class ClassificationModel(nn.Module):
    """Images (batch, 3, size, size) to class scores (batch, classes)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [Conv(3, WIDTHS[0], 3, 2)]
        for narrow, wide in pairwise(WIDTHS):
            layers += [Conv(narrow, wide, 3, 2), C3(wide)]
        self.model = nn.Sequential(*layers, Classify(WIDTHS[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def build_model() -> nn.Module:
    return ClassificationModel()
