"""Runs of a backbone that leave no trace in its buffers, and the running statistics of the first pass.

The two passes see different inputs, raw and masked ones. Statistics that both moved would fit neither; with those of the second
pass alone, the first pass would be another one in evaluation than in training. So each first pass has running statistics of
its own, as methods with an auxiliary batch norm do, and every other buffer of the backbone is lent to it as a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from topdown.naming import escape

T = TypeVar("T")


class Statistics(nn.Module):
    """Holds the running statistics of one first pass: a buffer for each of the backbone whose name begins with `running_`.

    They are nan, and those of the backbone serve in their place, until a first pass in training has moved them.

    Args:
        backbone: Module whose statistics are kept apart.

    Example:
        >>> list(Statistics(nn.Sequential(nn.BatchNorm1d(3))).state_dict())
        ['%0%2Erunning_mean', '%0%2Erunning_var']
        >>> list(Statistics(nn.Linear(3, 3)).state_dict())
        []
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        with torch.inference_mode(False):  # buffers that are made in inference mode could never follow
            for name, buffer in backbone.named_buffers():
                if _is_statistic(name, buffer):
                    self.register_buffer(escape(name), torch.full_like(buffer, torch.nan))

    def lend(self, name: str, buffer: Tensor) -> Tensor:
        """Returns a copy of a buffer, as the first pass has it."""
        kept = self._buffers.get(escape(name))
        return buffer.clone() if kept is None else torch.where(kept.isnan(), buffer, kept)

    @torch.no_grad()
    def keep(self, name: str, value: Tensor) -> None:
        """Takes over such a copy after a first pass."""
        if escape(name) not in self._buffers:  # of a module that was not there at first
            self.register_buffer(escape(name), torch.full_like(value, torch.nan))
        self.get_buffer(escape(name)).copy_(value)


class _Lending(TorchFunctionMode):
    """Gives copies to every torch function that is given a buffer, in the calling thread alone."""

    def __init__(self, buffers: Sequence[Tensor], copies: Sequence[Tensor]) -> None:
        super().__init__()
        self.pairs = list(zip(buffers, copies, strict=True))
        self.copies = {id(buffer): copy for buffer, copy in self.pairs}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*self._lend(args), **{name: self._lend(value) for name, value in (kwargs or {}).items()})

    def _lend(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            if not torch.compiler.is_compiling():
                return self.copies.get(id(value), value)
            for buffer, copy in self.pairs:  # compilers would compile anew for every id
                if value is buffer:
                    return copy
            return value
        if type(value) in (list, tuple):
            return type(value)([self._lend(part) for part in value])
        return value


def run_untouched(run: Callable[[], T], backbone: nn.Module, statistics: Statistics | None = None, *, keep: bool = False) -> T:
    """Runs something that calls a backbone, whose buffers are afterwards as they were.

    Args:
        run: Function without arguments.
        backbone: Module that it calls.
        statistics: Running statistics to use in place of those of the backbone. (Default: None, those of the backbone)
        keep: Whether these follow what modules in training make of them. (Default: False)

    Returns:
        Result of `run`.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> run_untouched(lambda: norm(torch.ones(3, 2)), norm).shape, int(norm.num_batches_tracked)
        (torch.Size([3, 2]), 0)
    """
    own_statistics = statistics is not None and len(statistics._buffers) > 0
    if not own_statistics and not any(module.training for module in backbone.modules()):
        return run()  # nothing moves in evaluation
    buffers = [
        (module, key, f"{path}.{key}" if path else key, buffer)
        for path, module in backbone.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and not isinstance(buffer, UninitializedBuffer)
    ]
    if not buffers:
        return run()
    with torch.no_grad():
        copies = [buffer.clone() if statistics is None else statistics.lend(name, buffer) for _, _, name, buffer in buffers]
    moved = []
    try:
        with _Lending([buffer for *_, buffer in buffers], copies):
            result = run()
    finally:
        for (module, key, name, buffer), copy in zip(buffers, copies, strict=True):
            now = module._buffers[key]
            if module.training and _is_statistic(name, buffer):
                moved.append((name, copy if now is buffer or now is None else now))
            module._buffers[key] = buffer  # some assign a new tensor in place of a buffer
    if statistics is not None and keep:
        for name, value in moved:
            statistics.keep(name, value)
    return result


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keeps a model in evaluation mode within a `with` block.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():  # parents first; only calls, since some layers do more than note it
            if module.training != mode:
                module.train(mode)


def _is_statistic(name: str, buffer: Tensor) -> bool:
    is_lazy = isinstance(buffer, UninitializedBuffer)
    return name.rpartition(".")[2].startswith("running_") and buffer.is_floating_point() and not is_lazy
