"""Directories that can be written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from topdown.datasets.errors import DataError


def check_writable(path: Path) -> None:
    """Checks, without making anything, that a directory is there or can be made, and can be written to.

    Raises:
        DataError: if not.
    """
    existing = next(parent for parent in [path.absolute(), *path.absolute().parents] if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not a directory" if not existing.is_dir() else "may not be written to"
        raise DataError(f"{path}: {existing} {what}; choose another --out")


def make_directory(path: Path) -> None:
    """Makes a directory that can be written to, unless it is there.

    Raises:
        DataError: if that is impossible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DataError(f"{path}: cannot be written to ({error.strerror}); choose another --out") from None
