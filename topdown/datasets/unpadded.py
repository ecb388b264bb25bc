"""Stores variable-length sequences without padding, in memory or in a memory-mapped file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.errors import DataError
from topdown.datasets.precision import Array, dtype_for


class MappedArray(NamedTuple):
    """Rows of little-endian numbers in a file, mapped into memory only while they are copied out.

    A permanent mapping would keep every page that was read in the memory of the process. This holds a path, so it costs nothing
    to send to a worker.

    Args:
        path: File.
        shape: Rows and columns; rows alone for ids of tokens.
        start: Bytes before the first value.
        changed: Time of the last change of the file, and its size; neither may differ when values are read.
        dtype: Type of the numbers. (Default: float32)
        shift: Numbers that are subtracted from the columns, of shape (D,), as values are read. (Default: 0)
        scale: Numbers by which the columns are then divided, of shape (D,). (Default: 1)
    """

    path: Path
    shape: tuple[int, ...]
    start: int
    changed: tuple[int, int]
    dtype: str = "<f4"
    shift: Tensor | None = None
    scale: Tensor | None = None

    @classmethod
    def of(cls, path: Path, shape: tuple[int, ...], start: int, dtype: str = "<f4") -> MappedArray:
        """Opens a file in its present state."""
        return cls(path, shape, start, _changed(path), dtype)

    def take(self, rows: Tensor) -> Tensor:
        """Copies rows, given by their indices, into memory.

        Raises:
            DataError: if the file is gone, or has changed.
        """
        try:
            same = _changed(self.path) == self.changed
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read any more ({error.strerror}); open the store again") from None
        if not same:
            raise DataError(f"{self.path}: has changed since the store was opened; open it again")
        taken = np.asarray(self._mapped()).take(rows.numpy(), axis=0)
        values = torch.from_numpy(taken.astype(taken.dtype.newbyteorder("="), copy=False))
        return values if self.shift is None or self.scale is None else standardize(values, self.shift, self.scale)

    def column(self, index: int) -> Array:
        """Copies one column, as it is in the file, into memory."""
        column: Array = np.asarray(self._mapped()[:, index])
        return column

    def _mapped(self) -> Array:
        return np.memmap(self.path, self.dtype, "r", self.start, self.shape)


def standardize(values: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Computes (values - shift) / scale in float32, or in float64 where float32 would round the shift; returns float32.

    Example:
        >>> shift, scale = torch.tensor([1.7e9 + 1], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
        >>> standardize(torch.tensor([[1.7e9], [1.7e9 + 2]], dtype=torch.float64), shift, scale).flatten()
        tensor([-1.,  1.])
    """
    dtype = dtype_for(shift, scale)
    return ((values.to(dtype) - shift.to(dtype)) / scale.to(dtype)).float()


def _changed(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


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
        """Makes it of sequences that are stored end to end."""
        return cls(values, lengths.cumsum(0) - lengths, lengths)

    @property
    def size(self) -> int:
        """Number of features D; 1 for ids of tokens."""
        return self.values.shape[1] if len(self.values.shape) == 2 else 1

    @property
    def are_tokens(self) -> bool:
        """Whether values are ids of tokens, of shape (R,)."""
        return len(self.values.shape) == 1

    def rows(self, index: int) -> Tensor:
        """Returns one sequence, of shape (T, D)."""
        start, length = int(self.starts[index]), int(self.lengths[index])
        if isinstance(self.values, Tensor):
            return in_float32(self.values[start : start + length])
        return in_float32(self.values.take(torch.arange(start, start + length, device="cpu")))

    def all_rows(self) -> Tensor:
        """Returns all sequences end to end, of shape (sum of T, D), in memory, in their stored type."""
        ends = self.lengths.cumsum(0)
        within = torch.arange(int(ends[-1]) if len(ends) else 0, device="cpu") - (ends - self.lengths).repeat_interleave(
            self.lengths
        )
        return self._take(self.starts.repeat_interleave(self.lengths) + within)

    def scaled(self, shift: Tensor, scale: Tensor) -> Ragged:
        """Returns sequences minus a shift (D,), divided by a scale (D,): a copy in memory; for a file, when they are read."""
        if isinstance(self.values, Tensor):
            return self._replace(values=standardize(self.values, shift, scale))
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
        if not self.values.shape[0]:  # the modality is absent in every sample
            shape, dtype = (len(indices), steps, *self.values.shape[1:]), torch.int64 if self.are_tokens else torch.float32
            return torch.zeros(shape, dtype=dtype, device="cpu")
        rows = torch.minimum(starts.unsqueeze(1) + time, (starts + lengths - 1).clamp(min=0).unsqueeze(1))
        padded = in_float32(self._take(rows.flatten())).view(len(indices), steps, *self.values.shape[1:])
        beyond = time >= lengths.unsqueeze(1)
        return padded.masked_fill_(beyond if self.are_tokens else beyond.unsqueeze(-1), 0)

    def _take(self, rows: Tensor) -> Tensor:
        return self.values[rows] if isinstance(self.values, Tensor) else self.values.take(rows)


def in_float32(values: Tensor) -> Tensor:
    """Returns floating-point values in float32; ids of tokens as they are."""
    return values.float() if values.is_floating_point() else values
