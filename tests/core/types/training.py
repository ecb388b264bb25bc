"""What a user's script gets from data sets and comparisons: mypy checks it, nothing runs it."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import assert_type

from topdown.comparison import compare
from topdown.datasets import SequenceDataset, data_loader
from topdown.datasets.batch import Batch


def build(sizes: dict[str, int], factor: float = 1.0) -> nn.Module:
    """Takes sizes as a dict, or as any mapping."""
    return nn.Linear(sizes["a"], round(factor))


def script(data: SequenceDataset, splits: dict[str, SequenceDataset]) -> None:
    """Uses them without a cast."""
    for batch in data_loader(data):
        assert_type(batch, Batch)
        assert_type(batch.inputs["a"], Tensor)
    compare(build, splits, widen=build)
