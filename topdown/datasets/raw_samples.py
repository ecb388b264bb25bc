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
from topdown.datasets.unpadded import MappedArray, Ragged

Array = np.ndarray[Any, Any]
# Takes a name, the shape (R, D), and arrays (T_i, D) of float32 with R rows together, and keeps them.
Sink = Callable[[str, tuple[int, int], Iterable[Array]], "Tensor | MappedArray"]
KINDS = ("nan", "+inf", "-inf", "beyond float32")


class Stream(NamedTuple):
    """Holds one modality of a split.

    Args:
        size: Features D.
        lengths: Steps of each sample, of shape (N,); 0 where it has none.
        arrays: Arrays (T_i, D) of the samples, of any type of number, finite or not. They are asked for once.
        found: Entries of the report about this modality.
    """

    size: int
    lengths: Array
    arrays: Iterable[Array]
    found: Mapping[str, Any]


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


def in_memory(name: str, shape: tuple[int, int], arrays: Iterable[Array]) -> Tensor:
    """Keeps arrays end to end in memory; a :data:`Sink`."""
    values, row = np.empty(shape, np.float32), 0
    for array in arrays:
        values[row : row + len(array)] = array
        row += len(array)
    return torch.from_numpy(values)


def clean_sequences(name: str, stream: Stream, sink: Sink, where: str) -> tuple[Ragged, dict[str, Any]]:
    """Cleans the samples of a modality, and stores them.

    Values that are not finite in float32 become 0. They are counted, and so are samples that have no steps.

    Args:
        name: Name of the modality.
        stream: Samples of the modality.
        sink: Function that keeps them.
        where: Name of the modality, for messages.

    Returns:
        Samples, and entries of the report about them.

    Raises:
        DataError: if a feature is never finite.
    """
    lengths = np.asarray(stream.lengths).astype(np.int64)
    counts = dict.fromkeys((*KINDS, "all zeros"), 0)
    usable = np.zeros(stream.size, bool)
    values = sink(name, (int(lengths.sum()), stream.size), _clean(stream, counts, usable))
    if lengths.any() and len(never := np.flatnonzero(~usable)):
        raise DataError(f"{where}: feature {never[0]} is never finite ({len(never)} such features); leave it out of the file")
    found = {
        "size": stream.size,
        "lengths": summary(lengths),
        **stream.found,
        **_replaced(counts),
        "all_zero_samples": counts["all zeros"],
        "samples_without_steps": int((stream.lengths < 1).sum()),
    }
    return Ragged.packed(values, torch.from_numpy(lengths)), found


def clean_vectors(vectors: Array, present: Array | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Does for vectors (N, D) what :func:`clean_sequences` does for sequences; those that are not present become 0."""
    counts = dict.fromkeys(KINDS, 0)
    there = np.ones(len(vectors), bool) if present is None else present.astype(bool)
    vectors = np.where(there[:, None], vectors, 0)
    wrong = np.flatnonzero(~np.isfinite(vectors).all(1))
    clean = _finite(vectors, counts, np.zeros(vectors.shape[1], bool), int(wrong[0]) if len(wrong) else 0)
    found = {
        "size": vectors.shape[1],
        "dtype": str(vectors.dtype),
        **_replaced(counts),
        "all_zero_samples": int((~clean.any(1) & there).sum()),
        **({} if there.all() else {"samples_without_steps": int((~there).sum())}),
    }
    return torch.from_numpy(clean), found


def summary(lengths: Array | Tensor) -> dict[str, float]:
    """Returns minimum, median and maximum of lengths."""
    lengths = np.asarray(lengths)
    return {"minimum": int(lengths.min()), "median": float(np.median(lengths)), "maximum": int(lengths.max())}


def _clean(stream: Stream, counts: dict[str, int], usable: Array) -> Iterator[Array]:
    for i, array in enumerate(stream.arrays):
        if len(array):
            array = _finite(array, counts, usable, i)
            counts["all zeros"] += not array.any()
            yield array


def _replaced(counts: dict[str, int]) -> dict[str, Any]:
    """Describes how many values of each kind were replaced, and in which sample first."""
    first = {"first_replaced": counts["first"]} if "first" in counts else {}
    return {"replaced": {kind: counts[kind] for kind in KINDS}, **first}


def _finite(array: Array, counts: dict[str, int], usable: Array, sample: int) -> Array:
    """Returns finite float32; counts values that were not, and notes features that are finite in any sample."""
    with np.errstate(over="ignore", invalid="ignore"):
        clean = np.array(array, dtype=np.float32)
    finite = np.isfinite(clean)
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
