"""Locks a directory against other processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from topdown.datasets.errors import DataError

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where directories are not locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Locks a directory until the block ends, or until the process dies.

    Args:
        path: Path of an existing directory; None for no lock.

    Raises:
        DataError: if another process has locked it, naming that process.
    """
    if path is None or fcntl is None:
        yield
        return
    with _lock(path) as file:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            (path / ".lock").unlink(missing_ok=True)


def _lock(path: Path) -> IO[str]:
    """Opens and locks the lock file, and tries again if another process has just removed it."""
    while True:
        file = (path / ".lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                process = file.read().strip()
            raise DataError(f"{path}: process {process} writes there; wait for it, or choose another --out") from None
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path / ".lock")):
                return file
        except FileNotFoundError:
            pass
        file.close()
