"""Defines a sample, and a padded batch of samples."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topdown.datasets.errors import DataError
from topdown.sequence import Lengths


class Sample(NamedTuple):
    """Holds one sample: inputs of shape (T_k, D_k) or (D_k,) per modality, its label or None, and its id.

    Ids of tokens are integers of shape (T_k,); all other inputs are float32.

    An absent sequence has no steps and the shape (0, D_k); an absent vector has the shape (0,).
    """

    inputs: dict[str, Tensor]
    label: Tensor | None
    id: str


class Batch(dict[str, Any]):
    """Holds a padded batch: a mapping of `inputs`, `lengths`, `labels` and `ids`, which are also attributes.

    It is a dict, so that frameworks can move, split and merge it.

    Attributes:
        inputs: Sequences of shape (B, T_k, D_k), padded on the right with zeros, or vectors (B, D_k), per modality, in float32;
            ids of tokens are integers (B, T_k).
        lengths: Lengths of shape (B,) when all sequences of the data set are aligned and every sample has every modality,
            else a mapping from modality to such, where 0 means that it is absent; None when all modalities are vectors.
        labels: Labels of shape (B,); None for data without labels.
        ids: Names of the samples.

    Example:
        >>> batch = Batch(inputs={"audio": torch.ones(1, 3, 2)}, lengths=torch.tensor([3]), labels=torch.tensor([1]), ids=["a"])
        >>> list(batch), batch.ids is batch["ids"]
        (['inputs', 'lengths', 'labels', 'ids'], True)
    """

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Inputs by modality."""
        inputs: dict[str, Tensor] = self["inputs"]
        return inputs

    @property
    def lengths(self) -> Lengths:
        """Lengths of all modalities, or of each."""
        lengths: Lengths = self["lengths"]
        return lengths

    @property
    def labels(self) -> Any:  # a tensor, or None
        """Labels, or None."""
        return self["labels"]

    @property
    def ids(self) -> list[str]:
        """Names of the samples."""
        ids: list[str] = self["ids"]
        return ids

    def to(self, device: str | torch.device, non_blocking: bool = True) -> Batch:
        """Moves inputs and labels to a device; lengths stay on the CPU, where packing needs them."""
        inputs = {name: value.to(device, non_blocking=non_blocking) for name, value in self.inputs.items()}
        labels = None if self.labels is None else self.labels.to(device, non_blocking=non_blocking)
        return Batch({**self, "inputs": inputs, "labels": labels})


def collate(
    samples: Sequence[Sample], sizes: Mapping[str, int], present: Container[str], *, aligned: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Pads samples to the longest of them.

    Args:
        samples: Samples with the same modalities.
        sizes: Features of each modality, for vectors that are absent in all samples.
        present: Vectors that have lengths in every batch, since they are absent in some samples of the data set.
        aligned: Whether sequences of the data set are aligned.

    Returns:
        Inputs, and lengths of all sequences, and of vectors that are absent in some samples.

    Raises:
        DataError: if modalities differ, or there is no sample.
    """
    if not samples:
        raise DataError("there is no sample: a batch takes at least one")
    names = list(samples[0].inputs)
    if stray := next((sample for sample in samples if set(sample.inputs) != set(names)), None):
        raise DataError(f"sample {stray.id!r} has {list(stray.inputs)}, but {samples[0].id!r} has {names}")
    parts = {name: [sample.inputs[name] for sample in samples] for name in names}
    has_time = {k for k, xs in parts.items() if xs[0].dim() == 2 or not xs[0].is_floating_point()}
    lengths = {k: torch.tensor([len(x) for x in xs], device="cpu") for k, xs in parts.items() if k in has_time}
    steps = padded_steps(lengths, aligned=aligned and are_aligned(list(lengths.values())))
    inputs = {k: pad(xs, steps[k]) for k, xs in parts.items() if k in lengths}
    for name in parts.keys() - lengths.keys():  # vectors
        absent = torch.zeros(sizes.get(name, 0), device="cpu")
        inputs[name] = torch.stack([x if len(x) else absent for x in parts[name]])
        valid = torch.tensor([int(len(x) > 0) for x in parts[name]], device="cpu")
        if name in present or not valid.all():
            lengths[name] = valid
    return {name: inputs[name] for name in names}, lengths


def pad(rows: Sequence[Tensor], steps: int) -> Tensor:
    """Pads sequences (T, D), or ids of tokens (T,), with zeros on the right, to (B, steps, D) or (B, steps)."""
    padded = rows[0].new_zeros(len(rows), steps, *rows[0].shape[1:])
    for row, sequence in zip(padded, rows, strict=True):
        row[: len(sequence)] = sequence
    return padded


def padded_steps(lengths: Mapping[str, Tensor], *, aligned: bool) -> dict[str, int]:
    """Returns the padded number of steps of each modality: at least 1, and the same for all if they are aligned."""
    steps = {name: max(1, int(valid.max())) for name, valid in lengths.items()}
    return dict.fromkeys(steps, max(steps.values(), default=1)) if aligned else steps


def are_aligned(lengths: Sequence[Tensor]) -> bool:
    """Returns whether, in each sample, all present modalities are equally long.

    Example:
        >>> are_aligned([torch.tensor([3, 2]), torch.tensor([3, 0])]), are_aligned([torch.tensor([3]), torch.tensor([2])])
        (True, False)
    """
    if not lengths:
        return True
    steps = torch.stack(list(lengths))
    return bool(((steps == steps.amax(0)) | (steps == 0)).all())
