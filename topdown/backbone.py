"""What a latch needs from a model: `encode`, which sees each modality, and `fuse`, which predicts from all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from topdown.sequence import Lengths, check_lengths, lengths_of

Inputs: TypeAlias = Mapping[str, Tensor | None]


@runtime_checkable
class Backbone(Protocol):
    """A model whose bottom-up pass has two halves.

    Any module with these two methods will do; both may do without the parameter `lengths`. `encode` must keep the
    modalities apart, since each is masked by what the model has understood of the OTHERS. When the module also has
    the attributes `input_sizes` and `encoding_sizes` (mappings from modality to size), a latch reads them and builds
    its feedback at once; otherwise it reads the sizes from an example or from the first call.
    """

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Mapping[str, Any]:
        """Encodes each modality by itself.

        Args:
            inputs: A sequence of shape (B, T_k, D_k) or a vector of shape (B, D_k) per modality k; None or absent
                where a modality is missing.
            lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor.

        Returns:
            An encoding per modality, of shape (B, T_k, d_k), or (B, d_k) when it is pooled over time.
        """

    def fuse(self, encodings: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Predicts from the encodings of all modalities; returns whatever the model predicts."""


def takes_lengths(function: Callable[..., object]) -> bool:
    """Tells whether a function has a parameter called `lengths` (or takes any keyword).

    Example:
        >>> takes_lengths(lambda inputs, lengths=None: inputs), takes_lengths(lambda inputs: inputs)
        (True, False)
    """
    parameters = inspect.signature(function).parameters
    return "lengths" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def call(function: Callable[..., Any], value: object, lengths: Lengths, with_lengths: bool) -> Any:
    """Calls a function that may or may not have a parameter `lengths`."""
    return function(value, lengths=lengths) if with_lengths else function(value)


def check_backbone(backbone: object) -> None:
    """Checks that an object can serve as a backbone.

    Raises:
        TypeError: if `encode` or `fuse` is missing, naming what is.
    """
    missing = [name for name in ("encode", "fuse") if not callable(getattr(backbone, name, None))]
    if missing:
        raise TypeError(
            f"{type(backbone).__name__} has no {' and no '.join(missing)}(): a backbone needs "
            "encode(inputs) -> {modality: encoding} and fuse(encodings) -> prediction"
        )


def check_inputs(inputs: object, lengths: Lengths) -> dict[str, Tensor]:
    """Checks the inputs of a latch and returns those that are there.

    Raises:
        TypeError: if `inputs` is not a mapping from modality to tensor.
        ValueError: if nothing is there, batch sizes differ, or lengths don't fit.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs must be a mapping from modality to tensor, got {type(inputs).__name__}")
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name!r} is a {type(value).__name__}: inputs must be tensors, or None where one is missing")
    present = {name: value for name, value in inputs.items() if value is not None}
    if not present:
        raise ValueError(f"there is no input: all of {list(inputs)} are missing")
    first = next(iter(present))
    for name, value in present.items():
        if value.dim() == 0 or len(value) != len(present[first]):
            raise ValueError(
                f"{name!r} has shape {tuple(value.shape)} but {first!r} has shape {tuple(present[first].shape)}: "
                "all modalities must have the same batch size"
            )
        if value.dim() == 3:
            check_lengths(lengths_of(lengths, name), value, name)
    return present


def check_encodings(encodings: object, inputs: Mapping[str, Tensor], lengths: Lengths) -> dict[str, Tensor]:
    """Checks what `encode` returned and drops the modalities that are None.

    Raises:
        TypeError: if it is not a mapping from modality to tensor.
        ValueError: if an encoding is neither (B, T, d) nor (B, d), or its steps don't fit the given lengths.
    """
    if not isinstance(encodings, Mapping):
        raise TypeError(f"encode() must return a mapping from modality to encoding, got {type(encodings).__name__}")
    batch = len(next(iter(inputs.values())))
    present: dict[str, Tensor] = {}
    for name, value in encodings.items():
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"encode() gave {name!r} as {type(value).__name__}: an encoding must be a tensor")
        if value.dim() not in (2, 3) or len(value) != batch:
            raise ValueError(
                f"encode() gave {name!r} of shape {tuple(value.shape)} for a batch of {batch}: "
                "an encoding must have shape (B, T, d), or (B, d) when it is pooled"
            )
        sequence = inputs.get(name)
        if value.dim() == 3 and lengths_of(lengths, name) is not None and sequence is not None:
            if sequence.dim() == 3 and sequence.shape[1] != value.shape[1]:
                raise ValueError(
                    f"encode() gave {name!r} {value.shape[1]} steps for an input of {sequence.shape[1]}: its lengths "
                    "no longer fit; keep T, pool to (B, d), or call without lengths and with align='interpolate'"
                )
        present[name] = value
    return present
