"""Wraps models of two published designs without a change to their code.

    python examples/designs.py

`Multitask` takes (features, lengths) tuples and returns a mapping with a prediction and a vector for each modality, as Self-MM
(Yu et al., 2021) does. `Condensing` makes eight tokens of every modality before it fuses them, as ALMT (Zhang et al., 2023)
does. Both were written from the papers' descriptions, small, to be wrapped and not to reproduce their results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from topdown import Site, TopDownLatch
from topdown.adapters import CallableBackbone, HookedBackbone

SIZES = {"text": 20, "audio": 5, "visual": 7}
Sequence = tuple[Tensor, Tensor]


class Subnet(nn.Module):
    """Returns the last state of an LSTM."""

    def __init__(self, features: int, size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, size, batch_first=True)

    def forward(self, sequence: Sequence) -> Tensor:
        """Returns states of shape (B, size)."""
        values, lengths = sequence
        packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        state: Tensor = self.lstm(packed)[1][0][0]
        return state


class Multitask(nn.Module):
    """Predicts from all modalities and, as further tasks, from each alone."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.subnets = nn.ModuleDict({name: Subnet(features, size) for name, features in SIZES.items()})
        self.joint = nn.Sequential(nn.Linear(3 * size, size), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(size, 1) for name in ("all", *SIZES)})

    def forward(self, text: Sequence, audio: Sequence, visual: Sequence) -> dict[str, Tensor]:
        """Returns predictions M, and vectors and predictions of each modality."""
        sequences = {"text": text, "audio": audio, "visual": visual}
        features = {name: net(sequences[name]) for name, net in self.subnets.items()}
        return self.outputs(features)

    def outputs(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Computes all outputs from the vectors of the modalities."""
        joint = self.joint(torch.cat([*features.values()], dim=-1))
        results = {"M": self.heads["all"](joint), "Feature_all": joint}
        for name, feature in features.items():
            results |= {f"Feature_{name}": feature, name: self.heads[name](feature)}
        return results


class Condensing(nn.Module):
    """A transformer per modality, which leaves eight tokens, and one over all tokens."""

    def __init__(self, size: int = 16, tokens: int = 8) -> None:
        super().__init__()

        def layer() -> nn.Module:
            return nn.TransformerEncoderLayer(size, 2, 32, dropout=0.0, batch_first=True)

        self.queries = nn.Parameter(torch.randn(tokens, size))
        self.projections = nn.ModuleDict({name: nn.Linear(features, size) for name, features in SIZES.items()})
        self.embeddings = nn.ModuleDict({name: layer() for name in SIZES})
        self.condensed = nn.ModuleDict({name: nn.Identity() for name in SIZES})
        self.fusion, self.head = layer(), nn.Linear(size, 1)

    def forward(self, text: Tensor, audio: Tensor, visual: Tensor) -> Tensor:
        """Returns predictions of shape (B, 1)."""
        tokens = []
        for name, sequence in (("text", text), ("audio", audio), ("visual", visual)):
            queries = self.queries.expand(len(sequence), -1, -1)
            states = self.embeddings[name](torch.cat([queries, self.projections[name](sequence)], dim=1))
            tokens.append(self.condensed[name](states[:, : queries.shape[1]]))
        prediction: Tensor = self.head(self.fusion(torch.cat(tokens, dim=1)).mean(1))
        return prediction


def encode(model: Multitask, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encodes with the tuples that the model takes."""
    return {name: net((inputs[name], lengths[name])) for name, net in model.subnets.items()}


def main() -> None:
    """Wraps both models."""
    torch.manual_seed(0)
    inputs: dict[str, Any] = {name: torch.randn(4, 12, features) for name, features in SIZES.items()}
    lengths = dict.fromkeys(SIZES, torch.tensor([12, 9, 5, 12]))

    multitask = Multitask()
    latch = TopDownLatch(CallableBackbone(multitask, encode=encode, fuse=Multitask.outputs))
    output = latch(inputs, lengths)
    plain = multitask(*((inputs[name], lengths[name]) for name in SIZES))
    same = all(torch.equal(output[name], value) for name, value in plain.items())
    print(f"multitask: returns {list(output)}, and begins as the model: {same}")
    print(f"  masks { ({name: tuple(mask.shape) for name, mask in latch.masks(inputs, lengths).items()}) }")

    condensing = Condensing()
    hooked = TopDownLatch(
        HookedBackbone(condensing, {name: f"condensed.{name}" for name in SIZES}),
        sites={name: Site(f"projections.{name}", at="input") for name in SIZES},
        align="interpolate",  # from eight tokens to the steps of the input
    )
    print(f"condensing: begins as the model: {torch.equal(hooked(**inputs), condensing(**inputs))}")
    print(f"  masks { ({name: tuple(mask.shape) for name, mask in hooked.masks(**inputs).items()}) }")


if __name__ == "__main__":
    main()
