r"""Padded batches of sequences with their lengths, and functions that respect lengths.

A batch of sequences has shape :math:`(B, T, D)`, padded on the right to its longest sample. `lengths` of shape :math:`(B,)`
holds the number of valid steps of each sample. None means that all steps are valid. When modalities are not aligned in time,
`lengths` is a mapping from modality to such a tensor, in which 0 means that the modality is absent in that sample.

The *times* of a tensor are its dimensions between batch and features: (T,) of a sequence, (H, W) of a feature map, () of a
vector.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

Lengths: TypeAlias = Tensor | Mapping[str, Tensor] | None
MAPPING = (dict, Mapping)  # for isinstance, which is several times faster with the first than with the second
TIME_LAST = "if time is last, mask the first layer that reads it: sites={name: Site(path, 'b d t', at='input')}"


class Padded(NamedTuple):
    """Holds a batch of sequences and their lengths. `encode` of a backbone may return its encodings in this form.

    Args:
        values: Sequences of shape (B, T, D), padded on the right; or vectors of shape (B, D).
        lengths: Number of valid steps of each sample, of shape (B,); None when all are valid. For vectors, 0 means that the
            modality is absent in a sample. (Default: None)

    Example:
        >>> Padded(torch.zeros(2, 5, 4), torch.tensor([5, 3])).lengths
        tensor([5, 3])
    """

    values: Tensor
    lengths: Tensor | None = None


class WithLengths(NamedTuple):
    """Holds an encoding or a target with its checked lengths, and the marks that follow from them.

    HookedBackbone returns packed sequences and feature maps in this form, too, yet unchecked.

    =============================  =======  =====  =======
    samples                        lengths  valid  present
    =============================  =======  =====  =======
    without lengths                None     None   None
    all full                       tensor   None   None
    some padded                    tensor   marks  None
    the modality absent from some  tensor   marks  marks
    =============================  =======  =====  =======

    Equal lengths in one call are one tensor where Python may read them, so that `is` compares them. Where it may not, on a GPU
    or in compiled code, a tensor of lengths has both marks, or `valid` alone if one tensor serves all modalities.

    Args:
        values: As in :class:`Padded`, or feature maps such as (B, H, W, D), whose steps are positions.
        lengths: As in :class:`Padded`. (Default: None)
        valid: Marks of the shape of values with one feature, False at padded steps and where the modality is absent. (Default:
            None, all are valid)
        present: Marks of shape (B,), False in samples in which the modality is absent. (Default: None, present in all)
    """

    values: Tensor
    lengths: Tensor | None = None
    valid: Tensor | None = None
    present: Tensor | None = None


ByName: TypeAlias = dict[str, WithLengths]  # the encodings, or the targets, of one pass


def flatten_times(values: Tensor) -> Tensor:
    """Returns feature maps (B, H, W, D) as sequences of their positions (B, T, D), and all others as they are."""
    return values.flatten(1, -2) if values.dim() > 3 else values


def values_and_lengths(values: ByName) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Returns sequences or vectors by name, and the lengths of the padded sequences among them, or None if there is none."""
    lengths: Any = {name: x.lengths for name, x in values.items() if x.valid is not None and x.values.dim() > 2}
    return {name: flatten_times(x.values) for name, x in values.items()}, lengths or None


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
    return lengths.get(name) if isinstance(lengths, MAPPING) else lengths


def described(value: Any) -> str:
    """Describes a value in a message."""
    if isinstance(value, Tensor) and not value.is_nested:
        return f"shape {tuple(value.shape)} and {value.dtype}"
    return f"type {'NestedTensor' if isinstance(value, Tensor) else type(value).__name__}"


def readable(lengths: Tensor) -> bool:
    """Returns whether Python may read the values: on the CPU, where that does not stall a device, and not in compiled code."""
    return not torch.compiler.is_compiling() and lengths.is_cpu and not torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]


def valid_steps(lengths: Tensor, steps: int, device: torch.device | None = None) -> Tensor:
    """Marks the steps that are not padding.

    Args:
        lengths: Number of valid steps of each sample, of shape (B,).
        steps: T, the number of steps of the padded batch.
        device: Device of the result. (Default: that of `lengths`)

    Returns:
        Marks of shape (B, T), True at valid steps.

    Example:
        >>> valid_steps(torch.tensor([3, 1]), 3)
        tensor([[ True,  True,  True],
                [ True, False, False]])
    """
    time = torch.arange(steps, device=device or lengths.device)
    return time < lengths.to(time.device, non_blocking=True).unsqueeze(1)


def zero_padding(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Sets the sequences to zero beyond their lengths, also where they are nan or infinite.

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
    return torch.where(valid_steps(lengths, sequence.shape[1], sequence.device).unsqueeze(-1), sequence, 0.0)


def along_batch(marks: Tensor, values: Tensor) -> Tensor:
    """Returns marks of samples, of shape (B,), with the dimensions and the device of values of shape (B, ...).

    Example:
        >>> along_batch(torch.tensor([True, False]), torch.zeros(2, 5, 4)).shape
        torch.Size([2, 1, 1])
    """
    return marks.to(values.device, non_blocking=True).view(-1, *[1] * (values.dim() - 1))


def reverse_valid(sequence: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverses each sequence within its length and leaves padding in place; applied twice, it changes nothing.

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
