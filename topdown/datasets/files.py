"""Checks that an output directory is writable, and reads and writes JSON."""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from topdown.datasets.errors import DataError
from topdown.files import write_text

try:
    import fcntl
except ModuleNotFoundError:  # on Windows, where directories are not locked
    fcntl = None  # type: ignore[assignment]

FORMAT = 1  # of results.json, of the runs of a comparison, and of checkpoints of trainings


def check_writable(path: Path) -> None:
    """Checks that a directory exists, or can be created, and is writable. It creates nothing.

    Raises:
        DataError: if not.
    """
    existing = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not a directory" if not existing.is_dir() else "may not be written to"
        raise DataError(f"{path}: {existing} {what}; choose another --out")


def make_directory(path: Path) -> None:
    """Creates a directory, unless it exists, and checks that it is writable.

    Raises:
        DataError: if that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written to ({error.strerror}); choose another --out") from None


@contextlib.contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Context manager in which no other process may lock a directory. The lock ends with the process, however that ends.

    Args:
        path: Path of the directory, which exists; None for none.

    Raises:
        DataError: if another process has locked it, naming that process.
    """
    if path is None or fcntl is None:
        yield
        return
    with (path / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise DataError(
                f"{path}: process {file.read().strip()} writes there; wait for it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            (path / ".lock").unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON, atomically. nan and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Checks that a file that this package wrote is of a format that this version reads. Files without a number have the first.

    Raises:
        DataError: if it is of another format.
    """
    if (found := content.get("format", 1)) != FORMAT:
        raise DataError(f"{path}: has format {found!r}, but this version of topdown reads format {FORMAT}; update topdown")


def read_json(path: Path, remedy: str = "choose another directory") -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: Path of the file.
        remedy: What to do where it is none, for the message. (Default: that for a file which :func:`write_json` wrote)

    Raises:
        DataError: if it cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; {remedy}")
    return content
