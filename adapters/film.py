"""Implements FiLM fusion, a control for feedback."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topdown.adapters.inputs import zero_absent
from topdown.adapters.wrapped import WrappedBackbone
from topdown.feedback import ModalityDict
from topdown.masking import pool_mask, replaced
from topdown.sequence import Lengths, Padded, lengths_of


class FiLM(WrappedBackbone):
    r"""Wraps a backbone so that the other encodings, averaged over time, scale and shift each encoding.

    .. math:: r_k' = (1 + \gamma_k) \odot r_k + \beta_k, \qquad (\gamma_k, \beta_k) = W_k [\bar r_j]_{j \ne k} + b_k

    W and b begin at 0, so that the model begins as the backbone.

    References:
        FiLM: Visual Reasoning with a General Conditioning Layer (Perez et al., 2018)

    Args:
        backbone: Module with `encode` and `fuse`, whose encodings are tensors (B, T, d) or (B, d).
        sizes: Size d of each encoding.

    Raises:
        ValueError: if there are fewer than two encodings.

    Example:
        >>> from topdown.adapters import LSTMBackbone
        >>> backbone = LSTMBackbone({"a": 3, "b": 2}, hidden_size=4).eval()
        >>> film = FiLM(backbone, backbone.encoding_sizes).eval()
        >>> inputs = {"a": torch.ones(1, 5, 3), "b": torch.ones(1, 5, 2)}
        >>> torch.equal(film(inputs), backbone(inputs))
        True
    """

    def __init__(self, backbone: nn.Module, sizes: Mapping[str, int]) -> None:
        super().__init__(backbone)
        if len(sizes) < 2:
            raise ValueError(f"FiLM needs two encodings at least, got {list(sizes)}")
        self.sizes, total = dict(sizes), sum(sizes.values())
        self.maps = ModalityDict({k: nn.Linear(total - size, 2 * size) for k, size in sizes.items()})
        for parameter in self.maps.parameters():
            nn.init.zeros_(parameter)

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Encodes, and modulates each encoding by the others."""
        encoded = super().encode(inputs, lengths)
        averages = {k: pooled(encoded[k], lengths_of(lengths, k)) for k in self.sizes}
        changed = {}
        for k, size in self.sizes.items():
            others = torch.cat([averages[j] for j in self.sizes if j != k], dim=-1)
            r = encoded[k].values if isinstance(encoded[k], Padded) else encoded[k]
            gamma, beta = self.maps[k](others).view(len(others), *[1] * (r.dim() - 2), 2 * size).split(size, -1)
            r = torch.addcmul(r + beta, gamma, r)
            changed[k] = encoded[k]._replace(values=r) if isinstance(encoded[k], Padded) else r
        return replaced(encoded, changed)


def pooled(returned: Any, lengths: Tensor | None) -> Tensor:
    """Averages an encoding over its valid steps; returns (B, d), 0 where it is absent."""
    r, lengths = (returned.values, returned.lengths) if isinstance(returned, Padded) else (returned, lengths)
    if r.dim() == 2:
        return zero_absent(r, lengths)
    fits = lengths is not None and int(lengths.max()) <= r.shape[1]
    return pool_mask(r, lengths if fits else None).squeeze(1)
