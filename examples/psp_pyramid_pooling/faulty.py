# bnlint check faulty.py --batch-size 8 --dataset-size 10553 --no-drop-last --input 3,96,96
# expect: BN102
# raises: Expected more than 1 value per channel
"""Salient-object segmentation with a pyramid pooling module.

The training set has 10553 images: at 8 per step the last batch of an epoch holds a single one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def conv_norm(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class PyramidPooling(nn.Module):
    """Pools the feature map to grids of several sizes and gives each position the context of its cells."""

    def __init__(self, channels: int, grids: tuple[int, ...] = (1, 2, 3, 6)) -> None:
        super().__init__()
        width = channels // len(grids)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(grid),
                nn.Conv2d(channels, width, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for grid in grids
        )
        self.fuse = conv_norm(channels + width * len(grids), channels)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        context = [F.interpolate(stage(x), size=size, mode="bilinear", align_corners=False) for stage in self.stages]
        return self.fuse(torch.cat([x, *context], dim=1))


class SaliencyNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            conv_norm(3, width, stride=2),
            conv_norm(width, 2 * width, stride=2),
            conv_norm(2 * width, 4 * width, stride=2),
        )
        self.pyramid = PyramidPooling(4 * width)
        self.classifier = nn.Conv2d(4 * width, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.classifier(self.pyramid(self.encoder(images)))
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)


def main() -> None:
    torch.manual_seed(0)
    # A miniature of the real set that leaves the same remainder.
    data = TensorDataset(torch.randn(9, 3, 96, 96), torch.rand(9, 1, 96, 96).round())
    loader = DataLoader(data, batch_size=8, shuffle=True)
    model = SaliencyNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for images, masks in loader:
        loss = F.binary_cross_entropy_with_logits(model(images), masks)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"{len(images)} images: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
