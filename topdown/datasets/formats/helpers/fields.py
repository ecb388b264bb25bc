"""Parses labels, ids and names in files."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.raw_samples import Array

SPLITS = ("train", "valid", "test")
KEYS = {"text": "text", "audio": "audio", "visual": "vision"}  # of the three modalities in pickles of arrays
LIMIT = 3.0  # of sentiment
COLUMNS = (1, 7)  # of labels: sentiment, or sentiment and six emotions
MOST_NUMBERS = 64  # of one sample's label in a list


def as_list(value: Any) -> list[Any] | None:
    """Returns the entries of a list, a tuple or an array along its first dimension; None of anything else."""
    if isinstance(value, np.ndarray) and value.ndim:
        if 0 in value.shape[1:]:
            return None  # as many entries as it says, of nothing
        return value.tolist()  # type: ignore[no-any-return]
    return list(value) if isinstance(value, (list, tuple)) else None


def numbers(value: Any, where: str) -> Array:
    """Returns an array of numbers as it is, and a plain list of numbers, or of arrays of one shape, as an array.

    Raises:
        DataError: if it is something else; nested lists are not traversed, since they may be endless.
    """
    if isinstance(value, np.ndarray) and value.dtype.hasobject and value.ndim == 1:
        value = list(value)
    if isinstance(value, (list, tuple)) and value and len({getattr(entry, "shape", ()) for entry in value}) == 1:
        if all(isinstance(entry, (int, float, np.generic, np.ndarray)) and np.size(entry) <= MOST_NUMBERS for entry in value):
            value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
        actual = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        actual = "missing" if value is None else actual
        raise DataError(f"{where} is {actual}; expected numbers")
    array: Array = value
    return array


def sentiment(labels: Any, where: str) -> Array:
    """Returns the sentiment of each sample, of shape (N,): labels of (N,), (N, 1), (N, 1, 1), or (N, 1, 7) with it first.

    Raises:
        DataError: naming the first label that is not in [-3, 3], or the shape.
    """
    array = numbers(labels, where)
    columns = array.shape[-1] if array.ndim > 1 else 1
    if array.ndim not in (1, 2, 3) or 0 in array.shape or array.shape[1:-1] not in ((), (1,)) or columns not in COLUMNS:
        raise DataError(
            f"{where} has shape {array.shape}; expected one sentiment per sample, (N, 1, 1), or seven labels with it first"
        )
    values: Array = array.reshape(len(array), -1)[:, 0].astype(np.float64)
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
    return ["|".join(as_text(part, where) for part in as_list(row) or [row]) for row in rows]


def as_text(part: Any, where: str) -> str:
    """Returns a name or a word that is stored as bytes, text or a number.

    Raises:
        DataError: if it is something else, which may be endless.
    """
    if isinstance(part, bytes):
        return part.decode("utf-8", "replace")
    if not isinstance(part, (str, int, float, np.generic)) or (isinstance(part, int) and abs(part) >= 2**63):
        raise DataError(f"{where} holds a {type(part).__name__}; expected text")
    return str(part)


def normalized(text: object) -> str:
    r"""Returns a name in Unicode NFC without surrounding spaces, so that equal names compare equal.

    Example:
        >>> normalized(" cafe\N{COMBINING ACUTE ACCENT} ") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
        True
    """
    return unicodedata.normalize("NFC", str(text).strip())


def join_names(names: Any) -> str:
    """Formats names for a message, at most eight of them."""
    shown = [repr(name)[:60] for name in names]
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")
