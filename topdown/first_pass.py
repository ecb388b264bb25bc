"""The first pass, which changes no buffer and no input, and the context manager that disables a latch.

Every module with buffers (running statistics, spectral norm, codebooks, queues) is in evaluation mode during a first pass. All
other modules, such as dropout, keep their mode. Code that does not depend on the mode can ask :func:`in_first_pass`.
"""

import copy
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from topdown.masking import replaced

L = TypeVar("L", bound=nn.Module)


class _Flags(threading.local):
    """Flags of the calling thread."""

    in_first_pass = False
    blocks: tuple[Any, ...] = ()


_thread = _Flags()
_blocks: ContextVar[tuple[Any, ...]] = ContextVar("blocks", default=())  # open blocks of Disabled


def in_first_pass() -> bool:
    """Returns whether the calling thread is in the first pass of a latch.

    With this check, a hook that collects activations, a counter, or the update of a momentum encoder acts once per call.

    Example:
        >>> activations = []
        >>> def collect(module, arguments, output):
        ...     if not topdown.in_first_pass():
        ...         activations.append(output)
        >>> backbone = topdown.adapters.LSTMBackbone({"text": 3, "audio": 2}, hidden_size=4)
        >>> handle = backbone.encoders["text"].register_forward_hook(collect)
        >>> _ = topdown.TopDownLatch(backbone)({"text": torch.zeros(1, 5, 3), "audio": torch.zeros(1, 5, 2)})
        >>> len(activations)
        1
    """
    return bool(_thread.in_first_pass)


class FirstPass:
    """Context manager of a first pass of a module: its modules with buffers are in evaluation mode.

    Only their attribute `training` changes: in `eval()` some layers do more than that, such as to merge weights. The cache of
    :func:`torch.nn.utils.parametrize.cached` is off.

    Args:
        module: Backbone, or feedback.
        evaluating: Whether all modules are in evaluation mode. (Default: False)

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with FirstPass(norm):
        ...     norm(torch.ones(3, 2)).shape, in_first_pass()
        (torch.Size([3, 2]), True)
        >>> int(norm.num_batches_tracked), norm.training, in_first_pass()
        (0, True, False)
    """

    def __init__(self, module: nn.Module, evaluating: bool = False) -> None:
        self.in_training = [m for m in _all_modules(module) if m.training and (m._buffers or evaluating)]

    def __enter__(self) -> None:
        """Sets the mode of the modules."""
        self.before, _thread.in_first_pass = _thread.in_first_pass, True
        # What parametrize.cached() keeps is of the second pass, which trains.
        self.cached, parametrize._cache_enabled = parametrize._cache_enabled, 0
        for module in self.in_training:
            module.training = False

    def __exit__(self, *_: object) -> None:
        """Restores the mode of the modules."""
        _thread.in_first_pass, parametrize._cache_enabled = self.before, self.cached
        for module in self.in_training:
            module.training = True


def _all_modules(module: nn.Module) -> list[nn.Module]:
    """Returns a module and those within it, faster than `module.modules()`, which makes names, too."""
    return [module, *[m for child in module._modules.values() if child is not None for m in _all_modules(child)]]


def copied(value: Any) -> Any:
    """Returns a copy of a value, which a model may change in place. Functions, and what cannot be copied, stay as they are.

    Example:
        >>> ids = torch.tensor([1, 2])
        >>> copied({"text": {"ids": ids}})["text"]["ids"].add_(1), ids
        (tensor([2, 3]), tensor([1, 2]))
    """
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: copied(part) for key, part in value.items()}
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        parts = [copied(part) for part in value]
        return type(value)(parts) if type(value) in (list, tuple) else type(value)(*parts)
    if value is None or callable(value):
        return value
    try:
        if isinstance(value, Mapping):  # of another type, such as the result of a tokenizer
            return replaced(value, {key: copied(value[key]) for key in value})
        return value if torch.compiler.is_compiling() else copy.deepcopy(value)  # for example a KV cache
    except Exception:  # objects may raise any error, such as those that hold tensors of a graph
        if isinstance(value, Iterator):
            raise TypeError(f"a {type(value).__name__} can be read once, but a latch encodes twice: pass a list") from None
        if not hasattr(value, "__dict__"):
            return value
        changed = copy.copy(value)
        vars(changed).update(copied(vars(value)))
        return changed


class Disabled(Generic[L]):
    """Context manager that disables the feedback of a latch, in this thread or asyncio task: see `TopDownLatch.disabled`."""

    def __init__(self, latch: L) -> None:
        self.latch, self.entered, self.open = latch, False, 0  # open: a block may be entered twice

    def __enter__(self) -> L:
        """Disables the feedback, and returns the latch."""
        self.entered, self.open = True, self.open + 1
        _blocks.set((*_blocks.get(), self))
        _thread.blocks = (*_thread.blocks, self)  # for compiled code, which cannot read a context variable
        return self.latch

    def __exit__(self, *_: object) -> None:
        """Enables the feedback again, unless another block is open."""
        self.open -= 1  # where tasks or threads that were started in the block still hold it, it is over, too
        _blocks.set(tuple([block for block in _blocks.get() if block.open]))
        _thread.blocks = tuple([block for block in _thread.blocks if block.open])

    def __del__(self) -> None:
        """Warns about a call that had no effect."""
        if not getattr(self, "entered", True):  # compiled code makes an object without it
            warnings.warn("disabled() alone does nothing: write `with latch.disabled():`", RuntimeWarning, stacklevel=2)


def is_disabled(latch: nn.Module) -> bool:
    """Returns whether a block of :class:`Disabled` is open for a latch."""
    # torch.compile takes any() of a list, not of a generator.
    return any([b.latch is latch and b.open > 0 for b in (_thread.blocks if torch.compiler.is_compiling() else _blocks.get())])
