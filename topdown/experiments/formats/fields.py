"""Labels and names of samples, which files hold in many shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from topdown.experiments.errors import DataError
from topdown.experiments.streams import Array

LIMIT = 3.0


def as_list(value: Any) -> list[Any] | None:
    """Returns the entries of a list, a tuple or an array along its first dimension; None of anything else."""
    if isinstance(value, np.ndarray) and value.ndim:
        return value.tolist()  # type: ignore[no-any-return]
    return list(value) if isinstance(value, (list, tuple)) else None


def numbers(value: Any, where: str) -> Array:
    """Returns an array of numbers as it is, and a plain list of numbers, or of arrays of one shape, as an array.

    Raises:
        DataError: if it is something else; nested lists are not looked into, since they might be without end.
    """
    if isinstance(value, (list, tuple)) and value and len({getattr(entry, "shape", ()) for entry in value}) == 1:
        if all(isinstance(entry, (int, float, np.generic, np.ndarray)) for entry in value):
            value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        found = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        found = "missing" if value is None else found
        raise DataError(f"{where} is {found}; expected numbers")
    array: Array = value
    return array


def sentiment(labels: Any, where: str) -> Array:
    """Returns the sentiment of each sample, of shape (N,): labels of (N,), (N, 1), (N, 1, 1), or (N, 1, 7) with it first.

    Raises:
        DataError: naming the first label that is not in [-3, 3], or the shape.
    """
    found = numbers(labels, where)
    if found.ndim not in (1, 2, 3) or 0 in found.shape or found.shape[1:-1] not in ((), (1,)):
        raise DataError(f"{where} has shape {found.shape} of {found.dtype}; expected one sentiment per sample, (N, 1, 1)")
    values: Array = found.reshape(len(found), -1)[:, 0].astype(np.float64)
    check_range(values, where)
    return values


def check_range(labels: Array, where: str) -> None:
    """Checks that sentiment is within [-3, 3], with room for the rounding of float32.

    Raises:
        DataError: naming the first that is not.
    """
    wrong = np.flatnonzero(~(np.abs(labels) <= LIMIT + 1e-6))
    if len(wrong):
        raise DataError(
            f"{where}[{wrong[0]}] is {labels[wrong[0]]:g}, outside [-3, 3] ({len(wrong)} such labels); "
            "sentiment is scaled to that range"
        )


def identifiers(ids: Any, where: str) -> list[str] | None:
    """Returns a name for each sample: of (N,), (N, 1), or (N, 3) joined by "|", as bytes or text; None stays None.

    Raises:
        DataError: if they are something else.
    """
    if ids is None:
        return None
    rows = as_list(ids)
    if rows is None:
        raise DataError(f"{where} is a {type(ids).__name__}; expected a list or an array of names")
    return ["|".join(text(part, where) for part in (row if isinstance(row, (list, tuple)) else [row])) for row in rows]


def text(part: Any, where: str) -> str:
    """Returns a name or a word that is stored as bytes, text or a number.

    Raises:
        DataError: if it is something else, which might be without end.
    """
    if isinstance(part, bytes):
        return part.decode("utf-8", "replace")
    if not isinstance(part, (str, int, float, np.generic)):
        raise DataError(f"{where} holds a {type(part).__name__}; expected text")
    return str(part)
