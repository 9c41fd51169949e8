# bnlint check faulty.py --batch-size 16 --input 3,64,64
# expect: BN501
# expect: BN502
# raises: Expected input batch_size (64) to match target batch_size (16)
"""Image classifier written for 32 x 32 images and now fed with 64 x 64 ones."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10


def stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
    )


class SmallNet(nn.Module):
    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.features = nn.Sequential(stage(3, 16), stage(16, 32), stage(32, 64))
        self.classifier = nn.Sequential(nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Linear(128, classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.features(images)
        x = x.view(-1, 64 * 4 * 4)
        return self.classifier(x)


def main() -> None:
    torch.manual_seed(0)
    model = SmallNet()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    model.train()
    for step in range(3):
        loss = F.cross_entropy(model(torch.randn(16, 3, 64, 64)), torch.randint(CLASSES, (16,)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
