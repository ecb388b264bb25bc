"""Defines what a reader returns, and cleans it.

:func:`clean_sequences` never holds more than one sample twice.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.cleaning import Cleaner, Training
from topdown.datasets.errors import DataError
from topdown.datasets.precision import in_float
from topdown.datasets.unpadded import MappedArray, Ragged

Array = np.ndarray[Any, Any]
# Stores arrays, and returns their values. It takes a name, the shape (R, D), arrays (T_i, D) of one type with R rows in total,
# and a cleaner. The cleaner fills gaps after the last row; None means that there are no gaps.
Sink = Callable[[str, tuple[int, ...], Iterable[Array], "Cleaner | None"], "Tensor | MappedArray"]


class Stream(NamedTuple):
    """Holds one modality of a split.

    Args:
        size: Features D.
        lengths: Steps of each sample, of shape (N,); 0 where the modality is absent.
        arrays: Arrays (T_i, D) of the samples, of any type of number, finite or not. They are read once.
        report: Entries of the report about this modality.
        tokens: Whether the arrays are (T_i,), ids of tokens, which stay integers. (Default: False)
    """

    size: int
    lengths: Array
    arrays: Iterable[Array]
    report: Mapping[str, Any]
    tokens: bool = False


class RawSplit(NamedTuple):
    """Holds one split as it is in the file.

    Args:
        labels: Labels of shape (N,), or (N, K) for K labels per sample; None where there are none.
        ids: A name for each sample, or None.
        streams: Modalities that have time, in order. They are removed as they are used, to free memory.
        vectors: Modalities that have no time, of shape (N, D) each.
        report: Entries of the report about this split.
        present: Marks of samples with a vector, 1 or 0, of shape (N,), for vectors that are absent in some. (Default: none is)
        fills: Whether nan is a gap, which gets the mean of its feature, and not 0. (Default: False)
    """

    labels: Array | None
    ids: list[str] | None
    streams: dict[str, Stream]
    vectors: Mapping[str, Array]
    report: Mapping[str, Any]
    present: Mapping[str, Array] = MappingProxyType({})
    fills: bool = False


def in_memory(name: str, shape: tuple[int, ...], arrays: Iterable[Array], cleaner: Cleaner | None = None) -> Tensor:
    """Stores arrays end to end in memory; a :data:`Sink`."""
    values: Array = np.empty(shape, np.float32)
    row = 0
    for array in arrays:
        if row == 0 and array.dtype != values.dtype:
            values = np.empty(shape, array.dtype)
        values[row : row + len(array)] = array
        row += len(array)
    if cleaner is not None:
        cleaner.fill(values)
        values = values.astype(cleaner.dtype(values.dtype), copy=False)
    return torch.from_numpy(values)


def clean_sequences(name: str, stream: Stream, sink: Sink, where: str, cleaner: Cleaner) -> tuple[Ragged, dict[str, Any]]:
    """Cleans the samples of a modality, and stores them.

    Args:
        name: Name of the modality.
        stream: Samples of the modality.
        sink: Function that stores them.
        where: Name of the modality, for messages.
        cleaner: Cleaner of its values.

    Returns:
        Samples, and entries of the report about them.

    Raises:
        DataError: if a feature is never finite.
    """
    lengths = np.asarray(stream.lengths).astype(np.int64)
    about = {"size": stream.size, "lengths": summary(lengths), "samples_without_steps": int((lengths < 1).sum())}
    if stream.tokens:
        ids = (array.astype(np.int64) for array in stream.arrays if len(array))
        values = sink(name, (int(lengths.sum()),), ids, None)
        return Ragged.packed(values, torch.from_numpy(lengths)), {**about, **stream.report}
    arrays = (cleaner.clean(array, i) for i, array in enumerate(stream.arrays) if len(array))
    values = sink(name, (int(lengths.sum()), stream.size), arrays, cleaner)
    if lengths.any() and cleaner.mean is None and len(never := np.flatnonzero(~cleaner.usable)):
        raise DataError(f"{where}: feature {never[0]} is never finite ({len(never)} such features); leave it out of the file")
    column = values.column if isinstance(values, MappedArray) else lambda index: values[:, index].numpy()
    report = {**about, **stream.report, **cleaner.report(column), "all_zero_samples": cleaner.zeros}
    return Ragged.packed(values, torch.from_numpy(lengths)), report


def clean_vectors(vectors: Array, present: Array | None, cleaner: Cleaner) -> tuple[Tensor, dict[str, Any]]:
    """Cleans vectors (N, D), as :func:`clean_sequences` cleans sequences; absent vectors become 0."""
    marks = np.ones(len(vectors), bool) if present is None else present.astype(bool)
    rows = vectors[marks]
    wrong = np.flatnonzero(marks)[(np.isinf(rows) if cleaner.fills else ~np.isfinite(rows)).any(1)]
    filled = cleaner.clean(rows, int(wrong[0]) if len(wrong) else 0)
    cleaner.fill(filled)
    clean = np.zeros(vectors.shape, cleaner.dtype(filled.dtype))
    clean[marks] = filled
    report = {
        "size": vectors.shape[1],
        "dtype": str(vectors.dtype),
        **cleaner.report(lambda index: filled[:, index]),
        "all_zero_samples": int((~filled.any(1)).sum()),
        **({} if marks.all() else {"samples_without_steps": int((~marks).sum())}),
    }
    return torch.from_numpy(clean), report


def clean_split(raw: RawSplit, where: str, sink: Sink, training: Training | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cleans the samples of a split, and stores them.

    Args:
        raw: Samples; its streams are used up.
        where: Name of the split, for messages.
        sink: Function that stores the values.
        training: Statistics of the training samples; None if these are the training samples.

    Returns:
        Arguments of a :class:`SequenceDataset`, and entries of its report.

    Raises:
        DataError: if numbers of samples differ, there is none, one has no steps at all, or a feature is never finite.
    """
    _check_samples(raw, where)

    def cleaner(name: str, size: int) -> Cleaner:
        if training is None:
            return Cleaner(size, fills=raw.fills)
        mean = functools.cache(lambda: training.mean(name)) if raw.fills else None
        return Cleaner(size, fills=raw.fills, exact=name in training.exact, mean=mean)

    sequences, vectors, modalities = {}, {}, {}
    for name in list(raw.streams):
        by = cleaner(name, raw.streams[name].size)
        sequences[name], modalities[name] = clean_sequences(name, raw.streams.pop(name), sink, f"{where}: {name!r}", by)
    for name, array in raw.vectors.items():
        vectors[name], modalities[name] = clean_vectors(array, raw.present.get(name), cleaner(name, array.shape[1]))
    labels = None
    if raw.labels is not None:
        labels = torch.from_numpy(in_float(raw.labels) if raw.labels.dtype.kind == "f" else raw.labels.astype(np.int64))
    present = {name: torch.from_numpy(marks.astype(bool)) for name, marks in raw.present.items()}
    parts = {"sequences": sequences, "vectors": vectors, "labels": labels, "ids": raw.ids, "present": present}
    return parts, {**raw.report, "modalities": modalities}


def _check_samples(raw: RawSplit, where: str) -> None:
    """Checks, before anything is read, that there are samples, and that each has a modality."""
    counts = {name: len(stream.lengths) for name, stream in raw.streams.items()}
    counts |= {name: len(vector) for name, vector in raw.vectors.items()}
    prefix = "" if where == "inputs" else f"{where}: "
    try:
        count = check_counts(counts | ({"ids": len(raw.ids)} if raw.ids is not None else {}), raw.labels)
    except DataError as error:
        raise DataError(f"{prefix}{error}") from None
    if count == 0:
        raise DataError(f"{where}: has no samples")
    if nothing := [name for name, stream in raw.streams.items() if stream.size < 1]:
        raise DataError(f"{where}: {nothing[0]!r} has no features; leave it out")
    if raw.streams and raw.vectors.keys() == raw.present.keys():
        most = np.maximum.reduce([*(stream.lengths for stream in raw.streams.values()), *raw.present.values()])
        if len(empty := np.flatnonzero(most < 1)):
            which = "" if raw.ids is None else f", the first is {raw.ids[int(empty[0])]!r}"
            what = f"sample {empty[0]} has no steps, only zeros ({len(empty)} such samples)"
            raise DataError(f"{prefix}{what}; remove them{which}")


def check_counts(counts: Mapping[str, int], labels: Any) -> int:
    """Checks that all parts of a data set have the same number of samples, and returns it."""
    first = next(iter(counts), None)
    expected = 0 if first is None else counts[first]
    expected = expected if labels is None else len(labels)
    for name, count in counts.items():
        if count != expected:
            reference = f"{first!r} has {expected}" if labels is None else f"there are {expected} labels"
            raise DataError(f"{name!r} has {count} samples but {reference}")
    return expected


def summary(lengths: Array | Tensor) -> dict[str, float]:
    """Returns minimum, median and maximum of lengths."""
    lengths = np.asarray(lengths)
    return {"minimum": int(lengths.min()), "median": float(np.median(lengths)), "maximum": int(lengths.max())}
