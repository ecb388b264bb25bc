"""Isolates the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def manual_seed(seed: int) -> None:
    """Seeds torch, without the overhead of :func:`torch.manual_seed` on machines without an accelerator.

    That function records a stack trace for each possible type of accelerator: up to 4 ms, as long as a small step.

    Example:
        >>> manual_seed(3)
        >>> one = torch.rand(2)
        >>> _ = torch.manual_seed(3)
        >>> torch.equal(one, torch.rand(2))
        True
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context manager that seeds the CPU, as for initial values, and restores the random state of the caller on exit.

    Example:
        >>> with seeded(0):
        ...     one = torch.rand(1)
        >>> with seeded(0):
        ...     print(torch.equal(one, torch.rand(1)))
        True
    """
    with isolated_random_state(torch.device("cpu")):
        manual_seed(seed)
        yield


def isolated_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Restores the random state of the caller on exit, on the CPU and on a device."""
    devices = [device] if _has_random_numbers(device) else []
    return torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda")


def random_state(device: torch.device) -> list[Tensor]:
    """Returns the random state of the CPU, and of a device if that has its own."""
    device_states = [torch.get_device_module(device).get_rng_state(device)] if _has_random_numbers(device) else []
    return [torch.get_rng_state(), *device_states]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Restores a random state of :func:`random_state`."""
    torch.set_rng_state(states[0].cpu())
    if _has_random_numbers(device) and len(states) > 1:  # none, if the training began on the CPU
        torch.get_device_module(device).set_rng_state(states[-1].cpu(), device)


def _has_random_numbers(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")
