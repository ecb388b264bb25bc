"""A restricted unpickler for arrays.

It is the unpickler of Python in Python, reduced to the instructions that arrays need. The one in C allocates what a file
declares, and crashes on some files. This one refuses sets, extensions, and keys that are containers (their hash recurses
without a limit), and reads through a :class:`Reader`, which returns no more bytes than the file has.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
from collections.abc import Callable, Mapping
from reprlib import repr as repr_  # a crafted object may have an endless one
from typing import IO, Any, ClassVar, NoReturn

_PythonUnpickler: Any = pickle._Unpickler  # documented, but incomplete in typeshed


class Refused(Exception):
    """A request of a pickle that is refused."""


class Reader:
    """Reads a file from front to back, hashes it on the way, and allocates nothing for bytes that the file does not have."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.left, self.hash = file, size, hashlib.sha256()

    def read(self, count: int) -> bytes:
        """Reads bytes, if as many are left."""
        if count > self.left:
            raise EOFError(f"{count} bytes are announced but {self.left} are left")
        return self._seen(self.file.read(count))

    def readline(self) -> bytes:
        """Reads a line."""
        return self._seen(self.file.readline())

    def finish(self) -> str:
        """Reads the rest, and returns the SHA-256 of everything."""
        while self._seen(self.file.read(2**20)):
            pass
        return self.hash.hexdigest()

    def _seen(self, data: bytes) -> bytes:
        self.hash.update(data)
        self.left -= len(data)
        return data


def plain_key(key: Any) -> Any:
    """Rejects container keys."""
    if not isinstance(key, (str, bytes, int, float, type(None))):
        raise Refused(f"hash of a {type(key).__name__}")
    if isinstance(key, int) and not -(2**53) < key < 2**53:  # larger ones may all have the same hash
        raise Refused("hash of a huge number")
    return key


class Unpickler(_PythonUnpickler):  # type: ignore[misc]
    """Runs one pickle of a file.

    Args:
        reader: File.
        allowed: Stand-in for each (module, name) that the pickle may name.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, reader: Reader, allowed: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(reader, encoding="latin1")
        self.allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in for a function or a class."""
        if (module, name) not in self.allowed:
            raise Refused(f"{module}.{name}")
        return self.allowed[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Refuses objects outside of the pickle."""
        raise Refused(f"persistent_load({repr_(pid)})")

    def get_extension(self, code: int) -> NoReturn:
        """Refuses the extensions of `copyreg`."""
        raise Refused(f"the extension {code}")

    def _refuse_set(self) -> NoReturn:
        raise Refused("set")

    def _load_dict(self) -> None:
        items = self.pop_mark()
        self.append({plain_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def _load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._top_dict()[plain_key(key)] = value

    def _load_setitems(self) -> None:
        items = self.pop_mark()
        self._top_dict().update({plain_key(items[i]): items[i + 1] for i in range(0, len(items), 2)})

    def _top_dict(self) -> dict[Any, Any]:
        top = self.stack[-1]
        if type(top) is not dict:
            raise Refused(f"setitem of a {type(top).__name__}")
        return top

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
