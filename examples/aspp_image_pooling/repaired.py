# bnlint check repaired.py --batch-size 1 --input 3,65,65
# expect: nothing
"""Street-scene segmentation with atrous spatial pyramid pooling; one large image per step fits in memory."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 19


def conv_norm(inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1, kernel: int = 3) -> nn.Sequential:
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(8, outputs),
        nn.ReLU(inplace=True),
    )


class ASPP(nn.Module):
    """Looks at the feature map with several dilations and once as a whole."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...] = (2, 4, 6)) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm(inputs, outputs, kernel=1)])
        self.branches.extend(conv_norm(inputs, outputs, dilation=rate) for rate in rates)
        self.image_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(inplace=True),
        )
        self.project = conv_norm(outputs * (len(rates) + 2), outputs, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        views = [branch(x) for branch in self.branches]
        pooled = self.image_pool(x)
        views.append(F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False))
        return self.project(torch.cat(views, dim=1))


class SegmentationNet(nn.Module):
    def __init__(self, classes: int = CLASSES, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            conv_norm(3, width, stride=2),
            conv_norm(width, 2 * width, stride=2),
            conv_norm(2 * width, 4 * width, dilation=2),
        )
        self.aspp = ASPP(4 * width, width)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        scores = self.classifier(self.aspp(self.backbone(images)))
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)


def main() -> None:
    torch.manual_seed(0)
    model = SegmentationNet()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    for step in range(2):
        images = torch.randn(1, 3, 65, 65)
        labels = torch.randint(CLASSES, (1, 65, 65))
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
