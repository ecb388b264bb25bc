"""Samples whose modalities end at different steps, stored without padding and batched with as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.sequence import Lengths


class DataError(ValueError):
    """Data that cannot be used: the message names the file or the array, what is wrong, and the remedy."""


class Sample(NamedTuple):
    """One sample: inputs of shape (T_k, D_k), or (D_k,), per modality, its label, and its id."""

    inputs: dict[str, Tensor]
    label: Tensor
    id: str


class Batch(NamedTuple):
    """A padded batch.

    Args:
        inputs: Of shape (B, T_k, D_k), padded on the right with zeros, or (B, D_k), per modality.
        lengths: Of shape (B,) when all sequences of the data set are aligned, else a mapping from modality to such a tensor.
        labels: Of shape (B,).
    """

    inputs: dict[str, Tensor]
    lengths: Lengths
    labels: Tensor

    def to(self, device: str | torch.device) -> Batch:
        """Moves inputs and labels to a device; lengths stay on the CPU, where packing needs them."""
        inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        return Batch(inputs, self.lengths, self.labels.to(device, non_blocking=True))


class Ragged(NamedTuple):
    """Sequences of one modality, end to end: values of shape (sum of T, D), and N + 1 offsets."""

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """The number of steps of each sequence, of shape (N,)."""
        return self.offsets.diff()

    def pad(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Returns some sequences as one batch (B, T, D), padded on the right with zeros, and their lengths (B,)."""
        starts, lengths = self.offsets[indices], self.lengths[indices]
        time = torch.arange(int(lengths.max()))
        rows = torch.minimum(starts.unsqueeze(1) + time, self.offsets[-1] - 1)
        padded = self.values[rows.flatten()].view(len(indices), len(time), -1)
        return padded.masked_fill_((time >= lengths.unsqueeze(1)).unsqueeze(-1), 0.0), lengths


class SequenceDataset:
    """Holds N samples of several modalities, each with its own number of steps, and a label per sample.

    Usually made by :func:`load_splits` or :meth:`from_arrays`.

    Args:
        sequences: The sequences of each modality.
        vectors: The modalities that have no time, of shape (N, D_k) each.
        labels: Of shape (N,): floating-point for regression, integer for classes.
        ids: A name for each sample; its number by default.
        report: What was found in the source of the data, for people and for results.json.

    Raises:
        DataError: if numbers of samples differ, or a sample has no step.
    """

    def __init__(
        self,
        sequences: Mapping[str, Ragged],
        vectors: Mapping[str, Tensor],
        labels: Tensor,
        ids: Sequence[str] | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        counts = {name: len(ragged.offsets) - 1 for name, ragged in sequences.items()}
        counts |= {name: len(vector) for name, vector in vectors.items()}
        counts |= {"ids": len(ids)} if ids is not None else {}
        for name, count in counts.items():
            if count != len(labels):
                raise DataError(f"{name!r} has {count} samples but there are {len(labels)} labels")
        for name, ragged in sequences.items():
            if len(empty := (ragged.lengths < 1).nonzero()):
                raise DataError(f"sample {int(empty[0])} of {name!r} has no steps: leave out such samples ({len(empty)} here)")
        self.sequences = dict(sequences)
        self.vectors = dict(vectors)
        self.labels = labels
        self.ids = [str(i) for i in range(len(labels))] if ids is None else list(ids)
        self.report = dict(report or {})
        lengths = [ragged.lengths for ragged in sequences.values()]
        self.aligned = all(torch.equal(lengths[0], other) for other in lengths[1:])

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, Any],
        labels: Any,
        lengths: Any = None,
        ids: Sequence[str] | None = None,
    ) -> SequenceDataset:
        """Makes a data set from arrays of your own.

        Args:
            inputs: Per modality a list of N arrays (T_i, D), or one array (N, T, D) padded on the right, or vectors (N, D).
            labels: Of shape (N,): floating-point for regression, integer for classes.
            lengths: For padded arrays, the number of valid steps of each sample, of shape (N,), or a mapping from modality
                to such lengths; None when all steps are valid.
            ids: A name for each sample.

        Returns:
            The data set; values are copied to float32.

        Raises:
            DataError: if numbers of samples or features differ, a value is not finite, or lengths do not fit.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": [np.ones((3, 2)), np.ones((1, 2))]}, [0.5, -1.0])
            >>> len(data), data.sizes
            (2, {'audio': 2})
            >>> data.batch([0, 1]).lengths
            tensor([3, 1])
        """
        sequences, vectors = {}, {}
        for name, value in inputs.items():
            valid = lengths.get(name) if isinstance(lengths, Mapping) else lengths
            if isinstance(value, (list, tuple)):
                arrays = [np.asarray(array) for array in value]
                shapes = {array.shape[1:] for array in arrays}
                if len(shapes) != 1 or any(array.ndim != 2 for array in arrays):
                    raise DataError(f"{name!r} must be a list of arrays (T_i, D) with one D, got (T_i, *D) with D in {shapes}")
                if valid is not None:
                    raise DataError(f"{name!r} is a list of arrays, whose lengths are their own: leave out lengths for it")
                sequences[name] = ragged_from_list(arrays)
            else:
                array = np.asarray(value)
                if array.ndim == 2:
                    vectors[name] = torch.tensor(array, dtype=torch.float32)
                elif array.ndim == 3:
                    valid = [array.shape[1]] * len(array) if valid is None else np.asarray(valid)
                    sequences[name] = _ragged_from_padded(array, np.asarray(valid), name)
                else:
                    raise DataError(f"{name!r} has shape {array.shape}: it must be (N, T, D), (N, D), or a list of (T_i, D)")
        for name, values in {**{k: r.values for k, r in sequences.items()}, **vectors}.items():
            if stray := int((~values.isfinite()).sum()):
                raise DataError(f"{name!r} has {stray} values that are not finite: replace them first, as in np.nan_to_num")
        targets = torch.as_tensor(np.asarray(labels))
        targets = targets.to(torch.float32 if targets.is_floating_point() else torch.int64)
        if targets.dim() != 1:
            raise DataError(f"labels have shape {tuple(targets.shape)}: there must be one per sample, (N,)")
        if len(wrong := (~targets.isfinite()).nonzero()):
            raise DataError(f"label {int(wrong[0])} is not finite ({len(wrong)} such labels): leave out such samples")
        return cls(sequences, vectors, targets, ids)

    @property
    def sizes(self) -> dict[str, int]:
        """The features D_k of each modality."""
        sizes = {name: ragged.values.shape[1] for name, ragged in self.sequences.items()}
        return sizes | {name: vector.shape[1] for name, vector in self.vectors.items()}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """The steps of each sample, of shape (N,), for each modality that has time."""
        return {name: ragged.lengths for name, ragged in self.sequences.items()}

    def batch_lengths(self) -> Tensor:
        """Returns the steps of the longest modality of each sample, of shape (N,), for batches of similar length."""
        if not self.sequences:
            return torch.ones(len(self), dtype=torch.int64)
        return torch.stack(list(self.lengths.values())).amax(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        inputs = {name: r.values[int(r.offsets[index]) : int(r.offsets[index + 1])] for name, r in self.sequences.items()}
        return Sample(inputs | {k: v[index] for k, v in self.vectors.items()}, self.labels[index], self.ids[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Pads some samples to the longest of them.

        Args:
            indices: Which samples, in this order.

        Returns:
            The batch, with sequences padded on the right.

        Raises:
            IndexError: if there is no such sample, or none is asked for.
        """
        indices = torch.as_tensor(indices)
        if indices.dtype != torch.int64 or indices.dim() != 1 or len(indices) == 0:
            raise IndexError(
                f"a batch takes a list of at least one number, got {indices.dtype} of shape {tuple(indices.shape)}"
            )
        if len(stray := indices[(indices < -len(self)) | (indices >= len(self))]):
            raise IndexError(f"sample {int(stray[0])} of {len(self)}")
        indices = indices % len(self)
        padded = {name: ragged.pad(indices) for name, ragged in self.sequences.items()}
        inputs = {name: values for name, (values, _) in padded.items()}
        inputs |= {name: vector[indices] for name, vector in self.vectors.items()}
        lengths: Lengths = {name: valid for name, (_, valid) in padded.items()}
        if self.aligned:
            lengths = next(iter(padded.values()))[1] if padded else None
        return Batch(inputs, lengths, self.labels[indices])

    def masked(self, masks: Mapping[str, Tensor]) -> SequenceDataset:
        """Returns a copy whose inputs are multiplied by masks of shape (N, D_k), the same for all steps of a sample."""
        sequences = {}
        for name, ragged in self.sequences.items():
            mask = masks[name].repeat_interleave(ragged.lengths, 0)
            sequences[name] = Ragged(ragged.values * mask, ragged.offsets)
        vectors = {name: vector * masks[name] for name, vector in self.vectors.items()}
        return SequenceDataset(sequences, vectors, self.labels, self.ids, self.report)


def ragged_from_list(arrays: Sequence[np.ndarray[Any, Any]]) -> Ragged:
    """Stores arrays (T_i, D) end to end, in float32."""
    offsets = np.cumsum([0, *map(len, arrays)])
    values = np.concatenate([np.asarray(array, dtype=np.float32) for array in arrays])
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))


def _ragged_from_padded(array: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], name: str) -> Ragged:
    if lengths.shape != (len(array),) or not np.issubdtype(lengths.dtype, np.integer):
        raise DataError(f"lengths of {name!r} must be {len(array)} integers, got {lengths.dtype} of shape {lengths.shape}")
    if len(wrong := np.flatnonzero((lengths < 1) | (lengths > array.shape[1]))):
        raise DataError(f"lengths[{wrong[0]}] of {name!r} is {lengths[wrong[0]]}, but it has {array.shape[1]} steps")
    return ragged_from_list([sample[:length] for sample, length in zip(array, lengths, strict=True)])


def bucketed_batches(lengths: Tensor, batch_size: int, *, seed: int, epoch: int, pool: int = 20) -> list[Tensor]:
    """Splits samples into batches of similar length, in random order: every sample once, the same for a seed and epoch.

    All samples are shuffled and cut into pools of `pool` batches; each pool is sorted by length and cut into batches, and
    all batches are shuffled. Similar lengths make an epoch twice as fast as random batches, which are mostly padding.

    Args:
        lengths: Of shape (N,).
        batch_size: Samples of a batch; the last one of the last pool may hold fewer.
        seed: Of the run.
        epoch: Of the run.
        pool: Batches of a pool. 1 gives plain random batches. (Default: 20)

    Returns:
        The indices of each batch.

    Example:
        >>> batches = bucketed_batches(torch.tensor([3, 9, 3, 9]), 2, seed=0, epoch=0)
        >>> sorted(sorted(batch.tolist()) for batch in batches)
        [[0, 2], [1, 3]]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=generator)
    batches: list[Tensor] = []
    for members in order.split(pool * batch_size):
        batches += members[lengths[members].argsort(stable=True)].split(batch_size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
