"""Builds a backbone from a module and two functions, encode and fuse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from topdown.backbone import lengths_keyword, takes_lengths
from topdown.sequence import Lengths


class CallableBackbone(nn.Module):
    """Wraps a module together with functions that encode and fuse with it.

    Args:
        module: Module with the parameters.
        encode: Function (module, inputs[, lengths]) -> {name: encoding}.
        fuse: Function (module, encodings[, lengths]) -> prediction, given the very object that `encode` returned.

    Functions that are to be pickled with the latch must be importable, which a lambda is not.

    Raises:
        TypeError: if one of the two cannot be called, or `module` is not a module.

    Example:
        >>> import torch
        >>> module = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)})
        >>> backbone = CallableBackbone(
        ...     module,
        ...     encode=lambda module, inputs: {name: module[name](x) for name, x in inputs.items()},
        ...     fuse=lambda module, encodings: sum(r.mean((1, 2)) for r in encodings.values()),
        ... )
        >>> backbone.fuse(backbone.encode({"a": torch.zeros(1, 5, 3), "b": torch.zeros(1, 5, 2)})).shape
        torch.Size([1])
    """

    def __init__(self, module: nn.Module, *, encode: Callable[..., Any], fuse: Callable[..., Any]) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"the module must be a torch.nn.Module, got {type(module).__name__}")
        for name, function in (("encode", encode), ("fuse", fuse)):
            if not callable(function):
                raise TypeError(f"{name}={function!r} must be a function of (module, ...)")
        self.module = module
        self._functions = encode, fuse
        self._takes_lengths = takes_lengths(encode), takes_lengths(fuse)
        self.uses_lengths = self._takes_lengths != ("never", "never")

    @property
    def user_model(self) -> nn.Module:
        """The module, to which the paths of sites are relative."""
        return self.module

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Encodes with the first function.

        Args:
            inputs: Inputs by name.
            lengths: Lengths, if the function takes them.
        """
        return self._functions[0](self.module, inputs, **lengths_keyword(lengths, self._takes_lengths[0]))

    def fuse(self, encodings: Any, lengths: Lengths = None) -> Any:
        """Fuses with the second function.

        Args:
            encodings: Result of `encode`.
            lengths: Lengths, if the function takes them.
        """
        return self._functions[1](self.module, encodings, **lengths_keyword(lengths, self._takes_lengths[1]))
