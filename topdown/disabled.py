"""Latches whose feedback is turned off, in the thread that turned it off."""

from __future__ import annotations

import threading
import warnings
from typing import Generic, TypeVar

M = TypeVar("M")

_here = threading.local()  # .disabled: what is turned off in this thread


def is_disabled(module: object) -> bool:
    """Tells whether a module is turned off in this thread; also within compiled code."""
    for other in getattr(_here, "disabled", ()):  # compilers do not know `any` of a generator
        if other is module:
            return True
    return False


class Disabled(Generic[M]):
    """Turns a module off within a `with` block, in the current thread.

    Args:
        module: Module to turn off; it has to ask :func:`is_disabled`.

    Example:
        >>> with Disabled("anything") as module:
        ...     is_disabled(module)
        True
    """

    def __init__(self, module: M) -> None:
        self.module = module
        self.entered = False

    def __enter__(self) -> M:
        """Turns the module off, and returns it."""
        self.entered = True
        _here.disabled = [*getattr(_here, "disabled", ()), self.module]
        return self.module

    def __exit__(self, *_: object) -> None:
        """Turns the module on again, unless an outer block has turned it off, too."""
        last = max(i for i, module in enumerate(_here.disabled) if module is self.module)
        _here.disabled = [*_here.disabled[:last], *_here.disabled[last + 1 :]]

    def __del__(self) -> None:
        """Warns about a call that had no effect."""
        if not self.entered:
            warnings.warn("disabled() alone does nothing: write `with latch.disabled():`", RuntimeWarning, stacklevel=2)
