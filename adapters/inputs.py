"""What the adapters take: sequences of known modalities and sizes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from topdown.backbone import Inputs
from topdown.sequence import Lengths, check_lengths, lengths_of


def check_sequences(inputs: Inputs, lengths: Lengths, sizes: Mapping[str, int], owner: str) -> dict[str, Tensor]:
    """Checks the inputs of an adapter and returns those that are there, in the order of its modalities.

    Args:
        inputs: Of shape (B, T, D_k) per modality; None or absent where it is missing.
        lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor.
        sizes: The features D_k of each modality.
        owner: What to call the adapter in a message.

    Raises:
        ValueError: if a modality is unknown, all are missing, or a shape or a length does not fit.
    """
    unknown = [name for name in inputs if name not in sizes]
    if unknown:
        raise ValueError(f"inputs {unknown} are not among the modalities {list(sizes)}")
    given = {name: inputs.get(name) for name in sizes}
    present = {name: sequence for name, sequence in given.items() if sequence is not None}
    if isinstance(lengths, Mapping) and (unknown := [name for name in lengths if name not in sizes]):
        raise ValueError(f"lengths name {unknown}, but the modalities are {list(sizes)}")
    for name, sequence in present.items():
        if sequence.dim() != 3 or sequence.shape[-1] != sizes[name]:
            remedy = ": give a vector one step, with unsqueeze(1), and use MulTBackbone" if sequence.dim() == 2 else ""
            raise ValueError(f"{name!r} has shape {tuple(sequence.shape)}, but {owner} takes (B, T, {sizes[name]}){remedy}")
        if sequence.shape[1] == 0:
            raise ValueError(f"{name!r} has no steps; leave it out where it is missing")
        first = next(iter(present))
        if sequence.shape[0] != present[first].shape[0]:
            raise ValueError(f"{name!r} has {sequence.shape[0]} samples but {first!r} has {present[first].shape[0]}")
        check_lengths(lengths_of(lengths, name), sequence, name)
    if not present:
        raise ValueError(f"there is no input: all of {list(sizes)} are missing")
    return present


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
