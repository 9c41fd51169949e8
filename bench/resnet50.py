"""ResNet-50 in plain torch, with the layers and the 25,557,032 parameters of the usual one: what the bench checks.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015, with the stride in the 3 x 3 convolution.
"""

from torch import Tensor, nn

EXPANSION = 4
DEPTHS = (3, 4, 6, 3)
MOMENTUM = 0.1


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=MOMENTUM)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions around which the input is added."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = norm(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        result: Tensor = self.relu(y + self.shortcut(x))
        return result


class ResNet50(nn.Module):
    """Images (batch, 3, 224, 224) to scores (batch, classes)."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            norm(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = 64
        stages = []
        for stage, depth in enumerate(DEPTHS):
            for block in range(depth):
                stages.append(Bottleneck(channels, 64 * 2**stage, stride=2 if block == 0 and stage > 0 else 1))
                channels = 64 * 2**stage * EXPANSION
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.pool(self.stages(self.stem(images)))
        scores: Tensor = self.classifier(features.flatten(1))
        return scores
