r"""Sequences that end at different steps: a padded batch that knows its lengths, and what can be done with lengths.

A batch of sequences has shape :math:`(B, T, D)`, padded on the right to its longest one. `lengths` of shape :math:`(B,)`
holds the number of valid steps of each sample; None means that all steps are valid, and 0 that the sample lacks the modality.
When modalities are not aligned in time, `lengths` is a mapping from modality to such a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

Lengths: TypeAlias = Tensor | Mapping[str, Tensor] | None


class Padded(NamedTuple):
    """A batch of sequences and their lengths. `encode` of a backbone may return its encodings in this form.

    Args:
        values: Sequences of shape (B, T, D), padded on the right; or vectors of shape (B, D), without lengths.
        lengths: Number of valid steps of each sample, of shape (B,); None when all are valid. (Default: None)

    Example:
        >>> Padded(torch.zeros(2, 5, 4), torch.tensor([5, 3])).lengths
        tensor([5, 3])
    """

    values: Tensor
    lengths: Tensor | None = None


def lengths_of(lengths: Lengths, name: str) -> Tensor | None:
    """Returns the lengths of one modality.

    Args:
        lengths: Lengths for all modalities, of shape (B,), or a mapping from modality to such a tensor, or None.
        name: Name of the modality.

    Returns:
        Lengths of shape (B,); None where all steps are valid.

    Example:
        >>> lengths_of({"audio": torch.tensor([3, 1])}, "audio")
        tensor([3, 1])
        >>> lengths_of({"audio": torch.tensor([3, 1])}, "text") is None
        True
    """
    return lengths.get(name) if isinstance(lengths, Mapping) else lengths


def readable(lengths: Tensor) -> bool:
    """Tells whether values may be looked at: on the CPU (elsewhere it would stall the device), and not in compiled code."""
    return lengths.device.type == "cpu" and not torch.compiler.is_compiling()


def padded_lengths(lengths: Tensor | None, steps: int) -> Tensor | None:
    """Returns the lengths as int64, or None when no step is padding, so that nothing is done about padding that is not there.

    Lengths whose values may not be looked at (:func:`readable`) are returned as they are.

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


def present_samples(lengths: Tensor | None) -> Tensor | None:
    """Marks the samples that have any step.

    Args:
        lengths: Number of valid steps of each sample, of shape (B,), or None.

    Returns:
        Mask of shape (B,), True where a length is above 0; None where that is known of all samples.

    Example:
        >>> present_samples(torch.tensor([3, 0]))
        tensor([ True, False])
        >>> present_samples(torch.tensor([3, 1])) is None
        True
    """
    if lengths is None:
        return None
    present = lengths > 0
    return None if readable(lengths) and bool(present.all()) else present


def valid_steps(lengths: Tensor, steps: int, device: torch.device | None = None) -> Tensor:
    """Marks the steps that are not padding.

    Args:
        lengths: Number of valid steps of each sample, of shape (B,).
        steps: T, the number of steps of the padded batch.
        device: Device of the result. (Default: that of `lengths`)

    Returns:
        Mask of shape (B, T), True at valid steps.

    Example:
        >>> valid_steps(torch.tensor([3, 1]), 3)
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    device = lengths.device if device is None else device
    return torch.arange(steps, device=device) < lengths.to(device, non_blocking=True).unsqueeze(1)


def zero_padding(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Returns the sequences with zeros beyond their lengths, whatever stood there (nan and inf too).

    Args:
        sequence: Sequences of shape (B, T, D).
        lengths: Lengths of shape (B,); None leaves everything as it is.

    Returns:
        Sequences of shape (B, T, D).

    Example:
        >>> zero_padding(torch.full((1, 3, 1), torch.nan), torch.tensor([0])).flatten()
        tensor([0., 0., 0.])
    """
    if lengths is None:
        return sequence
    valid = valid_steps(lengths, sequence.shape[1], sequence.device)
    return sequence.masked_fill(~valid.unsqueeze(-1), 0.0)


def zero_missing(values: Tensor, *lengths: Tensor | None) -> Tensor:
    """Returns values with zeros in the samples that lack a modality.

    Args:
        values: Values of shape (B, ...).
        lengths: Lengths of modalities, of shape (B,) each or None; a sample with a length of 0 in any of them becomes zero.

    Returns:
        Values of shape (B, ...).

    Example:
        >>> zero_missing(torch.ones(2, 1), torch.tensor([3, 0]), None).flatten()
        tensor([1., 0.])
    """
    for present in map(present_samples, lengths):
        values = values if present is None else values.masked_fill(~along_batch(present, values), 0.0)
    return values


def along_batch(marks: Tensor, values: Tensor) -> Tensor:
    """Returns marks of samples, of shape (B,), such that they broadcast against values of shape (B, ...), where those are.

    Example:
        >>> along_batch(torch.tensor([True, False]), torch.zeros(2, 5, 4)).shape
        torch.Size([2, 1, 1])
    """
    return marks.to(values.device, non_blocking=True).view(-1, *[1] * (values.dim() - 1))


def reverse_valid(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses each sequence within its length; padding stays where it is. Its own inverse.

    Args:
        sequence: Sequences of shape (B, T, D).
        lengths: Lengths of shape (B,); None reverses all T steps.

    Returns:
        Sequences of shape (B, T, D).

    Example:
        >>> reverse_valid(torch.tensor([[[1.], [2.], [3.], [0.]]]), torch.tensor([3])).flatten()
        tensor([3., 2., 1., 0.])
    """
    if lengths is None:
        return sequence.flip(1)
    batch, steps, _ = sequence.shape
    time = torch.arange(steps, device=sequence.device)
    mirrored = lengths.to(sequence.device, torch.int64, non_blocking=True).unsqueeze(1) - 1 - time
    rows = torch.where(mirrored >= 0, mirrored, time) + steps * torch.arange(batch, device=sequence.device).unsqueeze(1)
    # Whole rows of the flattened batch: several times as fast as gather, forward and backward.
    return sequence.flatten(0, 1).index_select(0, rows.flatten()).view_as(sequence)


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
    return zero_missing(sequence[torch.arange(sequence.shape[0], device=sequence.device), last], lengths)
