"""Reads pickles of arrays without ever running what is in them."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as repr_  # a crafted object may have an endless one
from typing import Any, NoReturn

import numpy as np

from topdown.experiments.data import DataError


def load_arrays(path: str | Path) -> Any:
    """Loads a pickle that holds nothing but arrays, containers, strings and numbers.

    A pickle is a program, and may do anything to whoever loads it. This reader gives it stand-ins for the handful of
    functions that numpy arrays are made of, which take plain types of numbers and strings only, and refuses every other by
    its name before it is called.

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
            return _unwrap(_ArrayUnpickler(file, encoding="latin1").load(), {})
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; name a file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except _Refused as error:
        call = str(error)[:200]
        raise DataError(f"{path}: refused, since it would call {call}; load only arrays, lists, strings and numbers") from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
        raise DataError(f"{path}: not a pickle, or cut short ({reason}); download it again") from None


class _Refused(Exception):
    pass


class _StandIn:
    """What a pickle gets in place of a function: it may be called, and nothing else."""

    __slots__ = ("call",)
    call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _Refused(f"setattr of {name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise _Refused("setstate of a function")


class _DType:
    """A plain type of numbers, strings or objects; a pickled numpy dtype may lie about what it holds, and is never made."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufcSUO]\d{1,9}", code):
            raise _Refused(f"numpy's dtype for {repr_(code)}")
        self.code, self.order = code.lstrip("<>|="), "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None,) * 3:
            raise _Refused(f"numpy's dtype with state {repr_(state)}")
        self.order = state[1]

    def make(self) -> np.dtype[Any]:
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


class _Pending:
    """An array to be. A pickle never gets hold of the array itself, whose memory it could write to."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray[Any, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        made = _made(dtype)
        if self.array is not None or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused(f"numpy's setstate with shape {repr_(shape)}")
        if made.hasobject and (type(data) is not list or len(data) != math.prod(shape)):
            raise _Refused("numpy's setstate with another number of objects than its shape")
        if not made.hasobject and (not isinstance(data, (bytes, str)) or made.itemsize == 0):
            raise _Refused(f"numpy's setstate for {made} from a {type(data).__name__}")
        array = np.ndarray((0,), np.int8)
        array.__setstate__((1, shape, made, fortran, data))
        self.array = array


def _unwrap(value: Any, done: dict[int, tuple[Any, Any]]) -> Any:
    """Puts arrays in the place of those that are pending, in all containers; `done` keeps what was seen, and alive."""
    if id(value) in done:
        return done[id(value)][1]
    result = value
    if isinstance(value, _Pending):
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


def _made(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _DType):
        raise _Refused(f"numpy with a dtype {repr_(dtype)}")
    return dtype.make()


def _reconstruct(subtype: Any, shape: Any, typecode: Any) -> Any:
    if subtype is not _NDARRAY or shape != (0,):
        raise _Refused(f"numpy's _reconstruct with shape {repr_(shape)}")
    return _Pending()  # its state follows, with shape, dtype and data


def _scalar(dtype: Any, data: Any = b"") -> Any:
    made = _made(dtype)
    data = data.encode("latin1") if isinstance(data, str) else data
    if made.hasobject or not isinstance(data, bytes) or len(data) != made.itemsize:
        raise _Refused(f"numpy's scalar for {made}")
    return np.frombuffer(data, made, count=1)[0] if data else made.type()


def _frombuffer(buffer: Any, dtype: Any, shape: Any, order: Any) -> Any:
    if type(buffer) not in (bytes, bytearray):
        raise _Refused(f"numpy's _frombuffer with a {type(buffer).__name__}")
    return np.frombuffer(bytes(buffer), _made(dtype)).reshape(shape, order=order).copy(order="K")


def _encode(text: Any, encoding: Any = "utf-8") -> Any:
    if not isinstance(text, str) or encoding not in ("latin1", "utf-8"):
        raise _Refused(f"codecs.encode with {repr_(encoding)}")
    return text.encode(encoding)


def _never(*_: Any) -> NoReturn:
    raise _Refused("numpy.ndarray")


_NDARRAY = _StandIn(_never)  # only named, as an argument of _reconstruct
_ALLOWED: dict[tuple[str, str], _StandIn] = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn(_DType),
    ("collections", "OrderedDict"): _StandIn(dict),
    ("_codecs", "encode"): _StandIn(_encode),
    ("__builtin__", "bytes"): _StandIn(lambda: b""),  # so the oldest protocols write empty bytes
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _StandIn(_reconstruct) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _StandIn(_scalar) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _StandIn(_frombuffer) for core in ("core", "_core")},
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent_load({repr_(pid)})")
