"""Safe replacements for the functions that pickles call.

Stand-ins take plain types of numbers and strings only. A pickle never gets hold of an array, a dtype or a function itself,
and the bytes that all together allocate are limited to a few times the size of the file.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Callable
from reprlib import repr as repr_
from typing import Any, NamedTuple, NoReturn

import numpy as np

from topdown.datasets.formats.helpers.unpickler import Reader, Refused, Unpickler, plain_key

MOST_OF_NOTHING = 2**20  # the longest side of an array without elements
STORAGES = dict(
    DoubleStorage="f8", FloatStorage="f4", HalfStorage="f2", LongStorage="i8", IntStorage="i4", ShortStorage="i2",
    CharStorage="i1", ByteStorage="u1", BoolStorage="b1",
)  # fmt: skip


class StandIn:
    """Replaces a function; it can only be called."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *arguments: Any) -> Any:
        """Calls the replacement."""
        return self.function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise Refused(f"setattr of {name}")

    def __setstate__(self, state: Any) -> NoReturn:
        raise Refused("setstate of a function")


class DType:
    """A plain type of numbers, strings or objects; a pickled numpy dtype is not trusted, and never created."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or not re.fullmatch(r"[<>|=]?[biufcSUO]\d{1,9}", code):
            raise Refused(f"numpy's dtype for {repr_(code)}")
        self.code, self.order = code.lstrip("<>|="), "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "=") or state[2:5] != (None,) * 3:
            raise Refused(f"numpy's dtype with state {repr_(state)}")
        self.order = state[1]

    def make(self) -> np.dtype[Any]:
        """Returns the numpy dtype, which the pickle never sees."""
        return np.dtype(self.code).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


class Pending:
    """Placeholder for an array under construction. A pickle never gets the array itself, whose memory it could write to."""

    __slots__ = ("array", "makers")

    def __init__(self, makers: Makers, array: np.ndarray[Any, Any] | None = None) -> None:
        self.makers, self.array = makers, array

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        numpy_dtype = _numpy_dtype(dtype)
        if self.array is not None or not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
            raise Refused(f"numpy's setstate with shape {repr_(shape)}")
        if 0 in shape and max(shape) > MOST_OF_NOTHING:
            raise Refused(f"numpy's setstate with shape {repr_(shape)}, which holds nothing")
        if numpy_dtype.hasobject and (type(data) is not list or len(data) != math.prod(shape)):
            raise Refused("numpy's setstate with another number of objects than its shape")
        if not numpy_dtype.hasobject and (not isinstance(data, (bytes, str)) or numpy_dtype.itemsize == 0):
            raise Refused(f"numpy's setstate for {numpy_dtype} from a {type(data).__name__}")
        self.makers.spend(8 * len(data) if numpy_dtype.hasobject else len(data))
        array = np.ndarray((0,), np.int8)
        array.__setstate__((1, shape, numpy_dtype, fortran, data))
        self.array = checked_text(array)


class Storage(NamedTuple):
    """The memory of torch tensors."""

    values: np.ndarray[Any, Any]


class Makers:
    """The stand-ins of one file, and the number of bytes that they may still allocate."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        ndarray = StandIn(_never)  # named only as an argument of _reconstruct
        self.allowed = {
            ("numpy", "ndarray"): ndarray,
            ("numpy", "dtype"): StandIn(DType),
            ("collections", "OrderedDict"): StandIn(self._ordered),
            ("_codecs", "encode"): StandIn(self._encode),
            ("__builtin__", "bytes"): StandIn(lambda: b""),  # the oldest protocols write empty bytes as this
            ("builtins", "bytearray"): StandIn(self._bytearray),
            ("__builtin__", "bytearray"): StandIn(self._bytearray),
            ("torch._utils", "_rebuild_tensor_v2"): StandIn(self._rebuild_tensor),
            ("torch.storage", "_load_from_bytes"): StandIn(self._load_storage),
        }
        for core in ("core", "_core"):
            self.allowed[f"numpy.{core}.multiarray", "_reconstruct"] = StandIn(
                lambda *arguments: self._reconstruct(ndarray, *arguments)
            )
            self.allowed[f"numpy.{core}.multiarray", "scalar"] = StandIn(self._scalar)
            self.allowed[f"numpy.{core}.numeric", "_frombuffer"] = StandIn(self._frombuffer)

    def spend(self, count: int) -> None:
        """Subtracts allocated bytes from the budget."""
        self.budget -= count
        if self.budget < 0:
            raise Refused("for many more bytes than it has")

    def _reconstruct(self, ndarray: StandIn, subtype: Any, shape: Any, typecode: Any) -> Pending:
        if subtype is not ndarray or shape != (0,):
            raise Refused(f"numpy's _reconstruct with shape {repr_(shape)}")
        return Pending(self)  # its state follows, with shape, dtype and data

    def _ordered(self, pairs: Any = ()) -> dict[Any, Any]:
        if type(pairs) not in (list, tuple) or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            raise Refused("collections.OrderedDict with something other than pairs")
        self.spend(100 * len(pairs))
        return {plain_key(key): value for key, value in pairs}

    def _scalar(self, dtype: Any, data: Any = b"") -> Any:
        numpy_dtype = _numpy_dtype(dtype)
        data = data.encode("latin1") if isinstance(data, str) else data
        if numpy_dtype.hasobject or not isinstance(data, bytes) or len(data) != numpy_dtype.itemsize:
            raise Refused(f"numpy's scalar for {numpy_dtype}")
        self.spend(len(data))
        return checked_text(np.frombuffer(data, numpy_dtype, count=1))[0] if data else numpy_dtype.type()

    def _frombuffer(self, buffer: Any, dtype: Any, shape: Any, order: Any) -> Pending:
        if type(buffer) not in (bytes, bytearray):
            raise Refused(f"numpy's _frombuffer with a {type(buffer).__name__}")
        array = checked_text(np.frombuffer(buffer, _numpy_dtype(dtype))).reshape(shape, order=order)
        if not array.flags.writeable:
            self.spend(len(buffer))
            array = array.copy(order="K")
        return Pending(self, array)

    def _encode(self, text: Any, encoding: Any = "utf-8") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "utf-8"):
            raise Refused(f"codecs.encode with {repr_(encoding)}")
        self.spend(len(text))
        return text.encode(encoding)

    def _bytearray(self, data: Any = b"") -> bytearray:
        if type(data) is not bytes:
            raise Refused(f"bytearray with a {type(data).__name__}")
        self.spend(len(data))
        return bytearray(data)

    def _load_storage(self, data: Any) -> Storage:
        """Reads what `torch.save` writes for the storage of a pickled tensor: five pickles, a count, and the values."""
        if type(data) is not bytes:
            raise Refused(f"torch's _load_from_bytes with a {type(data).__name__}")
        self.spend(len(data))
        reader = Reader(io.BytesIO(data), len(data))
        magic, protocol, system, storage, keys = (StorageUnpickler(reader).load() for _ in range(5))
        if magic != 0x1950A86A20F9469CFC6C or protocol != 1001 or type(storage) is not DType or type(keys) is not list:
            raise Refused("torch's _load_from_bytes for something other than a storage")
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise Refused("torch's _load_from_bytes for the numbers of another kind of machine")
        (count,) = struct.unpack("<q", reader.read(8))
        dtype = storage.make()
        if count < 0 or count * dtype.itemsize > reader.left:
            raise Refused(f"torch's _load_from_bytes for {count} values where there are {reader.left} bytes")
        return Storage(np.frombuffer(data, dtype, count, len(data) - reader.left) if count else np.empty(0, dtype))

    def _rebuild_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Pending:
        numbers = [offset, *size, *stride] if type(size) is tuple and type(stride) is tuple else [None]
        if type(storage) is not Storage or not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
            raise Refused(f"torch's _rebuild_tensor_v2 with size {repr_(size)}")
        values = storage.values
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        count = math.prod(size)
        if count and last >= len(values):
            raise Refused(f"torch's _rebuild_tensor_v2 with size {repr_(size)} of {len(values)} values")
        self.spend(count * values.itemsize)
        if count == 0:
            return Pending(self, np.empty(size, values.dtype))
        steps = [step * values.itemsize for step in stride]
        return Pending(self, np.ndarray(size, values.dtype, values, offset * values.itemsize, steps))


def checked_text(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Rejects arrays with invalid Unicode, of which numpy makes strings that crash."""
    if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
        letters = np.ascontiguousarray(array).reshape(-1).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if letters.max() > 0x10FFFF:
            raise Refused("a letter that does not exist")
    return array


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    if not isinstance(dtype, DType):
        raise Refused(f"numpy with a dtype {repr_(dtype)}")
    return dtype.make()


def _never(*_: Any) -> NoReturn:
    raise Refused("numpy.ndarray")


class StorageUnpickler(Unpickler):
    """Runs the pickles within the bytes of a torch storage, whose type is the only class that they name."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader, {("torch", name): name for name in STORAGES})

    def persistent_load(self, pid: Any) -> Any:
        """Returns the type of the values; they follow the pickles."""
        if type(pid) is not tuple or len(pid) != 6 or pid[0] != "storage" or pid[1] not in STORAGES:
            raise Refused(f"persistent_load({repr_(pid)})")
        dtype = DType(STORAGES[pid[1]])
        dtype.order = "<"
        return dtype
