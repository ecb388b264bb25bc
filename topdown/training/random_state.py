"""Isolates the global random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor


def manual_seed(seed: int) -> None:
    """Seeds torch's random numbers, as :func:`torch.manual_seed`, in a hundredth of the time where there is no accelerator.

    That function records a stack trace for each type of accelerator that there might be: up to 4 ms, as long as a small step.

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
    """Context manager that seeds the random numbers of the CPU, as for initial values, and restores them afterwards.

    Example:
        >>> with seeded(0):
        ...     one = torch.rand(1)
        >>> with seeded(0):
        ...     print(torch.equal(one, torch.rand(1)))
        True
    """
    with own_random_numbers(torch.device("cpu")):
        manual_seed(seed)
        yield


def own_random_numbers(device: torch.device) -> AbstractContextManager[None]:
    """Context manager that restores the random state of the caller, on the CPU and on a device."""
    there = [device] if _has_random_numbers(device) else []
    return torch.random.fork_rng(devices=there, device_type=device.type if there else "cuda")


def random_state(device: torch.device) -> list[Tensor]:
    """Returns the random state of the CPU, and of a device if that has its own."""
    own = [torch.get_device_module(device).get_rng_state(device)] if _has_random_numbers(device) else []
    return [torch.get_rng_state(), *own]


def set_random_state(states: list[Tensor], device: torch.device) -> None:
    """Restores a random state of :func:`random_state`."""
    torch.set_rng_state(states[0].cpu())
    if _has_random_numbers(device) and len(states) > 1:  # none, if the training began on the CPU
        torch.get_device_module(device).set_rng_state(states[-1].cpu(), device)


def _has_random_numbers(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")
