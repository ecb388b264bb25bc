"""Reads pickles of arrays and tensors without running the code that they may hold.

A pickle is a program that can run any code when it is loaded. Here it runs in an unpickler that has only the instructions that
arrays need. It gets stand-ins for the few functions that build arrays. Every other function is refused by its name, before it
is called.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.limits import OBJECTS_OF_PICKLE
from topdown.datasets.formats.helpers.stand_ins import Makers, Pending
from topdown.datasets.formats.helpers.unpickler import Reader, Refused, Unpickler


class Loaded(NamedTuple):
    """Content of a pickle, the SHA-256 of its file, and the size of the file in bytes."""

    content: Any
    sha256: str
    size: int


def load_arrays(path: str | Path) -> Loaded:
    """Loads a pickle that holds nothing but arrays, tensors, containers, strings and numbers.

    Args:
        path: Path of the file, which is read once. Tensors become arrays.

    Returns:
        Content, and hash.

    Raises:
        DataError: if the file is missing, is not a pickle, is cut short, or would call anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            reader = Reader(file, os.fstat(file.fileno()).st_size)
            makers = Makers(OBJECTS_OF_PICKLE.factor * reader.left + OBJECTS_OF_PICKLE.small)
            content = _unwrap(Unpickler(reader, makers.allowed).load(), {})
            return Loaded(content, reader.finish(), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; name a file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except Refused as error:
        request = str(error)[:200]
        raise DataError(
            f"{path}: refused, since it asks for {request}; only arrays, tensors, lists, strings and numbers are loaded"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
        remedy = "name another file, download it again, or save a table as .csv"
        raise DataError(f"{path}: not a pickle, or cut short ({reason}); {remedy}") from None


def _unwrap(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Replaces pending arrays in all containers; `done` keeps each visited object alive, so that ids stay unique."""
    if id(value) in done:
        return done[id(value)][1]
    result = value
    if isinstance(value, Pending):
        result = np.ndarray((0,), np.int8) if value.array is None else value.array
    done[id(value)] = value, result
    if isinstance(result, np.ndarray) and result.dtype.hasobject:
        for index in np.ndindex(result.shape):
            result[index] = _unwrap(result[index], done)
    elif type(value) is list:
        value[:] = [_unwrap(item, done) for item in value]
    elif type(value) is dict:
        for key in list(value):
            value[key] = _unwrap(value[key], done)
    elif type(value) is tuple:
        result = tuple(_unwrap(item, done) for item in value)
        done[id(value)] = value, result
    return result
