"""Reads pickles of arrays without ever running what is in them."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from topdown.experiments.data import DataError


def load_arrays(path: str | Path) -> Any:
    """Loads a pickle that holds nothing but arrays, containers, strings and numbers.

    A pickle is a program, and may do anything to whoever loads it. This reader knows a handful of functions, those that
    numpy arrays are made of, and refuses every other by its name before it is called.

    Args:
        path: The file.

    Returns:
        What the pickle holds.

    Raises:
        DataError: if the file is missing, is not a pickle, is cut short, or would call anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _ArrayUnpickler(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; name a file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except _Refused as error:
        raise DataError(f"{path}: refused, since it would call {error}; load only arrays, lists, strings and numbers") from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DataError(f"{path}: not a pickle, or cut short ({reason}); download it again") from None


class _Refused(Exception):
    pass


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> Any:
    if subtype is not np.ndarray or shape != (0,):
        raise _Refused(f"numpy's _reconstruct for {subtype} of shape {shape}")
    return np.ndarray((0,), np.int8)  # empty, as numpy writes it; its state follows, with shape, dtype and data


def _scalar(dtype: Any, data: Any = b"") -> Any:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(data, (bytes, str)):
        raise _Refused(f"numpy's scalar for {dtype}")
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype, count=1)[0]


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str = "utf-8") -> bytes:
    if encoding not in ("latin1", "utf-8"):
        raise _Refused(f"codecs.encode with {encoding!r}")
    return text.encode(encoding)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _frombuffer for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent_load({pid!r})")
