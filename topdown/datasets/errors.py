"""Defines DataError, and validates integers."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

LONGEST = 900  # characters of a message, which stays readable whatever a file holds


class DataError(ValueError):
    """Reports data that cannot be used. The message names the file or array, the fault and the remedy, in one line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 303]}...{line[-300:]}")


def check_whole_numbers(values: Mapping[str, Any], least: int) -> dict[str, int]:
    """Checks integers, and returns them as Python integers.

    Raises:
        TypeError: if one is not a whole number.
        ValueError: if one is less than `least`.

    Example:
        >>> check_whole_numbers({"epochs": 3}, 1)
        {'epochs': 3}
    """
    for name, value in values.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r} must be a whole number, at least {least}")
        if value < least:
            raise ValueError(f"{name}={value} must be a whole number, at least {least}")
    return {name: int(value) for name, value in values.items()}
