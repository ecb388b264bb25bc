"""Latches whose feedback is turned off, in the thread that turned it off."""

from __future__ import annotations

import threading
import warnings
from typing import Any

_here = threading.local()  # .disabled: what is turned off in this thread


def is_disabled(module: object) -> bool:
    """Tells whether a module is turned off in this thread; also within compiled code."""
    return any([other is module for other in getattr(_here, "disabled", ())])  # a list: compilers cannot do it of a generator


class Disabled:
    """Turns a module off within a `with` block, in the current thread.

    Args:
        module: Module to turn off; it has to ask :func:`is_disabled`.

    Example:
        >>> with Disabled("anything") as module:
        ...     is_disabled(module)
        True
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.before: tuple[Any, ...] | None = None  # what was turned off before the block

    def __enter__(self) -> Any:
        """Turns the module off, and returns it."""
        self.before = getattr(_here, "disabled", ())
        _here.disabled = (*self.before, self.module)
        return self.module

    def __exit__(self, *_: object) -> None:
        """Turns the module on again, unless an outer block has turned it off, too."""
        _here.disabled = self.before

    def __del__(self) -> None:
        """Warns about a call that had no effect."""
        if self.before is None:
            warnings.warn("disabled() alone does nothing: write `with latch.disabled():`", RuntimeWarning, stacklevel=2)
