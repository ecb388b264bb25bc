"""A convolutional network and a vector of measurements: masks per channel, or per position of a feature map.

    pip install 'topdown-latch[models]'; python examples/cnn.py

The network is a small ResNet of transformers, with random weights. (No torchvision or timm is needed.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetModel

from topdown import Site, TopDownLatch
from topdown.adapters import HookedBackbone


class Inspection(nn.Module):
    """Classifies a picture together with six measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
        self.numbers = nn.Sequential(nn.Linear(6, 12), nn.Tanh())
        self.head = nn.Linear(28, 2)

    def forward(self, picture: Tensor, numbers: Tensor) -> Tensor:
        """Returns logits of shape (B, 2)."""
        seen, measured = self.picture(picture).pooler_output.flatten(1), self.numbers(numbers)
        logits: Tensor = self.head(torch.cat([seen, measured], dim=-1))
        return logits


def main(steps: int = 10) -> None:
    """Trains on random data with both kinds of masks."""
    batch: dict[str, Any] = {"picture": torch.randn(8, 3, 32, 32), "numbers": torch.randn(8, 6)}
    labels = torch.tensor([0, 1] * 4)
    for name, layout in (("channel", "b d _ _"), ("position and channel", "b d h w")):
        torch.manual_seed(0)
        latch = TopDownLatch(
            # An encoding of shape (B, C, H, W) is read as a sequence of positions, or averaged over them.
            HookedBackbone(Inspection(), {"picture": Site("picture.encoder", layout), "numbers": "numbers"}),
            "linear",
            sources={"picture": ["numbers", "picture"], "numbers": ["picture"]},  # the numbers are a raw input, beside a site
            sites={"picture": Site("picture.embedder", layout)},
            align="interpolate",
        )
        latch(**batch)  # builds the feedback
        optimizer = torch.optim.Adam(latch.parameters(), lr=1e-3)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(latch(**batch), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        mask = latch.eval().masks(**batch)["picture"]
        print(
            f"masks per {name}: shape {tuple(mask.shape)}, {mask[0].unique().numel()} different values, loss {loss.item():.3f}"
        )


if __name__ == "__main__":
    main()
