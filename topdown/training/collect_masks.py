"""Computes the masks of a latch for a whole data set, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from topdown.datasets.batch import Batch
from topdown.datasets.data import SequenceDataset
from topdown.latch import TopDownLatch
from topdown.training.protocol import device_of


def masks_of(
    latch: TopDownLatch, data: SequenceDataset, *, batch_size: int = 32, device: str | torch.device | None = None
) -> Iterator[tuple[Tensor, Batch, dict[str, Tensor]]]:
    """Yields the indices, the batch and the masks of batches of samples, in evaluation mode, once for each sample.

    Args:
        latch: Latch whose masks to make.
        data: Samples.
        batch_size: Samples of a batch, which are of similar length. (Default: 32)
        device: Device to compute on, to which the latch is moved. (Default: its own)
    """
    place = device_of(latch, device)
    latch.eval().to(place)
    for indices in data.batch_lengths().argsort(stable=True).split(batch_size):
        batch = data.batch(indices).to(place)
        with torch.inference_mode():
            masks = latch.masks(batch.inputs, batch.lengths)
        yield indices, batch, masks
