"""Cleans the values of one modality, some rows at a time.

Values that are not finite in float32 become 0, or, where the source marks gaps with nan, gaps become the mean of their feature
over the training samples. Both are counted. Values stay in float64 where float32 would lose digits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.precision import Precision, distinct

Array = np.ndarray[Any, Any]
KINDS = ("nan", "+inf", "-inf", "beyond float32")


class Training(NamedTuple):
    """Holds the statistics of the training samples that other splits need.

    Args:
        exact: Modalities whose values stay in float64.
        mean: Function from a modality to the mean of each feature, which fills gaps.
    """

    exact: Collection[str]
    mean: Callable[[str], Array]


class Cleaner:
    """Cleans rows as they are read, and fills gaps after the last row.

    Args:
        size: Number of features D.
        fills: Whether nan is a gap, which gets the mean of its feature, and not 0. (Default: False)
        exact: Whether float64 stays float64 in any case, as that of another split does. (Default: False)
        mean: Function that returns the mean of each feature over the training samples. (Default: over the cleaned samples)

    Example:
        >>> cleaner = Cleaner(1, fills=True)
        >>> rows = np.concatenate([cleaner.clean(np.array([[1.0], [np.nan]]), 0), cleaner.clean(np.array([[3.0]]), 1)])
        >>> cleaner.fill(rows)
        >>> rows.tolist(), cleaner.dtype(rows.dtype)
        ([[1.0], [2.0], [3.0]], dtype('float32'))
    """

    def __init__(self, size: int, *, fills: bool = False, exact: bool = False, mean: Callable[[], Array] | None = None) -> None:
        self.fills, self.exact, self.mean = fills, exact, mean
        self.counts = dict.fromkeys(KINDS, 0)
        self.first: int | None = None  # sample with a value that was replaced
        self.usable = np.zeros(size, bool)  # features that are finite anywhere
        self.zeros, self.row, self.rounding = 0, 0, Precision(size)
        self.only = np.full(size, np.nan)  # the value of each feature that is constant so far
        self.changes = np.zeros(size, bool)  # features with two values
        self.gaps: list[Array] = []  # pairs of row and feature, (G, 2)
        self.filled = 0

    def clean(self, array: Array, sample: int) -> Array:
        """Returns rows (T, D) with 0 in gaps and for values that are not finite, in float32 if their type fits, or float64."""
        clean = np.array(array, dtype=np.float32 if np.can_cast(array.dtype, np.float32) else np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(clean.astype(np.float32, copy=False))
        self.usable |= finite.any(0)
        self._compare(clean, finite)
        if not finite.all():
            gaps = np.isnan(clean) if self.fills else np.zeros_like(finite)
            self.gaps += [np.add(np.argwhere(gaps), [self.row, 0])] if gaps.any() else []
            self._count(array[~finite & ~gaps], sample)
            clean[~finite] = 0.0
        self.row += len(clean)
        self.rounding.add(clean, finite)
        self.zeros += not clean.any()
        return clean

    def _compare(self, rows: Array, finite: Array) -> None:
        """Records which features have two values; it skips those that already have two."""
        if len(same := np.flatnonzero(~self.changes)) and len(rows):
            rows, finite = rows[:, same], finite[:, same]
            new = finite.any(0) & np.isnan(self.only[same])
            self.only[same[new]] = rows[finite.argmax(0), np.arange(len(same))][new]
            self.changes[same] = (finite & (rows != self.only[same])).any(0)

    def _count(self, wrong: Array, sample: int) -> None:
        if len(wrong) and self.first is None:
            self.first = sample
        count_kinds(wrong, self.counts)

    def dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Returns the type in which to store the values, once all rows are cleaned."""
        narrow = dtype == np.float64 and not (self.exact or self.rounding.needs_float64())
        return np.dtype(np.float32) if narrow else dtype

    def fill(self, values: Array) -> None:
        """Fills gaps of all values (R, D), in place."""
        if self.gaps:
            rows, features = np.concatenate(self.gaps).T
            for feature in np.unique(features):
                at = rows[features == feature]
                if not self.usable[feature] and self.mean is None:  # it has no mean
                    self._count(np.full(len(at), np.nan), 0)
                    continue
                self.filled += len(at)
                count = values.shape[0] - len(at)
                mean = values[:, feature].sum(dtype=np.float64) / max(1, count)
                values[at, feature] = mean if self.mean is None else self.mean()[feature]

    def report(self, column: Callable[[int], Array]) -> dict[str, Any]:
        """Returns entries for the report.

        Args:
            column: Function that returns the values of a feature.
        """
        entries: dict[str, Any] = {"replaced": dict(self.counts)}
        entries |= {"first_replaced": self.first} if self.first is not None else {}
        entries |= {"filled": self.filled} if self.filled else {}
        if self.row > 1 and len(constant := np.flatnonzero(~self.changes & self.usable)):
            entries["constant"] = {"features": len(constant), "first": int(constant[0])}
        if len(lost := np.flatnonzero(self.rounding.lost())):
            entries["rounded"] = {"features": len(lost), "first": int(lost[0]), "distinct": distinct(column(int(lost[0])))}
        return entries


def count_kinds(wrong: Array, counts: dict[str, int]) -> None:
    """Counts values that are not finite in float32, by kind."""
    counts["nan"] += int(np.isnan(wrong).sum())
    counts["+inf"] += int(np.isposinf(wrong).sum())
    counts["-inf"] += int(np.isneginf(wrong).sum())
    counts["beyond float32"] += int(np.isfinite(wrong).sum())
