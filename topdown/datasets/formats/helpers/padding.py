"""Finds and removes padding in padded arrays.

Padding is zero rows, at the start or at the end. Files do not say which, so most samples decide. Rows of zeros at the other end
are data, and are counted. Lengths that a file states are hints: the longer of hint and rows counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.raw_samples import Array, Stream

Side = Literal["left", "right"]
CHUNK = 256  # samples that are read together, to save memory


class Rows(NamedTuple):
    """Which rows of each sample are not zero: the first of them and the one after the last, of shape (N,); 0, 0 if none is."""

    first: Array
    stop: Array
    steps: int


def check_array(array: Any, where: str) -> Array:
    """Checks that something is an array (N, T, D) of numbers.

    Raises:
        DataError: if it is not.
    """
    if not isinstance(array, np.ndarray):
        raise DataError(f"{where} is missing or is a {type(array).__name__}; expected numbers of shape (N, T, D)")
    if array.ndim != 3 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise DataError(f"{where} has shape {array.shape} of {array.dtype}; expected numbers of shape (N, T, D)")
    return array


def find_rows(arrays: Mapping[str, Array]) -> Rows:
    """Finds the rows in which any of some arrays (N, T, D_k) is not zero; nan and inf are not zero."""
    count, steps = next(iter(arrays.values())).shape[:2]
    first, stop = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        filled = np.logical_or.reduce([(array[part] != 0).any(-1) for array in arrays.values()])
        some = filled.any(1)
        first[part] = np.where(some, filled.argmax(1), 0)
        stop[part] = np.where(some, steps - filled[:, ::-1].argmax(1), 0)
    return Rows(first, stop, steps)


def find_side(rows: list[Rows], usual: Side) -> Side | None:
    """Finds on which side the samples of all splits are padded: where more of them have zero rows; the usual side on a tie.

    Returns:
        None if no sample begins or ends with a zero row.
    """
    at_start = sum(int((r.first > 0).sum()) for r in rows)
    at_end = sum(int(((r.stop < r.steps) & (r.stop > 0)).sum()) for r in rows)
    if at_start == at_end:
        return usual if at_start else None
    return "left" if at_start > at_end else "right"


class Cut(NamedTuple):
    """Steps of each sample to keep, [first, stop), of shape (N,) each, and entries of the report about them."""

    first: Array
    stop: Array
    report: dict[str, Any]


def cut_padding(rows: Rows, side: Side | None, hints: Array | None = None) -> Cut:
    """Returns the steps of each sample without its padding.

    Args:
        rows: Rows that are not zero.
        side: Side of the padding.
        hints: Lengths that the file states, of shape (N,): zero rows within them are data. A hint that is smaller than what
            the rows say, or larger than there are steps, is counted as a contradiction, and ignored.
    """
    lengths = rows.steps - rows.first if side == "left" else rows.stop
    lengths = np.where(rows.stop > 0, lengths, 0) if side else np.where(rows.stop > 0, rows.steps, 0)
    report: dict[str, Any] = {"padding": side or "none", "lengths_from": "zero rows"}
    if hints is not None:
        usable = np.where((hints >= 0) & (hints <= rows.steps), hints, 0)
        report["lengths_from"] = "zero rows and the lengths in the file, whichever is longer"
        report["contradicted_hints"] = int((hints != lengths).sum())
        lengths = np.maximum(lengths, usable)
    first = rows.steps - lengths if side == "left" else np.zeros_like(lengths)
    some = rows.stop > 0
    at_start, at_end = int((some & (rows.first > first)).sum()), int((some & (rows.stop < first + lengths)).sum())
    report |= {"samples_with_zeros_at_the_start": at_start, "samples_with_zeros_at_the_end": at_end}
    return Cut(first, first + lengths, report)


def stream(array: Array, cut: Cut) -> Stream:
    """Returns a stream of the steps without padding."""
    report = {"steps": array.shape[1], "dtype": str(array.dtype), **cut.report}
    return Stream(array.shape[2], cut.stop - cut.first, _steps(array, cut), report)


def _steps(array: Array, cut: Cut) -> Iterator[Array]:
    for sample, first, stop in zip(array, cut.first, cut.stop, strict=True):
        yield sample[first:stop]
