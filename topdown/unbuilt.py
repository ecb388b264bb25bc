"""Feedback whose sizes are not known yet: whoever asks for its parameters gets an error that says how to build it."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

MESSAGE = (
    "the feedback of this latch has no parameters yet, since the sizes of its modalities are not known: call the latch once, "
    "or pass example_inputs=, or give the backbone the attributes input_sizes and encoding_sizes"
)


class UnbuiltParameter(UninitializedParameter):
    """A parameter to come, which raises an error when an optimizer, a count or a function asks for it."""

    def _raise(self) -> NoReturn:
        raise RuntimeError(MESSAGE)

    is_leaf = property(_raise)  # every optimizer asks
    shape = property(_raise)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Lets pass what moves a module to another type or device, and raises the error for everything else."""
        try:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        except ValueError:
            raise RuntimeError(MESSAGE) from None


class UnbuiltFeedback(nn.Module):
    """The place of the feedback of a latch until its sizes are known.

    Raises:
        RuntimeError: when it is called, saved, loaded, or its parameters are asked for anything.

    Example:
        >>> import torch
        >>> torch.optim.Adam(UnbuiltFeedback().parameters())
        Traceback (most recent call last):
        ...
        RuntimeError: the feedback of this latch has no parameters yet, since the sizes of its modalities are not known: ...
    """

    def __init__(self) -> None:
        super().__init__()
        self.to_come = UnbuiltParameter()

    def forward(self, encodings: Any, lengths: Any = None) -> Any:
        """Raises an error that says how to build the feedback."""
        raise RuntimeError(MESSAGE)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(MESSAGE)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(MESSAGE)
