"""Wraps backbones for the diagnostic rows: see :mod:`topdown.comparison.diagnosis`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from topdown.adapters import FiLM, WithInputs, read_other_inputs
from topdown.adapters.film import pooled
from topdown.adapters.with_inputs import MoreSources
from topdown.adapters.wrapped import WrappedBackbone
from topdown.datasets.batch import Batch
from topdown.sequence import Lengths, lengths_of
from topdown.training.prediction import evaluation_mode


class WithAverages(MoreSources):
    """Wraps a backbone, and returns averages over time beside the encodings, as "average audio" and so on."""

    def more(self, inputs: Mapping[str, Any], lengths: Lengths, encoded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the averages."""
        return {f"average {k}": pooled(r, lengths_of(lengths, k)) for k, r in encoded.items() if k in inputs}


def average_sources(names: Sequence[str]) -> dict[str, list[str]]:
    """Returns `sources=` of a latch in which each modality is masked by the averages of all others."""
    return {k: [f"average {j}" for j in names if j != k] or [f"average {k}"] for k in names}


def with_film(backbone: nn.Module, example: Batch) -> FiLM:
    """Wraps a backbone in FiLM, of the sizes that its encodings have for an example.

    Raises:
        ValueError: if it has fewer than two encodings.
    """
    with torch.no_grad(), evaluation_mode(backbone):
        encoded = WrappedBackbone(backbone).encode(example.inputs, example.lengths)
    return FiLM(backbone, {k: r.shape[-1] for k, r in encoded.items() if k in example.inputs})


def reading(backbone: nn.Module, form: str, names: Sequence[str]) -> tuple[nn.Module, dict[str, list[str]]]:
    """Returns a backbone with more sources, "inputs" or "averages", and `sources=` of a latch that reads these alone."""
    if form == "inputs":
        return WithInputs(backbone, only=True), read_other_inputs(names)
    return WithAverages(backbone), average_sources(names)
