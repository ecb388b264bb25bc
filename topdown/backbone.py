"""What a latch needs from a model: `encode`, which sees each modality, and `fuse`, which predicts from all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from topdown.sequence import Lengths, check_lengths, lengths_of

Inputs: TypeAlias = Mapping[str, Tensor | None]


@runtime_checkable
class Backbone(Protocol):
    """A model whose bottom-up pass has two halves.

    Any module with these two methods will do. `encode` must keep the modalities apart, since each is masked by what the model
    has understood of the OTHERS. A latch calls these two and never `forward`. It hands `lengths` to whichever of them has that
    parameter; what they make of padding, and of a modality that is None or absent, is theirs to decide.

    When the module also has the attributes `input_sizes` and `encoding_sizes` (mappings from modality to size), a latch reads
    them and builds its feedback at once; otherwise it reads the sizes from an example or from the first call.
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
    if lengths is not None and not isinstance(lengths, (Tensor, Mapping)):
        raise TypeError(
            f"lengths must be a tensor of shape (B,) or a mapping from modality to one, got {type(lengths).__name__}"
        )
    for name, value in inputs.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"{name!r} is a {type(value).__name__}: inputs must be tensors, or None where one is missing")
    present = {name: value for name, value in inputs.items() if value is not None}
    if not present:
        raise ValueError(f"there is no input: all of {list(inputs)} are None" if inputs else "there is no input: it is empty")
    first = next(iter(present))
    for name, value in present.items():
        if value.dim() == 0 or value.shape[0] != present[first].shape[0]:
            raise ValueError(
                f"{name!r} has shape {tuple(value.shape)} but {first!r} has shape {tuple(present[first].shape)}: "
                "all modalities must have the same batch size"
            )
        if value.dim() == 3:
            check_lengths(lengths_of(lengths, name), value, name)
    if lengths is not None and not isinstance(lengths, (Tensor, Mapping)):
        raise TypeError(
            f"lengths must be a tensor of shape (B,) or a mapping from modality to one, got {type(lengths).__name__}"
        )
    return present


def check_encodings(
    encodings: object, inputs: Mapping[str, Tensor], lengths: Lengths, used: Collection[str] | None
) -> dict[str, Tensor]:
    """Checks what `encode` returned, and returns what feedback reads: the encodings named in `used`, or all; never None.

    Raises:
        TypeError: if it is not a mapping from modality to tensor.
        ValueError: if an encoding is neither (B, T, d) nor (B, d), or its steps don't fit the given lengths.
    """
    if not isinstance(encodings, Mapping):
        raise TypeError(f"encode() must return a mapping from modality to encoding, got {type(encodings).__name__}")
    batch = next(iter(inputs.values())).shape[0]  # len() would fix it in an exported program
    present: dict[str, Tensor] = {}
    for name, value in encodings.items():
        if value is None or (used is not None and name not in used):
            continue
        if not isinstance(value, Tensor):
            raise TypeError(f"encode() gave {name!r} as {type(value).__name__}: an encoding must be a tensor")
        if value.dim() not in (2, 3) or value.shape[0] != batch:
            raise ValueError(
                f"encode() gave {name!r} of shape {tuple(value.shape)} for a batch of {batch}: "
                "feedback reads (B, T, d), or (B, d) when it is pooled; name what it may read with sources={target: [sources]}"
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


def encoding_lengths(name: str, encoding: Tensor, inputs: Mapping[str, Tensor], lengths: Lengths) -> Tensor | None:
    """Returns the lengths of an encoding: those of its modality where both are sequences, else None.

    An encoding that is no input of its own, such as a joint one, has lengths only where a mapping names it.
    """
    if encoding.dim() != 3:
        return None
    if name in inputs:
        return lengths_of(lengths, name) if inputs[name].dim() == 3 else None
    return lengths.get(name) if isinstance(lengths, Mapping) else None


def check_logits(logits: object, source: str, target: str, inputs: Tensor) -> None:
    """Checks that logits fit the inputs that they shall mask.

    Raises:
        TypeError: if they are no tensor, or the inputs cannot be masked.
        ValueError: if shapes do not fit.
    """
    if not inputs.is_floating_point() or inputs.dim() not in (2, 3):
        raise TypeError(
            f"{target!r} has shape {tuple(inputs.shape)} and {inputs.dtype}: a mask multiplies floating-point inputs of "
            "shape (B, T, D) or (B, D); name the targets that can be masked with sources={target: [sources]}"
        )
    if not isinstance(logits, Tensor):
        raise TypeError(f"the feedback from {source!r} to {target!r} must be a tensor of logits, got {type(logits).__name__}")
    if logits.dim() not in (2, 3) or logits.shape[0] != inputs.shape[0] or logits.shape[-1] != inputs.shape[-1]:
        raise ValueError(
            f"the feedback from {source!r} gave logits of shape {tuple(logits.shape)} for {target!r}, "
            f"whose inputs have shape {tuple(inputs.shape)}: the batch and the last size must be the same"
        )
