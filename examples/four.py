"""Four modalities, one of them a vector, one absent in some samples: who masks whom is one argument.

python examples/four.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.sequence import zero_padding

SIZES = {"camera": 12, "lidar": 8, "audio": 6, "weather": 4}


class Vehicle(nn.Module):
    """Encodes three sequences that are not aligned, and a vector."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(features, size) for name, features in SIZES.items()})
        self.head = nn.Linear(4 * size, 1)

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size), and (B, size) of the weather."""
        return {name: torch.tanh(layer(inputs[name])) for name, layer in self.layers.items()}

    def fuse(self, encodings: dict[str, Tensor], lengths: dict[str, Tensor]) -> Tensor:
        """Returns predictions of shape (B,), from means over valid steps; zeros where a modality is absent."""
        means = [
            zero_padding(r, lengths[name]).sum(1) / lengths[name].clamp(min=1).unsqueeze(1) if r.dim() == 3 else r
            for name, r in encodings.items()
        ]
        prediction: Tensor = self.head(torch.cat(means, dim=-1)).squeeze(-1)
        return prediction


def main() -> None:
    """Calls latches with different sources."""
    torch.manual_seed(0)
    steps = {"camera": 10, "lidar": 20, "audio": 50}
    inputs = {name: torch.randn(3, *([steps[name]] if name in steps else []), size) for name, size in SIZES.items()}
    lengths = {"camera": torch.tensor([10, 7, 10]), "lidar": torch.tensor([20, 20, 12]), "audio": torch.tensor([50, 30, 0])}
    print("the third sample has no audio")
    for sources in (None, {"camera": ["weather", "audio"], "lidar": ["camera"]}):
        latch = TopDownLatch(Vehicle(), "shared", sources=sources, align="interpolate")
        output, masks = latch(inputs, lengths), latch.masks(inputs, lengths)
        print(f"sources={sources}: output {tuple(output.shape)}")
        for name, mask in masks.items():
            print(f"  {name}: mask {tuple(mask.shape)}, by {', '.join(latch.trace(inputs, lengths).feedback[name])}")


if __name__ == "__main__":
    main()
