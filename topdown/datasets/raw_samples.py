"""Samples as a reader finds them in a file, and their cleaning.

:func:`clean_sequences` cleans them, and writes them to memory or to a store. It never holds more than one sample twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.errors import DataError
from topdown.datasets.precision import Precision, distinct
from topdown.datasets.unpadded import MappedArray, Ragged

Array = np.ndarray[Any, Any]
# Takes a name, the shape (R, D), and arrays (T_i, D) of one type with R rows together, and keeps them: those of float64 in
# float32, unless the function that is given last says, when all have been read, that this would lose digits.
Sink = Callable[[str, tuple[int, ...], Iterable[Array], Callable[[], bool]], "Tensor | MappedArray"]
KINDS = ("nan", "+inf", "-inf", "beyond float32")


class Stream(NamedTuple):
    """Holds one modality of a split.

    Args:
        size: Features D.
        lengths: Steps of each sample, of shape (N,); 0 where it has none.
        arrays: Arrays (T_i, D) of the samples, of any type of number, finite or not. They are asked for once.
        found: Entries of the report about this modality.
        tokens: Whether the arrays are (T_i,), ids of tokens, which stay integers. (Default: False)
    """

    size: int
    lengths: Array
    arrays: Iterable[Array]
    found: Mapping[str, Any]
    tokens: bool = False


class RawSplit(NamedTuple):
    """Holds one split as it is in the file.

    Args:
        labels: Labels of shape (N,), or (N, K) for K labels per sample; None where there are none.
        ids: A name for each sample, or None.
        streams: Modalities that have time, in order. They are taken out as they are used, so that memory goes free.
        vectors: Modalities that have no time, of shape (N, D) each.
        found: Entries of the report about this split.
        present: Samples that have a vector, 1 or 0, of shape (N,), for vectors that some lack. (Default: all have all)
    """

    labels: Array | None
    ids: list[str] | None
    streams: dict[str, Stream]
    vectors: Mapping[str, Array]
    found: Mapping[str, Any]
    present: Mapping[str, Array] = MappingProxyType({})


def in_memory(name: str, shape: tuple[int, ...], arrays: Iterable[Array], exact: Callable[[], bool] = lambda: False) -> Tensor:
    """Keeps arrays end to end in memory; a :data:`Sink`."""
    values: Array = np.empty(shape, np.float32)
    row = 0
    for array in arrays:
        if row == 0 and array.dtype != values.dtype:
            values = np.empty(shape, array.dtype)
        values[row : row + len(array)] = array
        row += len(array)
    return torch.from_numpy(values.astype(np.float32) if values.dtype == np.float64 and not exact() else values)


def clean_sequences(name: str, stream: Stream, sink: Sink, where: str, *, exact: bool = False) -> tuple[Ragged, dict[str, Any]]:
    """Cleans the samples of a modality, and stores them.

    Values that are not finite in float32 become 0. They are counted, and so are samples that have no steps.

    Args:
        name: Name of the modality.
        stream: Samples of the modality.
        sink: Function that keeps them.
        where: Name of the modality, for messages.
        exact: Whether values of float64 stay so in any case, as those of another split do. (Default: False)

    Returns:
        Samples, and entries of the report about them.

    Raises:
        DataError: if a feature is never finite.
    """
    lengths = np.asarray(stream.lengths).astype(np.int64)
    if stream.tokens:
        ids = (array.astype(np.int64) for array in stream.arrays if len(array))
        values = sink(name, (int(lengths.sum()),), ids, lambda: True)
        found = {"size": 1, "lengths": summary(lengths), **stream.found, "samples_without_steps": int((lengths < 1).sum())}
        return Ragged.packed(values, torch.from_numpy(lengths)), found
    counts = dict.fromkeys((*KINDS, "all zeros"), 0)
    usable, rounding = np.zeros(stream.size, bool), Precision(stream.size)
    arrays = _clean(stream, counts, usable, rounding)
    values = sink(name, (int(lengths.sum()), stream.size), arrays, lambda: exact or rounding.needs_float64())
    if lengths.any() and len(never := np.flatnonzero(~usable)):
        raise DataError(f"{where}: feature {never[0]} is never finite ({len(never)} such features); leave it out of the file")
    found = {
        "size": stream.size,
        "lengths": summary(lengths),
        **stream.found,
        **_replaced(counts),
        **_rounded(rounding, values if isinstance(values, MappedArray) else values.numpy()),
        "all_zero_samples": counts["all zeros"],
        "samples_without_steps": int((stream.lengths < 1).sum()),
    }
    return Ragged.packed(values, torch.from_numpy(lengths)), found


def clean_vectors(vectors: Array, present: Array | None = None, *, exact: bool = False) -> tuple[Tensor, dict[str, Any]]:
    """Does for vectors (N, D) what :func:`clean_sequences` does for sequences; those that are not present become 0."""
    counts = dict.fromkeys(KINDS, 0)
    there = np.ones(len(vectors), bool) if present is None else present.astype(bool)
    vectors = np.where(there[:, None], vectors, 0)
    wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
    clean = _finite(vectors, counts, np.zeros(vectors.shape[1], bool), int(wrong[0]) if len(wrong) else 0)
    rounding = Precision(vectors.shape[1])
    rounding.add(clean[there])
    if not (exact or rounding.needs_float64()):
        clean = clean.astype(np.float32, copy=False)
    found = {
        "size": vectors.shape[1],
        "dtype": str(vectors.dtype),
        **_replaced(counts),
        **_rounded(rounding, clean[there]),
        "all_zero_samples": int((~clean.any(1) & there).sum()),
        **({} if there.all() else {"samples_without_steps": int((~there).sum())}),
    }
    return torch.from_numpy(clean), found


def summary(lengths: Array | Tensor) -> dict[str, float]:
    """Returns minimum, median and maximum of lengths."""
    lengths = np.asarray(lengths)
    return {"minimum": int(lengths.min()), "median": float(np.median(lengths)), "maximum": int(lengths.max())}


def _clean(stream: Stream, counts: dict[str, int], usable: Array, rounding: Precision) -> Iterator[Array]:
    for i, array in enumerate(stream.arrays):
        if len(array):
            array = _finite(array, counts, usable, i)
            rounding.add(array)
            counts["all zeros"] += not array.any()
            yield array


def _replaced(counts: dict[str, int]) -> dict[str, Any]:
    """Describes how many values of each kind were replaced, and in which sample first."""
    first = {"first_replaced": counts["first"]} if "first" in counts else {}
    return {"replaced": {kind: counts[kind] for kind in KINDS}, **first}


def _rounded(rounding: Precision, values: Array | MappedArray) -> dict[str, Any]:
    """Describes the features of which float32 would lose digits."""
    if not len(lost := np.flatnonzero(rounding.lost())):
        return {}
    column = values.column(int(lost[0])) if isinstance(values, MappedArray) else values[:, lost[0]]
    return {"rounded": {"features": len(lost), "first": int(lost[0]), "distinct": distinct(column)}}


def _finite(array: Array, counts: dict[str, int], usable: Array, sample: int) -> Array:
    """Returns values that are finite in float32, in float32 if the array needs no more, else in float64.

    It counts values that were not finite, and notes features that are finite in any sample.
    """
    clean = np.array(array, dtype=np.float32 if np.can_cast(array.dtype, np.float32) else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(clean.astype(np.float32, copy=False))
    usable |= finite.any(0)
    if not finite.all():
        counts.setdefault("first", sample)
        count_kinds(array[~finite], counts)
        clean[~finite] = 0.0
    return clean


def count_kinds(wrong: Array, counts: dict[str, int]) -> None:
    """Counts values that are not finite in float32, by kind."""
    counts["nan"] += int(np.isnan(wrong).sum())
    counts["+inf"] += int(np.isposinf(wrong).sum())
    counts["-inf"] += int(np.isneginf(wrong).sum())
    counts["beyond float32"] += int(np.isfinite(wrong).sum())
