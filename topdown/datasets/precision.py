"""Finds the features that float32 would round by more than a thousandth of their standard deviation.

Float32 has seven digits, too few to tell apart positions such as 5,334,000.1, or times in seconds. Such features
stay in float64 until they are standardized; all others are float32 from the beginning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]
LARGEST_ROUNDING = 1e-3  # in standard deviations
NO_FRACTION = 0.25  # how far float32 rounds values beyond 4 million


class Precision:
    """Measures how float32 rounds features, of which it sees some rows at a time.

    Args:
        size: Number of features D.

    Example:
        >>> rounding = Precision(2)
        >>> rounding.add(np.array([[1.7e9, 0.1], [1.7e9 + 1, 0.2], [1.7e9 + 2, 0.3]]))
        >>> rounding.lost().tolist()
        [True, False]
    """

    def __init__(self, size: int) -> None:
        self.count, self.start = np.zeros(size), np.zeros(size)
        self.error, self.total, self.squares = np.zeros(size), np.zeros(size), np.zeros(size)

    def add(self, rows: Array, valid: Array | None = None) -> None:
        """Adds rows (R, D) of float64, finite in float32; rows of float32 are rounded already.

        Args:
            rows: Rows.
            valid: Values that count, of shape (R, D). (Default: all)
        """
        if rows.dtype != np.float64 or not len(rows):
            return
        valid = np.ones(rows.shape, bool) if valid is None else valid
        # Squares of values far from zero would round their deviations: the first value of each feature is subtracted.
        new = (self.count == 0) & valid.any(0)
        self.start[new] = rows[valid.argmax(0), np.arange(rows.shape[1])][new]
        apart = np.where(valid, rows - self.start, 0.0)
        self.count, self.total = self.count + valid.sum(0), self.total + apart.sum(0)
        self.squares += (apart * apart).sum(0)
        self.error = np.maximum(self.error, np.abs(rows - rows.astype(np.float32)).max(0))

    def lost(self) -> Array:
        """Returns which features lose digits, of shape (D,)."""
        deviation = self._deviation()
        lost: Array = (deviation > 0) & (self.error > LARGEST_ROUNDING * deviation)
        return lost

    def needs_float64(self) -> bool:
        """Returns whether values must stay in float64: some lose digits, or their deviation cannot tell.

        It cannot tell where all values are the same, or so large that float32 has no fractions, as beside an outlier.
        """
        return bool(((self.error > LARGEST_ROUNDING * self._deviation()) | (self.error >= NO_FRACTION)).any())

    def _deviation(self) -> Array:
        count = np.maximum(1, self.count)
        deviation: Array = np.sqrt(np.maximum(self.squares / count - (self.total / count) ** 2, 0.0))
        return deviation


def dtype_for(mean: Tensor, deviation: Tensor) -> torch.dtype:
    """Returns float32, or float64 where it rounds values near a mean by more than a thousandth of the standard deviation."""
    lost = mean.abs() * (torch.finfo(torch.float32).eps / 2) > LARGEST_ROUNDING * deviation
    return torch.float64 if bool((lost & (deviation > 0)).any()) else torch.float32


def in_float(values: Array) -> Array:
    """Returns values (N,) or (N, D) in float32, or in float64 where float32 would lose digits.

    Example:
        >>> in_float(np.array([1.5, 2.5])).dtype, in_float(np.array([1_700_000_000, 1_700_000_001])).dtype
        (dtype('float32'), dtype('float64'))
    """
    rows = values.astype(np.float64).reshape(len(values), -1)
    rounding, valid = Precision(rows.shape[1]), np.isfinite(rows)
    rounding.add(np.where(valid, rows, 0.0), valid)
    exact = rounding.lost().any() or (rounding.error >= NO_FRACTION).any()
    return values.astype(np.float64 if exact else np.float32)


def distinct(values: Array) -> tuple[int, int]:
    """Returns the numbers of distinct values in float32, and in their type."""
    return len(np.unique(values.astype(np.float32))), len(np.unique(values))
