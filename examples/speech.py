"""A speech encoder and BERT: sound and words that are not aligned, each with lengths of its own.

    pip install 'topdown-latch[models]'; python examples/speech.py

The speech encoder makes one frame of every forty samples, so it returns its encodings as `Padded`, with their own lengths. The
models are small and random; put `from_pretrained(...)` in their place.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, Wav2Vec2Config, Wav2Vec2Model

from topdown import Padded, TopDownLatch
from topdown.sequence import valid_steps, zero_padding

LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONVOLUTIONS = {"conv_dim": (16, 16, 16), "conv_stride": (5, 4, 2), "conv_kernel": (10, 8, 4)}


class SpeechAndText(nn.Module):
    """Encodes both by pretrained models, and predicts one number from the means over time."""

    def __init__(self) -> None:
        super().__init__()
        positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
        self.speech = Wav2Vec2Model(Wav2Vec2Config(**LAYERS, **CONVOLUTIONS, **positions))
        self.text = BertModel(BertConfig(vocab_size=50, **LAYERS), add_pooling_layer=False)
        self.head = nn.Linear(64, 1)

    def encode(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Padded]:
        """Returns frames and words with their lengths."""
        heard = valid_steps(lengths["speech"], inputs["speech"].shape[1]).long()
        frames = self.speech(inputs["speech"], attention_mask=heard).last_hidden_state
        count = self.speech._get_feat_extract_output_lengths(lengths["speech"])
        read = valid_steps(lengths["text"], inputs["text"].shape[1]).long()
        words = self.text(inputs["text"], attention_mask=read).last_hidden_state
        return {"speech": Padded(frames, count), "text": Padded(words, lengths["text"])}

    def fuse(self, encodings: dict[str, Padded]) -> Tensor:
        """Returns predictions of shape (B,)."""
        means = [zero_padding(*r).sum(1) / r.lengths.unsqueeze(1) for r in encodings.values() if r.lengths is not None]
        prediction: Tensor = self.head(torch.cat(means, dim=-1)).squeeze(-1)
        return prediction


def main(steps: int = 10) -> None:
    """Trains on random data."""
    torch.manual_seed(0)
    latch = TopDownLatch(
        SpeechAndText(),
        "shared",
        sites={"speech": "speech.feature_projection.projection", "text": "text.embeddings"},
        align="interpolate",  # by relative position: the middle of the sentence masks the middle of the sound
    )
    batch: dict[str, Any] = {"speech": torch.randn(4, 1600), "text": torch.randint(1, 50, (4, 9))}
    lengths = {"speech": torch.tensor([1600, 1200, 800, 1600]), "text": torch.tensor([9, 7, 5, 9])}
    frames = latch.backbone.speech._get_feat_extract_output_lengths(lengths["speech"])
    print(f"samples {lengths['speech'].tolist()}, frames {frames.tolist()}, words {lengths['text'].tolist()}")
    latch(batch, lengths)  # builds the feedback
    optimizer = torch.optim.Adam(latch.parameters(), lr=1e-3)
    for step in range(steps):
        loss = (latch(batch, lengths) - torch.tensor([1.0, -1.0, 0.0, 2.0])).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            print(f"step {step:3d}, loss {loss.item():.3f}")
    for name, mask in latch.masks(batch, lengths).items():
        print(f"mask of {name}: shape {tuple(mask.shape)}")


if __name__ == "__main__":
    main()
