"""Reads pickles of arrays and tensors without ever running what is in them.

A pickle is a program, and may do anything to whoever loads it. Here Python's own unpickler in Python (not the one in C, which
allocates what a file declares, and crashes on some) runs without the instructions that arrays do not need. In place of the
handful of functions that arrays are made of it gets stand-ins, which take plain types of numbers and strings only; every
other function is refused by its name before it is called. All together may make a few times as many bytes as the file has.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as repr_  # a crafted object may have an endless one
from typing import IO, Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from topdown.experiments.errors import DataError

EXPANSION = 4  # how many times its own size a pickle may make


class Loaded(NamedTuple):
    """What a pickle holds, the SHA-256 of its file, and the size of the file in bytes."""

    content: Any
    sha256: str
    size: int


def load_arrays(path: str | Path) -> Loaded:
    """Loads a pickle that holds nothing but arrays, tensors, containers, strings and numbers.

    Args:
        path: The file, which is read once. Tensors become arrays.

    Returns:
        What it holds, and its hash.

    Raises:
        DataError: if the file is missing, is not a pickle, is cut short, or would call anything else.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            reader = _Reader(file, os.fstat(file.fileno()).st_size)
            content = _unwrap(_Unpickler(reader, _Makers(EXPANSION * reader.left + 2**16)).load(), {})
            return Loaded(content, reader.finish(), os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a directory; name a file in it") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except _Refused as error:
        call = str(error)[:200]
        raise DataError(
            f"{path}: refused, since it asks for {call}; only arrays, lists, strings and numbers are loaded"
        ) from None
    except Exception as error:  # a damaged pickle raises almost anything
        reason = f"{type(error).__name__}: {error}"[:200].rstrip(": ")
        raise DataError(f"{path}: not a pickle, or cut short ({reason}); download it again") from None


class _Refused(Exception):
    pass


class _Reader:
    """Reads a file from front to back, hashes it on the way, and allocates nothing for bytes that are not there."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left, self.hash = file, size, hashlib.sha256()

    def read(self, count: int) -> bytes:
        if count > self.left:
            raise EOFError(f"{count} bytes are announced but {self.left} are left")
        return self._seen(self.file.read(count))

    def readline(self) -> bytes:
        return self._seen(self.file.readline())

    def finish(self) -> str:
        while self._seen(self.file.read(2**20)):
            pass
        return self.hash.hexdigest()

    def _seen(self, data: bytes) -> bytes:
        self.hash.update(data)
        self.left -= len(data)
        return data


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

    __slots__ = ("array", "makers")

    def __init__(self, makers: _Makers, array: np.ndarray[Any, Any] | None = None) -> None:
        self.makers, self.array = makers, array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        made = _made(dtype)
        if self.array is not None or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise _Refused(f"numpy's setstate with shape {repr_(shape)}")
        if made.hasobject and (type(data) is not list or len(data) != math.prod(shape)):
            raise _Refused("numpy's setstate with another number of objects than its shape")
        if not made.hasobject and (not isinstance(data, (bytes, str)) or made.itemsize == 0):
            raise _Refused(f"numpy's setstate for {made} from a {type(data).__name__}")
        self.makers.spend(8 * len(data) if made.hasobject else len(data))
        array = np.ndarray((0,), np.int8)
        array.__setstate__((1, shape, made, fortran, data))
        self.array = array


class _Storage(NamedTuple):
    """The memory of torch tensors."""

    values: np.ndarray[Any, Any]


class _Makers:
    """The stand-ins of one file, and how many bytes they may still make."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        ndarray = _StandIn(_never)  # only named, as an argument of _reconstruct
        self.allowed = {
            ("numpy", "ndarray"): ndarray,
            ("numpy", "dtype"): _StandIn(_DType),
            ("collections", "OrderedDict"): _StandIn(_ordered),
            ("_codecs", "encode"): _StandIn(self._encode),
            ("__builtin__", "bytes"): _StandIn(lambda: b""),  # so the oldest protocols write empty bytes
            ("builtins", "bytearray"): _StandIn(self._bytearray),
            ("__builtin__", "bytearray"): _StandIn(self._bytearray),
            ("torch._utils", "_rebuild_tensor_v2"): _StandIn(self._rebuild_tensor),
            ("torch.storage", "_load_from_bytes"): _StandIn(self._load_storage),
        }
        for core in ("core", "_core"):
            self.allowed[f"numpy.{core}.multiarray", "_reconstruct"] = _StandIn(
                lambda *arguments: self._reconstruct(ndarray, *arguments)
            )
            self.allowed[f"numpy.{core}.multiarray", "scalar"] = _StandIn(self._scalar)
            self.allowed[f"numpy.{core}.numeric", "_frombuffer"] = _StandIn(self._frombuffer)

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise _Refused("for many more bytes than it has")

    def _reconstruct(self, ndarray: _StandIn, subtype: Any, shape: Any, typecode: Any) -> _Pending:
        if subtype is not ndarray or shape != (0,):
            raise _Refused(f"numpy's _reconstruct with shape {repr_(shape)}")
        return _Pending(self)  # its state follows, with shape, dtype and data

    def _scalar(self, dtype: Any, data: Any = b"") -> Any:
        made = _made(dtype)
        data = data.encode("latin1") if isinstance(data, str) else data
        if made.hasobject or not isinstance(data, bytes) or len(data) != made.itemsize:
            raise _Refused(f"numpy's scalar for {made}")
        self.spend(len(data))
        return np.frombuffer(data, made, count=1)[0] if data else made.type()

    def _frombuffer(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> _Pending:
        if type(buffer) not in (bytes, bytearray):
            raise _Refused(f"numpy's _frombuffer with a {type(buffer).__name__}")
        array = np.frombuffer(buffer, _made(dtype)).reshape(shape, order=order)
        if not array.flags.writeable:
            self.spend(len(buffer))
            array = array.copy(order="K")
        return _Pending(self, array)

    def _encode(self, text: Any, encoding: Any = "utf-8") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "utf-8"):
            raise _Refused(f"codecs.encode with {repr_(encoding)}")
        self.spend(len(text))
        return text.encode(encoding)

    def _bytearray(self, data: Any = b"") -> bytearray:
        if type(data) is not bytes:
            raise _Refused(f"bytearray with a {type(data).__name__}")
        self.spend(len(data))
        return bytearray(data)

    def _load_storage(self, data: Any) -> _Storage:
        """Reads what `torch.save` writes for the storage of a pickled tensor: five pickles, a count, and the values."""
        if type(data) is not bytes:
            raise _Refused(f"torch's _load_from_bytes with a {type(data).__name__}")
        reader = _Reader(io.BytesIO(data), len(data))
        magic, protocol, system, storage, keys = (_StorageUnpickler(reader, self).load() for _ in range(5))
        if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or type(storage) is not _DType or type(keys) is not list:
            raise _Refused("torch's _load_from_bytes for something other than a storage")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise _Refused("torch's _load_from_bytes for the numbers of another kind of machine")
        (count,) = struct.unpack("<q", reader.read(8))
        made = storage.make()
        if count < 0 or count * made.itemsize > reader.left:
            raise _Refused(f"torch's _load_from_bytes for {count} values where there are {reader.left} bytes")
        return _Storage(np.frombuffer(data, made, count, len(data) - reader.left) if count else np.empty(0, made))

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Pending:
        numbers = [offset, *size, *stride] if type(size) is tuple and type(stride) is tuple else [None]
        if type(storage) is not _Storage or not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
            raise _Refused(f"torch's _rebuild_tensor_v2 with size {repr_(size)}")
        values = storage.values
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if count and last >= len(values):
            raise _Refused(f"torch's _rebuild_tensor_v2 with size {repr_(size)} of {len(values)} values")
        self.spend(count * values.itemsize)
        if count == 0:
            return _Pending(self, np.empty(size, values.dtype))
        steps = [step * values.itemsize for step in stride]
        return _Pending(self, np.ndarray(size, values.dtype, values, offset * values.itemsize, steps))


def _made(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, _DType):
        raise _Refused(f"numpy with a dtype {repr_(dtype)}")
    return dtype.make()


def _never(*_: Any) -> NoReturn:
    raise _Refused("numpy.ndarray")


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise _Refused("collections.OrderedDict with something other than pairs")
    return {_key(key): value for key, value in pairs}


def _key(key: Any) -> Any:
    """Lets simple keys pass: the hash of nested tuples recurses without a limit."""
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise _Refused(f"hash of a {type(key).__name__}")
    return key


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


_PythonUnpickler: Any = pickle._Unpickler  # the one in Python, which pickle documents but typeshed hardly knows


class _Unpickler(_PythonUnpickler):  # type: ignore[misc]
    dispatch: ClassVar[dict[int, Any]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, reader: _Reader, makers: _Makers) -> None:
        super().__init__(reader, encoding="latin1")
        self.reader, self.makers = reader, makers

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.makers.allowed:
            raise _Refused(f"{module}.{name}")
        return self.makers.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused(f"persistent_load({repr_(pid)})")

    def get_extension(self, code: int) -> NoReturn:
        raise _Refused(f"the extension {code}")

    def _refuse_set(self) -> NoReturn:
        raise _Refused("set")

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._dict()[_key(key)] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._dict().update({_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def _dict(self) -> dict[Any, Any]:
        target = self.stack[-1]
        if type(target) is not dict:
            raise _Refused(f"setitem of a {type(target).__name__}")
        return target

    def _load_bytearray8(self) -> None:
        (count,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(count)))

    dispatch[pickle.EMPTY_SET[0]] = _refuse_set
    dispatch[pickle.FROZENSET[0]] = _refuse_set
    dispatch[pickle.ADDITEMS[0]] = _refuse_set
    dispatch[pickle.DICT[0]] = _load_dict
    dispatch[pickle.SETITEM[0]] = _load_setitem
    dispatch[pickle.SETITEMS[0]] = _load_setitems
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray8


STORAGES = dict(
    DoubleStorage="f8", FloatStorage="f4", HalfStorage="f2", LongStorage="i8", IntStorage="i4", ShortStorage="i2",
    CharStorage="i1", ByteStorage="u1", BoolStorage="b1",
)  # fmt: skip


class _StorageUnpickler(_Unpickler):
    """Of the pickles within the bytes of a torch storage, whose type is the only class that they name."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in STORAGES:
            raise _Refused(f"{module}.{name}")
        return name

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage" or pid[1] not in STORAGES:
            raise _Refused(f"persistent_load({repr_(pid)})")
        dtype = _DType(STORAGES[pid[1]])
        dtype.order = "<"
        return dtype
