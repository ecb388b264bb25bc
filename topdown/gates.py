r"""A harmless start: gates that keep all masks at 1/2 until training opens them.

.. math:: f = \sigma\bigl(g \odot (h + 1)\bigr), \qquad g = 0 \text{ at the start}

The 1 lets gates learn from logits that are zero everywhere, too, of which nothing else would ever come.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from topdown.naming import ModalityDict

LARGEST = 30.0  # a logit beyond which the sigmoid is 1 in float32; infinity times a gate of 0 would be nan


class Gate(nn.Module):
    """Multiplies logits by what is learned, and is 0 at the start.

    Args:
        size: Features D_k of the target, each of which has its own; None for one number.

    Example:
        >>> Gate(2)(torch.tensor([[torch.inf, -3.0]]))
        tensor([[0., -0.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, size: int | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(() if size is None else (size,)))

    def forward(self, logits: Tensor) -> Tensor:
        """Returns logits of shape (B, T, D_k) or (B, D_k), gated."""
        return self.weight * (logits.clamp(-LARGEST, LARGEST) + 1.0)


class Gates(nn.Module):
    """Holds a gate for each pair of target and source, or one for all of a feedback whose targets are not known.

    Args:
        target_sizes: Features D_k of each target; None where they are not known.
        sources: Sources of each target.

    Example:
        >>> Gates({"a": 2}, {"a": ["b"]})({"a": {"b": torch.ones(1, 2)}})["a"]["b"]
        tensor([[0., 0.]], grad_fn=<MulBackward0>)
    """

    def __init__(
        self, target_sizes: Mapping[str, int] | None = None, sources: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__()
        sizes, pairs = target_sizes or {}, sources or {}
        self.by_pair = ModalityDict({k: ModalityDict({j: Gate(sizes[k]) for j in names}) for k, names in pairs.items()})
        self.for_all = None if pairs else Gate(None)

    def forward(self, logits: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """Returns {target: {source: logits}}, gated."""
        gates = {(k, j): self.for_all or self.by_pair[k][j] for k in logits for j in logits[k]}
        return {k: {j: gates[k, j](h) for j, h in by_source.items()} for k, by_source in logits.items()}
