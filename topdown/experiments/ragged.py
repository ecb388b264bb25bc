"""Sequences of different length, without padding: in memory, or in a file that is larger than memory."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MappedArray(NamedTuple):
    """Rows of little-endian float32 in a file, mapped into memory only while they are copied out.

    A mapping that stayed would keep every page that was ever read in the memory of the process. This holds a path, so it costs
    nothing to send to a worker.

    Args:
        path: The file.
        shape: Rows and columns.
        start: Bytes before the first value.
    """

    path: Path
    shape: tuple[int, int]
    start: int

    def take(self, rows: Tensor) -> Tensor:
        """Copies rows, given by their numbers, into memory."""
        mapped = np.memmap(self.path, "<f4", "r", self.start, self.shape)
        return torch.from_numpy(np.asarray(mapped).take(rows.numpy(), axis=0).astype(np.float32, copy=False))


class Ragged(NamedTuple):
    """The sequences of one modality, as runs of rows.

    Args:
        values: All rows, of shape (R, D).
        starts: The first row of each sequence, of shape (N,).
        lengths: The number of steps of each sequence, of shape (N,).
    """

    values: Tensor | MappedArray
    starts: Tensor
    lengths: Tensor

    @classmethod
    def packed(cls, values: Tensor | MappedArray, lengths: Tensor) -> Ragged:
        """Takes sequences that stand end to end."""
        return cls(values, lengths.cumsum(0) - lengths, lengths)

    @property
    def size(self) -> int:
        """The features D."""
        return self.values.shape[1]

    def rows(self, index: int) -> Tensor:
        """Returns one sequence, of shape (T, D)."""
        start, length = int(self.starts[index]), int(self.lengths[index])
        if isinstance(self.values, Tensor):
            return self.values[start : start + length]
        return self.values.take(torch.arange(start, start + length))

    def all_rows(self) -> Tensor:
        """Returns all sequences end to end, of shape (sum of T, D), in memory."""
        ends = self.lengths.cumsum(0)
        within = torch.arange(int(ends[-1]) if len(ends) else 0) - (ends - self.lengths).repeat_interleave(self.lengths)
        return self._take(self.starts.repeat_interleave(self.lengths) + within)

    def subset(self, indices: Tensor) -> Ragged:
        """Returns some of the sequences, of the same rows: nothing is copied."""
        return Ragged(self.values, self.starts[indices], self.lengths[indices])

    def pad(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns some sequences as one batch (B, T, D), padded on the right with zeros, and their lengths (B,)."""
        starts, lengths = self.starts[indices], self.lengths[indices]
        time = torch.arange(int(lengths.max()))
        rows = torch.minimum(starts.unsqueeze(1) + time, (starts + lengths - 1).unsqueeze(1))
        padded = self._take(rows.flatten()).view(len(indices), len(time), -1)
        return padded.masked_fill_((time >= lengths.unsqueeze(1)).unsqueeze(-1), 0.0), lengths

    def _take(self, rows: Tensor) -> Tensor:
        return self.values[rows] if isinstance(self.values, Tensor) else self.values.take(rows)
