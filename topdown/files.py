"""Files that are written whole or not at all, and optional libraries that say which extra brings them."""

from __future__ import annotations

import importlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


def write_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file through a function that fills it; what stood there stays until the new content is complete."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            write(file)
            file.close()
            os.chmod(file.name, 0o666 & ~umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    write_file(path, lambda file: file.write(text.encode("utf-8")))


def write_json(path: Path, content: Any) -> None:
    """Writes strict JSON, whole or not at all; nan and infinities, which JSON lacks, become null."""
    write_text(path, json.dumps(_without_nan(content), indent=1, allow_nan=False) + "\n")


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
    except ModuleNotFoundError:
        name = module.partition(".")[0]
        raise ImportError(f"{name} is not installed: pip install 'topdown-latch[{extra}]'") from None


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def umask() -> int:
    """Returns the permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
