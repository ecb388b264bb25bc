"""A Hugging Face classifier of text alone, whose own understanding masks its word embeddings.

    pip install 'topdown-latch[models]'; python examples/bert.py

The model is small and random, so that nothing is downloaded; put `from_pretrained(...)` in its place. Everything else stays.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def main(steps: int = 30) -> None:
    """Fine-tunes on random sentences: which of two words comes first?"""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(vocab_size=50, num_labels=2, **SIZES))
    latch = TopDownLatch(HookedBackbone(model, {"text": "bert.encoder"}), sites={"text": "bert.embeddings"})

    ids = torch.randint(3, 50, (64, 12))
    attention_mask = (torch.arange(12) < torch.randint(4, 13, (64, 1))).long()
    labels = torch.randint(0, 2, (64,))
    ids[:, 1], ids[:, 2] = 1 + labels, 2 - labels
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": attention_mask, "labels": labels}
    lengths = {"text": attention_mask.sum(1)}

    with torch.no_grad():
        same = torch.equal(latch.eval()(**batch, lengths=lengths).logits, model(**batch).logits)
    print(f"at the start the latch is the model: {same}")
    optimizer = torch.optim.AdamW(latch.parameters(), lr=1e-3)
    for step in range(steps):
        output = latch.train()(**batch, lengths=lengths)  # the output of the model, including its loss
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            print(f"step {step:3d}, loss {output.loss.item():.3f}")
    mask = latch.eval().masks(**batch, lengths=lengths)["text"]
    print(f"mask of the embeddings: shape {tuple(mask.shape)}, {mask.min():.2f} to {mask.max():.2f}")


if __name__ == "__main__":
    main()
