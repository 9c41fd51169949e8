# bnlint check faulty.py --batch-size 32 --input 3,32,128
# expect: BN201 stem.1
# expect: BN201 blocks.0.norm
# expect: BN201 blocks.1.norm
"""Text-line recogniser ported from Paddle, where momentum=0.9 keeps nine tenths of the old average."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ALPHABET = 37


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs, momentum=0.9, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return F.hardswish(self.norm(self.conv(x)))


class Recogniser(nn.Module):
    """Text lines (batch, 3, 32, width) to character scores (batch, width / 8, alphabet)."""

    def __init__(self, alphabet: int = ALPHABET) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16, momentum=0.9, eps=1e-5),
            nn.Hardswish(),
        )
        self.blocks = nn.Sequential(Block(16, 32, (2, 2)), Block(32, 64, (2, 2)))
        self.head = nn.Linear(64, alphabet)

    def forward(self, lines: Tensor) -> Tensor:
        columns = self.blocks(self.stem(lines)).mean(dim=2)
        return self.head(columns.transpose(1, 2))


def main() -> None:
    torch.manual_seed(0)
    model = Recogniser()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    lengths = torch.full((32,), 16)
    model.train()
    for step in range(3):
        scores = model(torch.randn(32, 3, 32, 128)).log_softmax(dim=-1)
        texts = torch.randint(1, ALPHABET, (32, 5))
        loss = F.ctc_loss(scores.transpose(0, 1), texts, lengths, torch.full((32,), 5))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
