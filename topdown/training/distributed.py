"""Runs collective operations on several processes; in one process they do nothing.

`torchrun` starts the processes and says in the environment which one this is; the rest is `torch.distributed`.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def rank() -> int:
    """Returns the rank of this process; 0 without a process group."""
    return dist.get_rank() if is_running() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if is_running() else 1


def is_running() -> bool:
    """Returns whether this process is in a process group."""
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def process_group(device: str) -> Iterator[str]:
    """Context manager that joins the process group of `torchrun`, if there is one: nccl on CUDA, gloo elsewhere.

    Args:
        device: Device to compute on, such as "cpu" or "cuda".

    Yields:
        Device of this process: with "cuda", the GPU with its number on this machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or is_running():
        yield device
        return
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield device
        wait()  # a process must not exit while others still communicate with it
    finally:
        gc.collect()  # references to the group would keep its threads alive
        dist.destroy_process_group()


def parallel(model: nn.Module, find_unused_parameters: bool = False) -> nn.Module:
    """Returns the module to call in training: the model, or a DistributedDataParallel around it."""
    if not is_running():
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True, find_unused_parameters=find_unused_parameters)


def total(value: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes, bitwise equal in each."""
    if is_running():
        dist.all_reduce(value)
    return value


def largest(number: int) -> int:
    """Returns the maximum of a number over all processes."""
    if not is_running():
        return number
    value = torch.tensor(number, device=_device())
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return int(value)


def gathered(value: Tensor) -> list[Tensor]:
    """Returns the tensors of all processes on the CPU. They must have the same shape."""
    if not is_running():
        return [value.cpu()]
    tensors = [torch.empty_like(value, device=_device()) for _ in range(world_size())]
    dist.all_gather(tensors, value.to(_device()))
    return [tensor.cpu() for tensor in tensors]


def _device() -> str:
    """Returns the type of the device on which processes exchange tensors."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def wait() -> None:
    """Waits until every process has reached this call."""
    if is_running():
        dist.barrier()
