"""Stops training after the current step on SIGINT or SIGTERM."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from torch import Tensor

from topdown.training.distributed import largest, world_size

# Steps done in an epoch, the sum of their losses in each process, their number of labels, random states of all processes.
Begun: TypeAlias = tuple[int, Tensor, int, list[list[Tensor]]]


class Stopped(KeyboardInterrupt):
    """Raised by `on_step` of :func:`topdown.training.fit` to stop training after a step, which the checkpoint then includes.

    Several processes must raise it after the same step.

    Args:
        number: Number of the signal. (Default: SIGINT)
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = int(number)
        self.begun: Begun | None = None


@contextlib.contextmanager
def stopped_after_a_step() -> Iterator[Callable[..., None]]:
    """Delays SIGINT and SIGTERM until the end of a step; a second signal ends a single process at once.

    Yields:
        Function to call after each step, in each process. It raises :class:`Stopped` if a process got a signal.

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
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield lambda *step: None
        return
    received: list[int] = []

    def record_signal(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1 and world_size() == 1:  # torchrun repeats signals that its processes have received
            raise Stopped(number)

    def check(*step: int) -> None:
        if number := largest(received[0] if received else 0):
            raise Stopped(number)

    before = {number: signal.signal(number, record_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
        check()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
