"""Feedback in twenty seconds: one sensor tells which channels of the other are noise.

    python examples/gate.py [--out gate.png]

Sensor `signal` has eight channels. Four of them show the label; the other four are noise that looks just the same. Which four
changes from sample to sample, and only sensor `flag` tells. The backbone encodes each sensor by itself and adds up what both
say, as late fusion does: it is right where both halves happen to agree, and guesses where they do not, 0.75 of all samples at
best. With a latch the flag masks the channels, and the signal is looked at again. (A head that multiplies the two
encodings could learn that, too; feedback lets any backbone.) The picture shows the masks for both values of the flag; it needs
`pip install 'topdown-latch[plots]'`.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from topdown import TopDownLatch, mask_profile
from topdown.files import require


class Sensors(nn.Module):
    """Encodes each sensor step by step, and predicts from the means over time."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Linear(8, size), nn.Tanh(), nn.Linear(size, size))
        self.flag = nn.Sequential(nn.Linear(2, size), nn.Tanh(), nn.Linear(size, size))
        self.head = nn.Linear(2 * size, 2)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        return {"signal": self.signal(inputs["signal"]), "flag": self.flag(inputs["flag"])}

    def fuse(self, encodings: dict[str, Tensor]) -> Tensor:
        """Returns logits of shape (B, 2)."""
        logits: Tensor = self.head(torch.cat([r.mean(1) for r in encodings.values()], dim=-1))
        return logits


def samples(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Returns inputs, labels and flags, each of `count` samples."""
    random = torch.Generator().manual_seed(seed)
    flags, labels = torch.randint(0, 2, (2, count), generator=random)
    noisy = (torch.arange(8) // 4) == flags.unsqueeze(1)  # the first or the last four channels
    others = torch.randint(0, 2, (count,), generator=random)
    shown = torch.where(noisy, others.unsqueeze(1), labels.unsqueeze(1)) * 2.0 - 1.0
    signal = shown.unsqueeze(1) + torch.randn(count, 10, 8, generator=random)
    flag = nn.functional.one_hot(flags, 2).unsqueeze(1) + 0.5 * torch.randn(count, 10, 2, generator=random)
    return {"signal": signal, "flag": flag}, labels, flags


def train(model: nn.Module, epochs: int, seed: int = 0) -> nn.Module:
    """Trains on 2000 samples."""
    inputs, labels, _ = samples(2000, seed=1)
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=random).split(50):
            optimizer.zero_grad()
            output = model({name: x[batch] for name, x in inputs.items()})
            nn.functional.cross_entropy(output, labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """Returns the accuracy on 4000 other samples."""
    inputs, labels, _ = samples(4000, seed=2)
    return float((model(inputs).argmax(1) == labels).float().mean())


def main() -> None:
    """Trains with and without feedback, and draws the masks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--out", help="picture of the masks, such as gate.png (default: none)")
    options = parser.parse_args()
    if options.out is not None:
        require("matplotlib.figure", "plots")  # before the training, not after

    torch.manual_seed(0)
    latch = TopDownLatch(Sensors(), "linear", sources={"signal": ["flag"]}, example_inputs=samples(2, 0)[0])
    torch.manual_seed(0)
    plain = TopDownLatch(Sensors(), "linear", sources={"signal": ["flag"]}, example_inputs=samples(2, 0)[0])
    with plain.disabled():  # the same backbone without feedback
        without = accuracy(train(plain, options.epochs))
    print(f"accuracy without feedback {without:.3f}", flush=True)
    print(f"accuracy with feedback    {accuracy(train(latch, options.epochs)):.3f}")

    inputs, _, flags = samples(1000, seed=3)
    profile = mask_profile([(latch.masks(inputs), flags, None)], classes=[0, 1])["signal"]
    for flag, row in zip(("first four are noise", "last four are noise"), profile.mean, strict=True):
        print(f"mean mask, {flag:20s}", " ".join(f"{value:.2f}" for value in row))
    if options.out is not None:
        from topdown.plots import plot_profile

        names = {"signal": [f"channel {i}" for i in range(8)]}
        shown = ["the first four are noise", "the last four are noise"]
        plot_profile({"signal": profile}, feature_names=names, class_names=shown, neutral=1.0).savefig(options.out, dpi=130)
        print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
