"""Draws a random split of samples into training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.raw_samples import Array

NAMES = ("train", "valid", "test")


def draw_split(shares: Sequence[float], seed: int, labels: Array | None) -> list[str]:
    """Draws the split of each sample.

    Args:
        shares: Share of train, valid and test, or of train and valid, which add up to 1.
        seed: Random seed.
        labels: Labels of shape (N,), or (N, K). Classes, which are integers of shape (N,), have the same shares in each split.

    Raises:
        DataError: if there are no labels, or the shares are not two or three that add up to 1.

    Example:
        >>> labels = np.array([0, 1] * 10)
        >>> splits = draw_split((0.5, 0.25, 0.25), 0, labels)
        >>> [[split for split, y in zip(splits, labels) if y == c].count("train") for c in (0, 1)]
        [5, 5]
    """
    if len(shares) not in (2, 3) or not (min(shares) > 0 and abs(sum(shares) - 1) <= 1e-6):
        remedy = "give the shares of train, valid and test, which add up to 1, as in 0.7 0.15 0.15"
        raise DataError(f"split={tuple(shares)}: {remedy}; or of train and valid, as in 0.8 0.2")
    if labels is None:
        raise DataError("a split is drawn of samples with labels; add a table 'labels'")
    classes = labels if labels.ndim == 1 and labels.dtype.kind == "i" else np.zeros(len(labels), np.int64)
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(classes[order], kind="stable")]  # class by class, each in random order
    # The samples of each class are spread evenly between 0 and 1, so that each split gets its share of every class.
    position = np.empty(len(labels))
    for c in np.unique(classes):
        members = order[classes[order] == c]
        position[members] = (np.arange(len(members)) + 0.5) / len(members)
    ends = np.cumsum(shares)[:-1]
    splits = [NAMES[int(np.searchsorted(ends, p, side="right"))] for p in position]
    if empty := [name for name in NAMES[: len(shares)] if name not in splits]:
        raise DataError(f"split={tuple(shares)}: {len(labels)} samples are too few, {empty[0]} would have none")
    return splits
