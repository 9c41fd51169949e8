# bnlint check repaired.py --batch-size 32 --input 3,64,64 --input 1,32,32
# expect: nothing
"""Find a sketch by its photograph: an encoder for each, a contrastive loss that joins the pairs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def encoder(channels: int, width: int, embedding: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, embedding),
    )


class Matcher(nn.Module):
    """A photograph (batch, 3, 64, 64) and a sketch (batch, 1, 32, 32) to their unit embeddings."""

    def __init__(self, width: int = 32, embedding: int = 64) -> None:
        super().__init__()
        self.photographs = encoder(3, width, embedding)
        self.sketches = encoder(1, width, embedding)

    def forward(self, photograph: Tensor, sketch: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.photographs(photograph), dim=1), F.normalize(self.sketches(sketch), dim=1)


def contrastive_loss(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    scores = first @ second.T / temperature
    return F.cross_entropy(scores, torch.arange(len(scores)))


def main() -> None:
    torch.manual_seed(0)
    model = Matcher()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for step in range(3):
        loss = contrastive_loss(*model(torch.rand(32, 3, 64, 64), torch.rand(32, 1, 32, 32).round()))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
