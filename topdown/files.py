"""Writes files whole or not at all, and imports optional libraries."""

import importlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file through a function that fills it, and replaces an older file only when the new one is complete."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            write(file)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_file(path, lambda file: file.write(text.encode("utf-8")))


def require(module: str, extra: str) -> Any:
    """Imports an optional library.

    Args:
        module: Name of the library, or of a module of it.
        extra: Extra of this package that brings it.

    Raises:
        ImportError: naming the extra.

    Example:
        >>> require("no_such_library", "plots")
        Traceback (most recent call last):
        ...
        ImportError: no_such_library is not installed: pip install 'topdown-latch[plots]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:  # of the library, or of one that it needs
        raise ImportError(f"{error.name} is not installed: pip install 'topdown-latch[{extra}]'") from None
