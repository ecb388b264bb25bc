"""Stops a training after a step when the process is asked to end, so that the step is saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor

Begun: TypeAlias = tuple[int, Tensor, int]  # steps of an epoch, the sum of their losses, and the labels that they counted


class Stopped(KeyboardInterrupt):
    """Is raised to end a training: by `on_step` of :func:`topdown.training.fit` after a step, which the checkpoint then holds.

    Args:
        number: Number of the signal. (Default: SIGINT)
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = int(number)
        self.begun: Begun | None = None


@contextlib.contextmanager
def stopped_after_a_step() -> Iterator[Callable[..., None]]:
    """Context manager in which SIGINT and SIGTERM wait for the end of a step; a second signal ends at once.

    Yields:
        Function to call after each step. It raises :class:`Stopped` if there was a signal.

    Example:
        >>> try:
        ...     with stopped_after_a_step() as check:
        ...         check()
        ...         signal.raise_signal(signal.SIGTERM)
        ...         check()
        ... except Stopped as stopped:
        ...     print(stopped.number)
        15
    """
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield lambda *step: None
        return
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Stopped(number)

    def check(*step: int) -> None:
        if received:
            raise Stopped(received[0])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
