"""Implements the convolutional backbone of compare_kinds.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topdown.sequence import lengths_of, valid_steps


class Picture(nn.Module):
    """Three convolutions over a square picture, which is one vector, each followed by the largest of four neighbours."""

    def __init__(self, pixels: int, size: int, dropout: float) -> None:
        super().__init__()
        self.side, channels = math.isqrt(pixels), (1, size // 4, size // 2, size)
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in zip(channels, channels[1:], (5, 3, 3), strict=False):
            layers += [nn.Conv2d(inputs, outputs, kernel, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(size * (self.side // 8) ** 2, size), nn.ReLU()
        )

    def forward(self, pictures: Tensor) -> Tensor:
        """Returns encodings of shape (B, T, size) of pictures (B, T, pixels)."""
        encodings: Tensor = self.layers(pictures.reshape(-1, 1, self.side, self.side))
        return encodings.view(*pictures.shape[:2], -1)


class OverTime(nn.Conv1d):
    """A convolution over time."""

    def forward(self, sequence: Tensor) -> Tensor:
        """Returns encodings of shape (B, T, size) of a sequence (B, T, features)."""
        return torch.relu(super().forward(sequence.transpose(1, 2))).transpose(1, 2)


class Convolutional(nn.Module):
    """One convolution per modality, or three for a picture, mean and standard deviation over time, and a layer that fuses them.

    With `linear_path` encodings hold the inputs beside what the convolution makes of them, and a linear map of all that was
    pooled is added to the output: the linear model is then a part of this one.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        *,
        size: int,
        kernel: int,
        dropout: float,
        linear_path: bool,
        outputs: int,
        picture: str | None = None,
    ) -> None:
        super().__init__()
        self.input_sizes = dict(sizes)
        self.encoding_sizes = {k: size + d if linear_path else size for k, d in sizes.items()}
        self.encoders = nn.ModuleDict(
            {
                k: Picture(d, size, dropout) if k == picture else OverTime(d, size, kernel, padding="same")
                for k, d in sizes.items()
            }
        )
        pooled = 2 * sum(self.encoding_sizes.values())
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(pooled, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, outputs)
        )
        self.linear = nn.Linear(pooled, outputs) if linear_path else None

    def encode(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T_k, encoding_sizes[k])."""
        seen: dict[str, Tensor] = {k: encoder(inputs[k]) for k, encoder in self.encoders.items()}
        return seen if self.linear is None else {k: torch.cat([r, inputs[k]], dim=-1) for k, r in seen.items()}

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Returns outputs of shape (B, outputs)."""
        pooled = []
        for k, r in encodings.items():
            steps = lengths_of(lengths, k)
            weight = torch.ones(r.shape[:2]) if steps is None else valid_steps(steps, r.shape[1]).to(r.dtype)
            weight = (weight / weight.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
            mean = (r * weight).sum(1)
            variance = ((r - mean.unsqueeze(1)).square() * weight).sum(1)
            pooled += [mean, (variance + 1e-6).sqrt()]
        features = torch.cat(pooled, dim=-1)
        output: Tensor = self.head(features)
        return output if self.linear is None else output + self.linear(features)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Predicts."""
        return self.fuse(self.encode(inputs, lengths), lengths)


def build(sizes: Mapping[str, int], factor: float = 1.0, *, size: int, **setting: Any) -> nn.Module:
    """Makes a backbone, wider by a factor."""
    return Convolutional(sizes, size=round(size * factor), **setting)
