"""Feedback in twenty seconds: one sensor tells, step by step, which channels of the other are noise.

    python examples/gate.py [--out gate.png]

Sensor `signal` has eight channels. At each step four of them show the label, and the other four show noise that looks just the
same; which four, only sensor `flag` tells. The backbone encodes each sensor by itself, averages over time and adds up what both
say: it is right where label and noise happen to agree, and guesses elsewhere, 0.75 of all samples at best. No fusion of
averages does better, neither an MLP nor FiLM, since after averaging nobody knows which step said what. With a latch the flag
masks the channels at each step, and the signal is encoded again. (An encoder of the signal that saw the flag could learn
that, too; feedback leaves the encoders as they are.) The picture shows the masks of one sample beside the channels that are
relevant; it needs `pip install 'topdown-latch[plots]'`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import FiLM
from topdown.files import require

SIZE = 16


class Sensors(nn.Module):
    """Encodes each sensor step by step, and predicts from the means over time, by a linear head or by an MLP."""

    def __init__(self, *, mlp: bool = False) -> None:
        super().__init__()
        self.signal = nn.Sequential(nn.Linear(8, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
        self.flag = nn.Sequential(nn.Linear(2, SIZE), nn.Tanh(), nn.Linear(SIZE, SIZE))
        layers = [nn.Linear(2 * SIZE, 32), nn.ReLU(), nn.Linear(32, 2)] if mlp else [nn.Linear(2 * SIZE, 2)]
        self.head = nn.Sequential(*layers)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        return {"signal": self.signal(inputs["signal"]), "flag": self.flag(inputs["flag"])}

    def fuse(self, encodings: dict[str, Tensor]) -> Tensor:
        """Returns logits of shape (B, 2)."""
        logits: Tensor = self.head(torch.cat([r.mean(1) for r in encodings.values()], dim=-1))
        return logits

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encodes and fuses."""
        return self.fuse(self.encode(inputs))


def samples(count: int, seed: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Returns inputs, labels, and which channels are relevant, (B, T, 8), of `count` samples of twelve steps."""
    random = torch.Generator().manual_seed(seed)
    labels, others = torch.randint(0, 2, (2, count), generator=random)
    # The first or the last four channels at each step: each half at six of twelve steps, in random order.
    half = (torch.rand(count, 12, generator=random).argsort(1) % 2).unsqueeze(2)
    relevant = (torch.arange(8) // 4) == half
    shown = torch.where(relevant, labels.view(-1, 1, 1), others.view(-1, 1, 1)) * 2.0 - 1.0
    signal = shown + torch.randn(shown.shape, generator=random)
    flag = nn.functional.one_hot(half.squeeze(2), 2) + 0.3 * torch.randn(count, 12, 2, generator=random)
    return {"signal": signal, "flag": flag}, labels, relevant.float()


def train(model: nn.Module, epochs: int, *, oracle: bool = False) -> nn.Module:
    """Trains on 2000 samples; for an oracle, on those whose noise is masked by hand."""
    inputs, labels, relevant = samples(2000, seed=1)
    inputs["signal"] = inputs["signal"] * relevant if oracle else inputs["signal"]
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=random).split(50):
            optimizer.zero_grad()
            output = model({name: x[batch] for name, x in inputs.items()})
            nn.functional.cross_entropy(output, labels[batch]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, *, oracle: bool = False) -> float:
    """Returns the accuracy on 4000 other samples."""
    inputs, labels, relevant = samples(4000, seed=2)
    inputs["signal"] = inputs["signal"] * relevant if oracle else inputs["signal"]
    return float((model(inputs).argmax(1) == labels).float().mean())


def draw(path: str, mask: Tensor, relevant: Tensor) -> None:
    """Draws which channels of one sample are relevant, and its mask: channels over steps."""
    figure = require("matplotlib.figure", "plots").Figure(figsize=(9.0, 2.6), layout="constrained")
    panels = {"relevant channels (planted)": 2 * relevant, "mask of the signal (learned)": mask}
    for axes, (title, values) in zip(figure.subplots(1, 2, sharey=True), panels.items(), strict=True):
        image = axes.imshow(values.T.numpy(), "RdBu_r", vmin=0.0, vmax=2.0, aspect="auto", interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
    figure.axes[0].set_ylabel("channel")
    figure.colorbar(image, ax=figure.axes, label="mask (white: 1, unchanged)")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Trains with and without feedback, and draws the masks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--out", help="picture of the masks, such as gate.png (default: none)")
    options = parser.parse_args()
    if options.out is not None:
        require("matplotlib.figure", "plots")  # fails before the training

    example = samples(2, 0)[0]
    rows: dict[str, Callable[[], nn.Module]] = {
        "without feedback": lambda: Sensors(),
        "with an MLP as head": lambda: Sensors(mlp=True),
        "fused by FiLM": lambda: FiLM(Sensors(), {"signal": SIZE, "flag": SIZE}),
        "with feedback": lambda: TopDownLatch(Sensors(), "linear", sources={"signal": ["flag"]}, example_inputs=example),
        "oracle": lambda: Sensors(),
    }
    models = {}
    for name, make in rows.items():
        torch.manual_seed(0)
        models[name] = train(make(), options.epochs, oracle=name == "oracle")
        print(f"accuracy {name:20s} {accuracy(models[name], oracle=name == 'oracle'):.3f}", flush=True)

    latch = models["with feedback"]
    assert isinstance(latch, TopDownLatch)
    inputs, _, relevant = samples(1000, seed=3)
    mask = latch.masks(inputs)["signal"].detach()
    for name, which in (("relevant channels", relevant == 1), ("noise", relevant == 0)):
        print(f"mean mask of {name:17s} {float(mask[which].mean()):.2f}")
    if options.out is not None:
        draw(options.out, mask[0], relevant[0])
        print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
