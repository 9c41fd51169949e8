# bnlint check faulty.py --batch-size 1 --input 1,32,32
# expect: BN101 bottleneck.1
# expect: BN101 bottleneck.4
# expect: BN103
# raises: Expected more than 1 value per channel
"""U-Net for patches of a microscope slide; five halvings take a 32 x 32 patch down to a single position."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DEPTH = 5


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    def __init__(self, channels: int = 1, classes: int = 2, width: int = 8, depth: int = DEPTH) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            double_conv(inputs, outputs) for inputs, outputs in zip([channels, *widths], widths, strict=False)
        )
        self.bottleneck = double_conv(widths[-1], 2 * widths[-1])
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(2 * size, size, 2, stride=2) for size in reversed(widths))
        self.up = nn.ModuleList(double_conv(2 * size, size) for size in reversed(widths))
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottleneck(x)
        for upsample, stage in zip(self.upsample, self.up, strict=True):
            x = stage(torch.cat([upsample(x), skips.pop()], dim=1))
        return self.classifier(x)


def main() -> None:
    torch.manual_seed(0)
    model = UNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(3):
        patch = torch.randn(1, 1, 32, 32)
        labels = (patch[:, 0] > 0).long()
        loss = F.cross_entropy(model(patch), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
