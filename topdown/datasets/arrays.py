"""Builds a split from arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import identifiers
from topdown.datasets.labels import MISSING, check_classes, check_labels, classes_of, number_words, plain, words_of
from topdown.datasets.raw_samples import Array, RawSplit, Stream


def from_arrays(
    inputs: Mapping[str, Any], labels: Any, lengths: Any, ids: Sequence[Any] | None, classes: Sequence[str] | None = None
) -> RawSplit:
    """Builds a split from arrays: see :meth:`topdown.datasets.SequenceDataset.from_arrays`.

    Raises:
        DataError: if a shape, a type, a value or a length does not fit.
    """
    if not isinstance(inputs, Mapping):
        raise DataError(f"inputs are a {type(inputs).__name__}: give a mapping from modality to arrays, as in {{'audio': x}}")
    if not inputs:
        raise DataError("there are no inputs: give at least one modality")
    if isinstance(lengths, Mapping) and (unknown := [name for name in lengths if name not in inputs]):
        raise DataError(f"lengths name {unknown}, but the inputs are {list(inputs)}")
    streams, vectors, present = {}, {}, {}
    for name, value in inputs.items():
        valid = lengths.get(name) if isinstance(lengths, Mapping) else lengths
        if isinstance(value, (list, tuple)):
            if valid is not None:
                raise DataError(f"{name!r} is a list of arrays, whose lengths are their own: leave out lengths for it")
            streams[name] = _listed(name, [None if array is None else _numbers(name, array) for array in value])
        else:
            array = _numbers(name, value)
            if array.ndim == 2 and array.dtype.kind in "iu" and _are_steps(valid):
                streams[name] = _padded(name, array, valid)
            elif array.ndim == 2:
                if valid is not None and isinstance(lengths, Mapping):
                    present[name] = _present(name, array, valid)
                vectors[name] = array
            elif array.ndim == 3:
                streams[name] = _padded(name, array, valid)
            else:
                raise DataError(f"{name!r} has shape {array.shape}: it must be (N, T, D), (N, D), or a list of (T_i, D)")
    targets, names = (None, None) if labels is None else _targets(labels, classes)
    report = {"class_names": names} if names else {}
    return RawSplit(targets, identifiers(plain(ids), "ids"), streams, vectors, report, present, fills=True)


def _targets(labels: Any, classes: Sequence[str] | None) -> tuple[Array, list[str] | None]:
    """Returns labels as numbers, and the names of classes, if they have any."""
    names = None if classes is None else check_classes(classes)
    if (words := words_of(labels)) is not None:
        names = classes_of(words) if names is None else names
        return check_labels(number_words(words, names)), names
    targets = check_labels(labels)
    if names is None:
        return targets, None
    whole = targets.ndim == 1 and targets.dtype.kind in "iub"
    if not whole or not ((targets == MISSING) | ((targets >= 0) & (targets < len(names)))).all():
        actual = f"{targets.dtype} of shape {targets.shape}, from {targets.min()} to {targets.max()}"
        raise DataError(f"there are {len(names)} classes, but labels are {actual}: give words, or 0 to {len(names) - 1}")
    return targets, names


def _numbers(name: str, value: Any) -> Array:
    array = np.asarray(plain(value))
    if array.dtype.kind not in "fiub":
        raise DataError(f"{name!r} holds {array.dtype}: it must hold numbers")
    return array


def _are_steps(valid: Any) -> bool:
    """Returns whether lengths count steps; those of vectors are 1 or 0."""
    return valid is not None and bool((np.asarray(plain(valid)) > 1).any())


def _listed(name: str, values: list[Array | None]) -> Stream:
    present = [array for array in values if array is not None]
    if any(len(array) for array in present) and all(
        array.ndim == 1 and (array.dtype.kind in "iu" or not len(array)) for array in present
    ):
        arrays = [np.zeros(0, np.int64) if array is None else array for array in values]
        return Stream(1, np.array([len(array) for array in arrays]), arrays, {"dtype": "int64"}, tokens=True)
    shapes = {array.shape[1:] for array in present}
    if len(shapes) != 1 or any(array.ndim != 2 for array in present):
        examples = sorted({str(array.shape) for array in present})[:3]
        raise DataError(
            f"{name!r} must be a list of arrays (T_i, D) with one D, got shapes such as {', '.join(examples) or 'none'}"
        )
    size, dtype = present[0].shape[1], np.result_type(*present)
    arrays = [np.zeros((0, size), dtype) if array is None else array.astype(dtype, copy=False) for array in values]
    return Stream(size, np.array([len(array) for array in arrays]), arrays, {"dtype": str(dtype)})


def _padded(name: str, array: Array, valid: Any) -> Stream:
    count, steps = array.shape[:2]
    size = array.shape[2] if array.ndim == 3 else 1
    lengths = np.full(count, steps) if valid is None else np.asarray(plain(valid))
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu":
        raise DataError(f"lengths of {name!r} must be {count} integers, got {lengths.dtype} of shape {lengths.shape}")
    if len(wrong := np.flatnonzero((lengths < 0) | (lengths > steps))):
        raise DataError(f"lengths[{wrong[0]}] of {name!r} is {lengths[wrong[0]]}, but it has {steps} steps")
    if len(shorter := np.flatnonzero(lengths < steps)) and all(_is_left_padded(array[i], int(lengths[i])) for i in shorter):
        raise DataError(
            f"{name!r} is padded on the left: sample {shorter[0]} ends in {lengths[shorter[0]]} steps after zeros; "
            "move sequences to the start of their rows, or give a list of arrays"
        )
    arrays = (sample[:length] for sample, length in zip(array, lengths, strict=True))
    report = {"dtype": str(array.dtype), "padding": "none" if valid is None else "right"}
    return Stream(size, lengths, arrays, report, tokens=array.ndim == 2)


def _is_left_padded(sample: Array, length: int) -> bool:
    return bool((sample[: len(sample) - length] == 0).all() and (sample[length:] != 0).any())


def _present(name: str, array: Array, valid: Any) -> Array:
    marks = np.asarray(plain(valid))
    if marks.shape != (len(array),) or marks.dtype.kind not in "iub" or ((marks != 0) & (marks != 1)).any():
        remedy = f"give {len(array)} lengths, 1 where it is present, or 0"
        raise DataError(f"{name!r} has shape {array.shape}, without time: {remedy}")
    return marks
