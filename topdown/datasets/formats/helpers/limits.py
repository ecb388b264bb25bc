"""Limits the memory that files may use."""

from __future__ import annotations

from typing import NamedTuple


class Limit(NamedTuple):
    """Limits the memory that a file may use.

    Args:
        factor: Times the size of the file.
        small: Bytes that any file may become.
    """

    factor: int
    small: int

    def allows(self, needed: int, size: int) -> bool:
        """Returns whether a file of some size may become so many bytes.

        Example:
            >>> Limit(4, 100).allows(400, 100), Limit(4, 100).allows(401, 100)
            (True, False)
        """
        return needed <= max(self.factor * size, self.small)


OBJECTS_OF_PICKLE = Limit(4, 2**16)  # arrays are as large in memory; lists and dicts are larger
SAMPLES_OF_PICKLE = Limit(8, 2**16)  # float32 of int8, and some
SAMPLES_OF_HDF5 = Limit(64, 2**26)  # compressed, and averaged over words
ARRAY_OF_HDF5 = Limit(1100, 2**20)  # deflate expands a byte to 1032 at most; a mebibyte is harmless
ARRAYS_OF_ARCHIVE = Limit(200, 2**26)
