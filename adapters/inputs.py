"""Checks sizes, inputs and lengths of the adapters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from topdown.batch import Batch, Inputs
from topdown.sequence import Lengths, along_batch, readable
from topdown.wiring import nearest


def check_sizes(owner: nn.Module, input_sizes: Mapping[str, int], dropout: Mapping[str, float | None], **sizes: int) -> None:
    """Checks the sizes and dropout probabilities of an adapter.

    Raises:
        TypeError: if `input_sizes` is not a mapping.
        ValueError: if a size is less than 1, or a probability not in [0, 1).
    """
    kind = type(owner).__name__
    if not isinstance(input_sizes, Mapping):
        raise TypeError(f"{kind} takes input_sizes as a mapping, such as {{'text': 300}}, got {type(input_sizes).__name__}")
    for name, size in {**{f"input_sizes[{k!r}]": size for k, size in input_sizes.items()}, **sizes}.items():
        if size < 1:
            raise ValueError(f"{name}={size} of {kind} must be at least 1")
    for name, p in dropout.items():
        if p is not None and not 0.0 <= p < 1.0:
            raise ValueError(f"{name}={p} of {kind} must be a number in [0, 1)")


def check_sequences(inputs: Inputs, sizes: Mapping[str, int], owner: nn.Module) -> dict[str, Tensor]:
    """Checks the inputs of an adapter, and returns the sequences that are present, in the order of its modalities.

    Args:
        inputs: Sequence of shape (B, T, D_k) per modality; None or left out where it is absent. Other inputs, such as labels,
            are ignored, but for sequences of an unknown name.
        sizes: Features D_k of each modality.
        owner: Adapter, whose type and device sequences must have.

    Raises:
        ValueError: if a sequence is of no modality, all are absent, or a shape or a device does not fit.
        TypeError: if a modality is not a tensor of the type of the adapter.
    """
    for name, value in inputs.items():
        if name not in sizes and isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
            raise ValueError(f"input {name!r} is not among the modalities {nearest(name, list(sizes))}")
    present = {name: inputs[name] for name in sizes if inputs.get(name) is not None}
    if not present:
        raise ValueError(f"there is no input: all of {list(sizes)} are absent")
    kind = type(owner).__name__
    first = next(iter(present))
    for name, sequence in present.items():
        if not isinstance(sequence, Tensor):
            raise TypeError(f"{name!r} is a {type(sequence).__name__}, but {kind} takes tensors (B, T, {sizes[name]})")
        if sequence.dim() != 3 or sequence.shape[-1] != sizes[name]:
            remedy = ": give a vector one step, with unsqueeze(1), and use MulTBackbone" if sequence.dim() == 2 else ""
            raise ValueError(f"{name!r} has shape {tuple(sequence.shape)}, but {kind} takes (B, T, {sizes[name]}){remedy}")
        if sequence.shape[1] == 0:
            raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is absent")
        if sequence.shape[0] != present[first].shape[0]:
            raise ValueError(f"{name!r} has {sequence.shape[0]} samples but {first!r} has {present[first].shape[0]}")
        _check_type(name, sequence, owner)
    return present


def check_batch(inputs: Inputs, lengths: Lengths, sizes: Mapping[str, int], owner: nn.Module) -> None:
    """Validates a batch for an adapter used without a latch.

    Raises:
        ValueError: beside what :func:`check_sequences` raises, if a length does not fit or a sample has no modality.
        TypeError: if lengths are not tensors of integers.
    """
    present = check_sequences(inputs, sizes, owner)
    batch = Batch(inputs, lengths)
    batch.check_names([*sizes, *inputs])
    batch.first = next((name, tuple(x.shape)) for name, x in present.items())
    marks = [mark for name, x in present.items() if (mark := batch.with_lengths(name, x).present) is not None]
    if len(marks) == len(present) and all(readable(mark) for mark in marks):
        empty = (~torch.stack(marks).any(0)).nonzero()
        if len(empty):
            raise ValueError(f"sample {int(empty[0])} has no modality: leave it out")


def present_encodings(encodings: Mapping[str, Tensor | None], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns the encodings that are present, in the order of the modalities.

    Raises:
        ValueError: if there is none.
    """
    ordered = {name: encodings.get(name) for name in sizes}
    present = {name: encoding for name, encoding in ordered.items() if encoding is not None}
    if not present:
        raise ValueError(f"there is no encoding: all of {list(sizes)} are absent")
    return present


def padded_lengths(lengths: Tensor | None, steps: int) -> Tensor | None:
    """Returns the lengths as int64, or None when no step is padding, which saves all work on padding.

    Lengths that are not :func:`readable` are returned as they are.

    Args:
        lengths: Number of valid steps of each sample, of shape (B,), or None.
        steps: T, the number of steps of the padded batch.

    Example:
        >>> padded_lengths(torch.tensor([3, 3]), 3) is None
        True
        >>> padded_lengths(torch.tensor([3, 2]), 3)
        tensor([3, 2])
    """
    if lengths is None:
        return None
    lengths = lengths.to(torch.int64)  # narrow types overflow in comparisons and differences
    return lengths if not readable(lengths) or bool((lengths < steps).any()) else None


def last_valid(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Returns the last valid step of each sequence, and zeros for a sample that has none.

    Args:
        sequence: Sequences of shape (B, T, D).
        lengths: Lengths of shape (B,); None takes step T - 1.

    Returns:
        Steps of shape (B, D).

    Example:
        >>> last_valid(torch.tensor([[[1.], [2.], [3.]]]), torch.tensor([2]))
        tensor([[2.]])
    """
    if lengths is None:
        return sequence[:, -1]
    last = lengths.to(sequence.device, torch.int64, non_blocking=True).clamp(min=1) - 1
    return zero_absent(sequence[torch.arange(sequence.shape[0], device=sequence.device), last], lengths)


def _check_type(name: str, sequence: Tensor, owner: nn.Module) -> None:
    if torch.compiler.is_compiling():
        return
    kind = type(owner).__name__
    weight = next((p for p in owner.parameters() if p.is_floating_point()), None)
    if weight is None or weight.is_meta != sequence.is_meta:  # quantized, or offloaded: hooks move what is needed
        return
    if sequence.dtype != weight.dtype and not _is_cast(sequence):
        remedy = f"convert it, as in {name}.to({weight.dtype})"
        remedy += f", or the model, with model.to({sequence.dtype})" if sequence.is_floating_point() else ""
        raise TypeError(f"{name!r} is {sequence.dtype} but {kind} is {weight.dtype}: {remedy}")
    if sequence.device != weight.device and not any(hasattr(module, "_hf_hook") for module in owner.modules()):
        raise ValueError(
            f"{name!r} is on {sequence.device} but {kind} is on {weight.device}: move one of them, as in "
            f"{name}.to({str(weight.device)!r})"
        )


def _is_cast(sequence: Tensor) -> bool:
    """Returns whether autocast converts a sequence to the type of the model."""
    by_autocast = sequence.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return by_autocast and torch.is_autocast_enabled(sequence.device.type)


def zero_absent(values: Tensor, *lengths: Tensor | None) -> Tensor:
    """Sets values to zero in the samples in which a modality is absent.

    Args:
        values: Values of shape (B, ...).
        lengths: Lengths of modalities, of shape (B,) each or None; a sample with a length of 0 in any of them becomes zero.

    Returns:
        Values of shape (B, ...).

    Example:
        >>> zero_absent(torch.ones(2, 1), torch.tensor([3, 0]), None).flatten()
        tensor([1., 0.])
    """
    for present in [n > 0 for n in lengths if n is not None]:
        if not readable(present) or not bool(present.all()):
            values = torch.where(along_batch(present, values), values, 0.0)
    return values
