"""Validates labels. Missing labels are nan (regression) or -100 (classes), the `ignore_index` of torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import normalized

Array = np.ndarray[Any, Any]
MISSING = -100


def plain(value: Any) -> Any:
    """Returns a tensor of any type and device as an array."""
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value] if any(isinstance(part, Tensor) for part in value) else value
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def words_of(labels: Any) -> list[str] | None:
    """Returns labels that are words, "" where one is missing ("", None, or nan, which numpy writes); None for numbers.

    Raises:
        DataError: if there are words and numbers, or words for several labels.

    Example:
        >>> words_of(["glad", None, " sad"]), words_of([0.5, 1.0])
        (['glad', '', 'sad'], None)
    """
    mixed = isinstance(labels, (list, tuple)) and any(isinstance(label, (str, bytes)) for label in labels)
    cells = np.asarray(labels, object) if mixed else np.asarray(plain(labels))
    listed = [_decoded(cell) for cell in cells.ravel().tolist()]
    if cells.dtype.kind not in "UST" and not (cells.dtype.kind == "O" and any(isinstance(cell, str) for cell in listed)):
        return None
    if cells.ndim != 1:
        raise DataError(f"labels are words of shape {cells.shape}: there must be one per sample, (N,)")
    if strange := [cell for cell in listed if not isinstance(cell, str) and not _is_missing(cell)]:
        raise DataError(f"labels are words, but one is {strange[0]!r}: give all as words, or all as numbers")
    words = [normalized(cell) if isinstance(cell, str) else "" for cell in listed]
    return ["" if word == "nan" else word for word in words]


def classes_of(words: Sequence[str]) -> list[str]:
    """Returns the classes of words, sorted.

    Raises:
        DataError: if all are numbers as text.
    """
    classes = sorted({*words} - {""})
    if classes and all(_is_number(word) for word in classes):
        raise DataError(f"labels are numbers as text, such as {classes[0]!r}: give numbers, or classes= if they are names")
    return classes


def check_classes(classes: Any) -> list[str]:
    """Checks names of classes, and returns them.

    Raises:
        DataError: if they are not a list of words, all of them different.
    """
    if not isinstance(classes, (list, tuple, np.ndarray)) or not all(isinstance(name, (str, bytes)) for name in classes):
        raise DataError(f"classes={classes!r}: give a list of words, in the order of their numbers")
    names = [normalized(_decoded(name)) for name in classes]
    if twice := [name for i, name in enumerate(names) if not name or name in names[:i]]:
        raise DataError(f"classes={[*classes]}: {twice[0]!r} is there twice, or no word: name each class once")
    return names


def number_words(words: Sequence[str], classes: Sequence[str]) -> Array:
    """Returns the number of each word among the classes, -100 where it is missing.

    Raises:
        DataError: if a word is not among them.

    Example:
        >>> number_words(["sad", "", "glad"], ["glad", "sad"]).tolist()
        [1, -100, 0]
    """
    numbers = {**{name: number for number, name in enumerate(classes)}, "": MISSING}
    if unknown := [word for word in words if word not in numbers]:
        raise DataError(f"label {words.index(unknown[0])} is {unknown[0]!r}, which is not among the classes {[*classes]}")
    return np.array([numbers[word] for word in words], np.int64)


def _decoded(cell: Any) -> Any:
    return cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell


def _is_missing(cell: Any) -> bool:
    """Returns whether a cell is None, nan, or pandas.NA."""
    return cell is None or type(cell).__name__ == "NAType" or (isinstance(cell, (float, np.floating)) and bool(np.isnan(cell)))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def check_labels(labels: Any) -> Array:
    """Checks labels: numbers of shape (N,), or (N, K), which may be missing, but not infinite.

    Raises:
        DataError: if a shape, a type or a value does not fit, or all are missing.
    """
    targets = np.asarray(plain(labels))
    if targets.dtype.kind not in "fiub":
        missing = "; nan for one that is missing, or -100 among classes" if any(x is None for x in targets.ravel()) else ""
        raise DataError(f"labels are of {targets.dtype}: they must be numbers, or one word per sample{missing}")
    if targets.ndim and len(targets) == 0:
        raise DataError("there are no samples, since labels are empty: give at least one, or leave out the split")
    if targets.ndim not in (1, 2):
        raise DataError(f"labels have shape {targets.shape}: there must be one per sample, (N,), or several, (N, K)")
    with np.errstate(over="ignore"):
        infinite = np.isinf(targets.astype(np.float32)).reshape(len(targets), -1).any(1)
    if len(wrong := np.flatnonzero(infinite)):
        remedy = "give nan for a label that is missing"
        raise DataError(f"label {wrong[0]} is not finite ({len(wrong)} such labels): leave out such samples, or {remedy}")
    if not bool(labelled(torch.from_numpy(np.ascontiguousarray(targets))).any()):
        raise DataError(f"label 0 is not finite, nor any other of {len(targets)}: leave labels out, or give some")
    return targets


def labelled(labels: Tensor) -> Tensor:
    """Returns a mask of the labels that are not missing, of their shape.

    Example:
        >>> labelled(torch.tensor([0.5, float("nan")])), labelled(torch.tensor([2, -100]))
        (tensor([ True, False]), tensor([ True, False]))
    """
    return ~labels.isnan() if labels.is_floating_point() else labels != MISSING


def label_range(labels: Tensor) -> tuple[float, float]:
    """Returns the smallest and the largest of the labels that are not missing; nan if all are.

    Example:
        >>> label_range(torch.tensor([3, -100, 1]))
        (1.0, 3.0)
    """
    present = labels[labelled(labels)]
    return (float(present.min()), float(present.max())) if len(present) else (float("nan"), float("nan"))


def describe_labels(labels: Tensor) -> dict[str, Any]:
    """Describes labels for a report; `missing` is the number of samples with a missing label."""
    valid = labelled(labels)
    report: dict[str, Any] = {"shape": list(labels.shape)}
    if bool(valid.any()):
        least, most = label_range(labels)
        report |= {"minimum": least, "maximum": most, "zeros": float((labels[valid] == 0).float().mean())}
    missing = int((~valid.reshape(len(labels), -1)).any(1).sum())
    return report | ({"missing": missing} if missing else {})
