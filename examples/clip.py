"""CLIP: what the text says masks the patches of the image, and what the image shows masks the words.

    pip install 'topdown-latch[models]'; python examples/clip.py

The model is small and random, so that nothing is downloaded; put `CLIPModel.from_pretrained(...)` in its place.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
WORDS = {"vocab_size": 50, "eos_token_id": 49, "bos_token_id": 1, "pad_token_id": 0}


def main(steps: int = 20) -> None:
    """Trains the feedback of a frozen CLIP with its own contrastive loss."""
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=LAYERS | WORDS, vision_config=LAYERS | {"image_size": 32, "patch_size": 8}, projection_dim=16)
    )
    latch = TopDownLatch(
        HookedBackbone(model, {"text": "text_model.encoder", "image": "vision_model.encoder"}),
        "linear",
        sites={"text": "text_model.embeddings", "image": "vision_model.embeddings"},
        align="pool",  # words and patches share no time: a source masks all steps of its target alike
    )
    batch: dict[str, Any] = {
        "input_ids": torch.randint(2, 49, (8, 7)),
        "pixel_values": torch.randn(8, 3, 32, 32),
        "return_loss": True,
    }
    latch(**batch)  # builds the feedback
    latch.backbone.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in latch.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        loss = latch(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            print(f"step {step:3d}, contrastive loss {loss.item():.3f}")
    for name, mask in latch.masks(**batch).items():
        print(f"mask of {name}: shape {tuple(mask.shape)}, {mask.min():.2f} to {mask.max():.2f}")


if __name__ == "__main__":
    main()
