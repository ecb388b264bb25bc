"""A stand-in for feedback networks whose sizes are not known yet, which nobody can overlook."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

MESSAGE = (
    "the feedback of this latch has no parameters yet, since the sizes of its modalities are not known: call the latch once, "
    "or pass example_inputs=, or give the backbone the attributes input_sizes and encoding_sizes"
)


class UnbuiltParameter(UninitializedParameter):
    """Stands for parameters to come. Every torch optimizer asks a parameter whether it is a leaf: this one answers."""

    @property
    def is_leaf(self) -> NoReturn:  # type: ignore[override]
        """Raises an error that says how to build the feedback."""
        raise RuntimeError(MESSAGE)


class UnbuiltFeedback(nn.Module):
    """Stands for the feedback of a latch until its sizes are known.

    Args:
        kind: A kind or a factory of feedback networks.

    Raises:
        RuntimeError: when it is called, saved, loaded, or handed to an optimizer.

    Example:
        >>> import torch
        >>> torch.optim.Adam(UnbuiltFeedback("lstm").parameters())
        Traceback (most recent call last):
        ...
        RuntimeError: the feedback of this latch has no parameters yet, since the sizes of its modalities are not known: ...
    """

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.kind = kind
        self.to_come = UnbuiltParameter()

    def forward(self, encodings: Any, lengths: Any = None) -> Any:
        """Raises an error that says how to build the feedback."""
        raise RuntimeError(MESSAGE)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(MESSAGE)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(MESSAGE)
