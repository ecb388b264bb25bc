"""Base class of backbones that wrap another backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from topdown.backbone import check_backbone, lengths_keyword, takes_lengths, user_model
from topdown.sequence import Lengths


class WrappedBackbone(nn.Module):
    """Base class: wraps a backbone, and passes lengths to its `encode` and `fuse` if they take them.

    Args:
        backbone: Module with `encode` and `fuse`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        check_backbone(backbone)
        self.backbone: Any = backbone
        self._takes = takes_lengths(backbone.encode), takes_lengths(backbone.fuse)
        self.uses_lengths = getattr(backbone, "uses_lengths", self._takes != ("never", "never"))

    @property
    def user_model(self) -> nn.Module:
        """The model to which the paths of sites are relative."""
        return user_model(self.backbone)

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Encodes as the backbone does."""
        return self.backbone.encode(inputs, **lengths_keyword(lengths, self._takes[0]))

    def fuse(self, encodings: Any, lengths: Lengths = None) -> Any:
        """Fuses as the backbone does."""
        return self.backbone.fuse(encodings, **lengths_keyword(lengths, self._takes[1]))

    def forward(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Encodes and fuses."""
        return self.fuse(self.encode(inputs, lengths), lengths)
