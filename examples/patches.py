"""A vision transformer and a text model in one classifier of your own, which is wrapped as it is.

    pip install 'topdown-latch[models]'; python examples/patches.py

The models are small and random, so that nothing is downloaded; put `from_pretrained(...)` in their place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Classifier(nn.Module):
    """Answers a question about an image."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = ViTModel(ViTConfig(image_size=32, patch_size=8, **LAYERS), add_pooling_layer=False)
        self.text = BertModel(BertConfig(vocab_size=50, **LAYERS), add_pooling_layer=False)
        self.head = nn.Linear(64, 3)

    def forward(self, pixels: Tensor, question: Tensor) -> Tensor:
        """Returns logits of shape (B, 3)."""
        seen, read = self.vision(pixels).last_hidden_state, self.text(question).last_hidden_state
        logits: Tensor = self.head(torch.cat([seen[:, 0], read[:, 0]], dim=-1))
        return logits


def main(steps: int = 10) -> None:
    """Trains on random data; the question masks each patch of the image, before any layer sees it."""
    torch.manual_seed(0)
    latch = TopDownLatch(
        HookedBackbone(Classifier(), {"image": "vision", "text": "text.encoder"}),  # the output of a submodule, or of a part
        "linear",
        sites={"image": "vision.embeddings.patch_embeddings"},
        align="pool",
    )
    batch: dict[str, Any] = {"pixels": torch.randn(6, 3, 32, 32), "question": torch.randint(1, 50, (6, 5))}
    latch(**batch)  # builds the feedback
    optimizer = torch.optim.Adam(latch.parameters(), lr=1e-3)
    for step in range(steps):
        loss = nn.functional.cross_entropy(latch(**batch), torch.tensor([0, 1, 2, 0, 1, 2]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            print(f"step {step:3d}, loss {loss.item():.3f}")
    print(f"mask of 4 x 4 patches: shape {tuple(latch.masks(**batch)['image'].shape)}")


if __name__ == "__main__":
    main()
