# bnlint check repaired.py --batch-size 4 --input 3,64,64
# expect: nothing
"""Image-to-image translation: an encoder and decoder with instance norm.

The innermost of the six halvings leaves a single position, so it has no norm.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (8, 16, 32, 32, 32, 32)


def down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.LeakyReLU(0.2),
    )


def up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.InstanceNorm2d(outputs, affine=True),
        nn.ReLU(),
    )


class Translator(nn.Module):
    """Images (batch, 3, 64, 64) to images of the same size."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (3, *WIDTHS)
        self.down = nn.Sequential(*(down(sizes[i], sizes[i + 1]) for i in range(len(WIDTHS) - 1)))
        self.innermost = nn.Sequential(nn.Conv2d(WIDTHS[-2], WIDTHS[-1], 4, stride=2, padding=1), nn.LeakyReLU(0.2))
        self.up = nn.Sequential(*(up(WIDTHS[i], WIDTHS[i - 1]) for i in range(len(WIDTHS) - 1, 0, -1)))
        self.image = nn.ConvTranspose2d(WIDTHS[0], 3, 4, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(self.image(self.up(self.innermost(self.down(images)))))


def main() -> None:
    torch.manual_seed(0)
    model = Translator()
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.5, 0.999))
    model.train()
    for step in range(3):
        images = torch.rand(4, 3, 64, 64) * 2 - 1
        loss = F.l1_loss(model(images), images.flip(-1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
