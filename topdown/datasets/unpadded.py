"""Sequences of different lengths without padding, in memory or in a memory-mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.errors import DataError


class MappedArray(NamedTuple):
    """Rows of little-endian float32 in a file, mapped into memory only while they are copied out.

    A mapping that stayed would keep every page that was ever read in the memory of the process. This holds a path, so it costs
    nothing to send to a worker.

    Args:
        path: File.
        shape: Rows and columns.
        start: Bytes before the first value.
        changed: When the file was changed last, and its size; neither may differ when values are asked for.
        shift: What is taken from each column, of shape (D,), as values are read. (Default: nothing)
        scale: What each column is divided by then. (Default: 1)
    """

    path: Path
    shape: tuple[int, int]
    start: int
    changed: tuple[int, int]
    shift: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def of(cls, path: Path, shape: tuple[int, int], start: int) -> MappedArray:
        """Opens a file in its present state."""
        return cls(path, shape, start, _changed(path))

    def take(self, rows: Tensor) -> Tensor:
        """Copies rows, given by their indices, into memory.

        Raises:
            DataError: if the file is not there any more, or is another.
        """
        try:
            same = _changed(self.path) == self.changed
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror}); open the store again") from None
        if not same:
            raise DataError(f"{self.path}: has changed since the store was opened; open it again")
        mapped = np.memmap(self.path, "<f4", "r", self.start, self.shape)
        values = torch.from_numpy(np.asarray(mapped).take(rows.numpy(), axis=0).astype(np.float32, copy=False))
        return values if self.shift is None or self.scale is None else (values - self.shift) / self.scale


def _changed(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


class Ragged(NamedTuple):
    """Holds the sequences of one modality, end to end.

    Args:
        values: All rows, of shape (R, D).
        starts: First row of each sequence, of shape (N,).
        lengths: Number of steps of each sequence, of shape (N,).
    """

    values: Tensor | MappedArray
    starts: Tensor
    lengths: Tensor

    @classmethod
    def packed(cls, values: Tensor | MappedArray, lengths: Tensor) -> Ragged:
        """Makes it of sequences that stand end to end."""
        return cls(values, lengths.cumsum(0) - lengths, lengths)

    @property
    def size(self) -> int:
        """Number of features D."""
        return self.values.shape[1]

    def rows(self, index: int) -> Tensor:
        """Returns one sequence, of shape (T, D)."""
        start, length = int(self.starts[index]), int(self.lengths[index])
        if isinstance(self.values, Tensor):
            return self.values[start : start + length]
        return self.values.take(torch.arange(start, start + length, device="cpu"))

    def all_rows(self) -> Tensor:
        """Returns all sequences end to end, of shape (sum of T, D), in memory."""
        ends = self.lengths.cumsum(0)
        within = torch.arange(int(ends[-1]) if len(ends) else 0, device="cpu") - (ends - self.lengths).repeat_interleave(
            self.lengths
        )
        return self._take(self.starts.repeat_interleave(self.lengths) + within)

    def scaled(self, shift: Tensor, scale: Tensor) -> Ragged:
        """Returns sequences minus a shift (D,), divided by a scale (D,): a copy in memory; for a file, when they are read."""
        if isinstance(self.values, Tensor):
            return self._replace(values=(self.values - shift) / scale)
        values = self.values
        if values.shift is not None and values.scale is not None:
            shift, scale = values.shift + shift * values.scale, values.scale * scale
        return self._replace(values=values._replace(shift=shift, scale=scale))

    def subset(self, indices: Tensor) -> Ragged:
        """Returns some of the sequences. Nothing is copied."""
        return Ragged(self.values, self.starts[indices], self.lengths[indices])

    def pad(self, indices: Tensor, steps: int) -> Tensor:
        """Returns some sequences as one batch (B, steps, D), padded on the right with zeros."""
        starts, lengths = self.starts[indices], self.lengths[indices]
        time = torch.arange(steps, device="cpu")
        if not self.values.shape[0]:  # every sample lacks the modality
            return torch.zeros(len(indices), steps, self.size, device="cpu")
        rows = torch.minimum(starts.unsqueeze(1) + time, (starts + lengths - 1).clamp(min=0).unsqueeze(1))
        padded = self._take(rows.flatten()).view(len(indices), steps, -1)
        return padded.masked_fill_((time >= lengths.unsqueeze(1)).unsqueeze(-1), 0.0)

    def _take(self, rows: Tensor) -> Tensor:
        return self.values[rows] if isinstance(self.values, Tensor) else self.values.take(rows)
