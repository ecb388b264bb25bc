"""Inputs of the adapters: sequences of known modalities and sizes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from topdown.backbone import Inputs
from topdown.checks import GivenLengths, nearest
from topdown.sequence import Lengths, lengths_of, readable


def check_sequences(inputs: Inputs, sizes: Mapping[str, int], owner: nn.Module) -> dict[str, Tensor]:
    """Checks the inputs of an adapter and returns its sequences that are there, in the order of its modalities.

    Args:
        inputs: Sequence of shape (B, T, D_k) per modality; None or absent where it is missing. What else may be there, such as
            labels, is left alone, but for sequences of a name that is not known.
        sizes: Features D_k of each modality.
        owner: Adapter, whose type and device sequences must have.

    Raises:
        ValueError: if a sequence is of no modality, all are missing, or a shape or a device does not fit.
        TypeError: if a modality is no tensor of the type of the adapter.
    """
    for name, value in inputs.items():
        if name not in sizes and isinstance(value, Tensor) and value.dim() == 3 and value.is_floating_point():
            raise ValueError(f"input {name!r} is not among the modalities {nearest(name, list(sizes))}")
    given = {name: inputs.get(name) for name in sizes}
    present = {name: sequence for name, sequence in given.items() if sequence is not None}
    if not present:
        raise ValueError(f"there is no input: all of {list(sizes)} are missing")
    kind = type(owner).__name__
    first = next(iter(present))
    for name, sequence in present.items():
        if not isinstance(sequence, Tensor):
            raise TypeError(f"{name!r} is a {type(sequence).__name__}, but {kind} takes tensors (B, T, {sizes[name]})")
        if sequence.dim() != 3 or sequence.shape[-1] != sizes[name]:
            remedy = ": give a vector one step, with unsqueeze(1), and use MulTBackbone" if sequence.dim() == 2 else ""
            raise ValueError(f"{name!r} has shape {tuple(sequence.shape)}, but {kind} takes (B, T, {sizes[name]}){remedy}")
        if sequence.shape[1] == 0:
            raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is missing")
        if sequence.shape[0] != present[first].shape[0]:
            raise ValueError(f"{name!r} has {sequence.shape[0]} samples but {first!r} has {present[first].shape[0]}")
        _check_type(name, sequence, owner)
    return present


def check_batch(inputs: Inputs, lengths: Lengths, sizes: Mapping[str, int], owner: nn.Module) -> None:
    """Checks the inputs and lengths of an adapter that is used alone; within a latch, the latch has checked lengths.

    Raises:
        ValueError: beside what :func:`check_sequences` raises, if a length does not fit or a sample lacks all modalities.
        TypeError: if lengths are no tensors of integers.
    """
    present = check_sequences(inputs, sizes, owner)
    known = GivenLengths(lengths)
    known.check_names([*sizes, *inputs])
    known.batch = next(iter(present.values())).shape[0]
    found = [known.of(name, sequence.shape[1]) for name, sequence in present.items()]
    steps = [lengths_of(lengths, name) for name, valid in zip(present, found, strict=True) if valid is not None]
    if len(steps) == len(present) and all(n is not None and readable(n) for n in steps):
        empty = (torch.stack([n for n in steps if n is not None]).amax(0) == 0).nonzero()
        if len(empty):
            raise ValueError(f"sample {int(empty[0])} lacks every modality: leave it out")


def present_encodings(encodings: Mapping[str, Tensor | None], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Returns the encodings that are there, in the order of the modalities.

    Raises:
        ValueError: if there is none.
    """
    given = {name: encodings.get(name) for name in sizes}
    present = {name: encoding for name, encoding in given.items() if encoding is not None}
    if not present:
        raise ValueError(f"there is no encoding: all of {list(sizes)} are missing")
    return present


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
    """Tells whether autocast converts a sequence to the type of the model."""
    by_autocast = sequence.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return by_autocast and torch.is_autocast_enabled(sequence.device.type)
