"""Checks that an output directory is writable, and reads and writes JSON."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from topdown.datasets.errors import DataError
from topdown.files import write_text


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


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON, atomically. nan and infinities, which JSON does not have, become null."""
    write_text(path, json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path, remedy: str = "choose another directory") -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: Path of the file.
        remedy: Remedy that the message names. (Default: that for a file which :func:`write_json` wrote)

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
