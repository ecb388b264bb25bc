"""Samples whose modalities end at different steps, stored without padding and batched with as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from topdown.datasets.arrays import from_arrays
from topdown.datasets.errors import DataError
from topdown.datasets.ragged import Ragged
from topdown.datasets.streams import RawSplit, Sink, clean_vectors, in_memory, keep, summary
from topdown.sequence import Lengths


class Sample(NamedTuple):
    """One sample: inputs of shape (T_k, D_k), or (D_k,), per modality, its label or None, and its id."""

    inputs: dict[str, Tensor]
    label: Tensor | None
    id: str


class Batch(dict[str, Any]):
    """A padded batch: a mapping of `inputs`, `lengths`, `labels` and `ids`, each of which is an attribute, too.

    Being a dict, it is moved, shared out and put together again by whatever framework does that to batches.

    Attributes:
        inputs: Sequences of shape (B, T_k, D_k), padded on the right with zeros, or vectors (B, D_k), per modality.
        lengths: Lengths of shape (B,) when all sequences of the data set are aligned, else a mapping from modality to such;
            None when there are vectors alone.
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
        """Labels, if there are any."""
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


class SequenceDataset(Dataset[Sample]):
    """Holds N samples of several modalities, each with its own number of steps, and a label per sample, if there are labels.

    Usually made by :func:`load_splits` or :meth:`from_arrays`. :func:`topdown.datasets.data_loader` makes batches of similar
    length; a loader of your own is `DataLoader(data, batch_size, collate_fn=data.collate)`.

    Args:
        sequences: Sequences of each modality.
        vectors: Modalities that have no time, of shape (N, D_k) each.
        labels: Labels of shape (N,), or (N, K): floating-point for regression, integer for classes; None for new data.
        ids: Name of each sample. (Default: its number)
        report: Findings about the source of the data, for people and for results.json. (Default: sizes and lengths)

    Raises:
        DataError: if numbers of samples differ, or a sample has no step.
    """

    def __init__(
        self,
        sequences: Mapping[str, Ragged],
        vectors: Mapping[str, Tensor],
        labels: Tensor | None = None,
        ids: Sequence[str] | None = None,
        report: Mapping[str, Any] | None = None,
    ) -> None:
        counts = {name: len(ragged.lengths) for name, ragged in sequences.items()}
        counts |= {name: len(vector) for name, vector in vectors.items()}
        count = _check_counts(counts | ({"ids": len(ids)} if ids is not None else {}), labels)
        for name, ragged in sequences.items():
            if len(empty := (ragged.lengths < 1).nonzero()):
                raise DataError(f"sample {int(empty[0])} of {name!r} has no steps: leave out such samples ({len(empty)} here)")
        self.sequences = dict(sequences)
        self.vectors = dict(vectors)
        self.labels: Any = labels  # a tensor, or None
        self.ids = [str(i) for i in range(count)] if ids is None else list(ids)
        lengths = [ragged.lengths for ragged in sequences.values()]
        self.aligned = all(torch.equal(lengths[0], other) for other in lengths[1:])
        self.report = dict(report if report is not None else self._describe())

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, Any],
        labels: Any = None,
        lengths: Any = None,
        ids: Sequence[Any] | None = None,
    ) -> SequenceDataset:
        """Makes a data set from arrays of your own.

        Args:
            inputs: Modalities: each a list of N arrays (T_i, D), or one array (N, T, D) padded on the right, or vectors (N, D).
                Arrays, or tensors on the CPU.
            labels: Labels of shape (N,), or (N, K) for several per sample: floating-point for regression, integer for classes.
                (Default: None, for new data)
            lengths: Valid steps of each sample in padded arrays, of shape (N,), or a mapping from modality to such. (Default:
                all steps)
            ids: Name of each sample. (Default: its number)

        Returns:
            Data set; values are copied to float32.

        Raises:
            DataError: if numbers of samples or features differ, a value is not finite, or lengths do not fit.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": [np.ones((3, 2)), np.ones((1, 2))]}, [0.5, -1.0])
            >>> len(data), data.sizes
            (2, {'audio': 2})
            >>> data.batch([0, 1]).lengths
            tensor([3, 1])
        """
        data = cls.from_split(from_arrays(inputs, labels, lengths, ids), "inputs")
        for name, found in data.report["modalities"].items():
            if stray := sum(found["replaced"].values()):
                what = f"{stray} values that are not finite, the first in sample {found['first_replaced']}"
                raise DataError(f"{name!r} has {what}: replace them first, as in np.nan_to_num")
        return data

    @classmethod
    def from_split(cls, raw: RawSplit, where: str, sink: Sink = in_memory) -> SequenceDataset:
        """Makes a data set of the samples that a reader found, clean and counted: see :mod:`topdown.datasets.streams`.

        Args:
            raw: Samples; its streams are used up.
            where: Name of the split, for messages.
            sink: Function that keeps the values. (Default: in memory)

        Raises:
            DataError: if numbers of samples differ, there is none, one has no steps at all, or a feature is never finite.
        """
        counts = {name: len(stream.lengths) for name, stream in raw.streams.items()}
        counts |= {name: len(vector) for name, vector in raw.vectors.items()}
        try:
            count = _check_counts(counts | ({"ids": len(raw.ids)} if raw.ids is not None else {}), raw.labels)
        except DataError as error:
            raise DataError(f"{where}: {error}" if where != "inputs" else str(error)) from None
        if count == 0:
            raise DataError(f"{where}: has no samples")
        if nothing := [name for name, stream in raw.streams.items() if stream.size < 1]:
            raise DataError(f"{where}: {nothing[0]!r} has no features; leave it out")
        if raw.streams and not raw.vectors:
            longest = np.maximum.reduce([stream.lengths for stream in raw.streams.values()])
            if len(empty := np.flatnonzero(longest < 1)):
                raise DataError(f"{where}: sample {empty[0]} has no steps, only zeros ({len(empty)} such samples); remove them")
        sequences, vectors, modalities = {}, {}, {}
        for name in list(raw.streams):
            sequences[name], modalities[name] = keep(name, raw.streams.pop(name), sink, f"{where}: {name!r}")
        for name, array in raw.vectors.items():
            vectors[name], modalities[name] = clean_vectors(array)
        labels = None
        if raw.labels is not None:
            labels = torch.from_numpy(raw.labels.astype(np.float32 if raw.labels.dtype.kind == "f" else np.int64))
        data = cls(sequences, vectors, labels, raw.ids)
        data.report = {**data.report, **raw.found, "modalities": modalities}
        return data

    @property
    def sizes(self) -> dict[str, int]:
        """The features D_k of each modality."""
        sizes = {name: ragged.size for name, ragged in self.sequences.items()}
        return sizes | {name: vector.shape[1] for name, vector in self.vectors.items()}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """The steps of each sample, of shape (N,), for each modality that has time."""
        return {name: ragged.lengths for name, ragged in self.sequences.items()}

    def batch_lengths(self) -> Tensor:
        """Returns the steps of the longest modality of each sample, of shape (N,), for batches of similar length."""
        if not self.sequences:
            return torch.ones(len(self), dtype=torch.int64, device="cpu")
        return torch.stack(list(self.lengths.values())).amax(0)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """Shows the number of samples, and their sizes."""
        return f"SequenceDataset({len(self)} samples, sizes={self.sizes}, aligned={self.aligned})"

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SequenceDataset: ...
    def __getitem__(self, index: int | slice) -> Sample | SequenceDataset:
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        index %= len(self)
        inputs = {name: ragged.rows(index) for name, ragged in self.sequences.items()}
        label = None if self.labels is None else self.labels[index]
        return Sample(inputs | {k: v[index] for k, v in self.vectors.items()}, label, self.ids[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Pads some samples to the longest of them, each modality to its own.

        Args:
            indices: Numbers of the samples, in this order.

        Returns:
            Batch, with sequences padded on the right.

        Raises:
            IndexError: if there is no such sample, or none is asked for.
        """
        indices = self._indices(indices)
        padded = {name: ragged.pad(indices) for name, ragged in self.sequences.items()}
        inputs = {name: values for name, (values, _) in padded.items()}
        inputs |= {name: vector[indices] for name, vector in self.vectors.items()}
        lengths: Lengths = {name: valid for name, (_, valid) in padded.items()}
        if self.aligned:
            lengths = next(iter(padded.values()))[1] if padded else None
        labels = None if self.labels is None else self.labels[indices]
        return Batch(inputs=inputs, lengths=lengths, labels=labels, ids=[self.ids[i] for i in indices.tolist()])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pads samples to the longest of them: the `collate_fn` of a loader, also of subsets and concatenations of data sets.

        Args:
            samples: Samples of this data set, or of others with the same modalities.

        Raises:
            DataError: if modalities differ, some samples alone have labels, or there is none.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": [np.ones((3, 2)), np.ones((1, 2))]}, [0.5, -1.0])
            >>> data.collate([data[1], data[0]]).lengths
            tensor([1, 3])
        """
        if not samples:
            raise DataError("there is no sample: a batch takes at least one")
        names = list(samples[0].inputs)
        if stray := next((sample for sample in samples if set(sample.inputs) != set(names)), None):
            raise DataError(f"sample {stray.id!r} has {list(stray.inputs)}, but {samples[0].id!r} has {names}")
        parts = {name: [sample.inputs[name] for sample in samples] for name in names}
        steps = {k: torch.tensor([len(x) for x in xs], device="cpu") for k, xs in parts.items() if xs[0].dim() == 2}
        inputs = {k: pad_sequence(xs, batch_first=True) if k in steps else torch.stack(xs) for k, xs in parts.items()}
        first = next(iter(steps.values()), None)
        aligned = self.aligned and all(torch.equal(first, other) for other in steps.values() if first is not None)
        found = [sample.label for sample in samples if sample.label is not None]
        if 0 < len(found) < len(samples):
            raise DataError(f"{len(samples) - len(found)} of {len(samples)} samples have no label, but the others have")
        labels = torch.stack(found) if found else None
        return Batch(inputs=inputs, lengths=first if aligned else steps, labels=labels, ids=[sample.id for sample in samples])

    def subset(self, indices: Sequence[int] | Tensor) -> SequenceDataset:
        """Returns some of the samples, in this order, for a quick run or for folds of one's own; no sequence is copied.

        Args:
            indices: Numbers of the samples.

        Raises:
            IndexError: if there is no such sample, or none is asked for.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": np.ones((9, 5, 2))}, np.arange(9.0))
            >>> data.subset(range(0, 9, 3)).labels
            tensor([0., 3., 6.])
        """
        indices = self._indices(indices)
        sequences = {name: ragged.subset(indices) for name, ragged in self.sequences.items()}
        vectors = {name: vector[indices] for name, vector in self.vectors.items()}
        labels = None if self.labels is None else self.labels[indices]
        data = SequenceDataset(sequences, vectors, labels, [self.ids[i] for i in indices.tolist()])
        # Findings about the file stay as they were; only those about the samples themselves are new.
        whole = self.report["modalities"]
        modalities = {name: {**whole[name], **found} for name, found in data.report["modalities"].items()}
        data.report = {**self.report, **data.report, "modalities": modalities, "subset_of": {"samples": len(self)}}
        return data

    def masked(self, masks: Mapping[str, Tensor]) -> SequenceDataset:
        """Returns a copy whose inputs are multiplied by masks of shape (N, D_k), the same for all steps of a sample."""
        sequences = {}
        for name, ragged in self.sequences.items():
            mask = masks[name].repeat_interleave(ragged.lengths, 0)
            sequences[name] = Ragged.packed(ragged.all_rows() * mask, ragged.lengths)
        vectors = {name: vector * masks[name] for name, vector in self.vectors.items()}
        return SequenceDataset(sequences, vectors, self.labels, self.ids, self.report)

    def _indices(self, indices: Sequence[int] | Tensor) -> Tensor:
        indices = torch.as_tensor(indices, device="cpu")
        if indices.dtype == torch.bool:
            raise IndexError("samples are given by their numbers: use mask.nonzero().flatten() for a mask (bool)")
        if indices.dtype != torch.int64 or indices.dim() != 1 or len(indices) == 0:
            raise IndexError(
                f"a batch takes a list of at least one number, got {indices.dtype} of shape {tuple(indices.shape)}"
            )
        if len(stray := indices[(indices < -len(self)) | (indices >= len(self))]):
            raise IndexError(f"sample {int(stray[0])} of {len(self)}")
        return indices % len(self)

    def _describe(self) -> dict[str, Any]:
        """Describes labels, ids and lengths, without looking at any input."""
        numbers, seen = [str(i) for i in range(len(self))], set[str]()
        twice = [i for i in self.ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
        modalities: dict[str, Any] = {k: {"size": r.size, "lengths": summary(r.lengths)} for k, r in self.sequences.items()}
        modalities |= {name: {"size": vector.shape[1]} for name, vector in self.vectors.items()}
        return {
            "samples": len(self),
            "aligned": self.aligned,
            "labels": None if self.labels is None else _described(self.labels),
            "ids": {"given": self.ids != numbers, "duplicates": len(twice), "examples": list(dict.fromkeys(twice))[:3]},
            "modalities": modalities,
        }


def _described(labels: Tensor) -> dict[str, Any]:
    zeros = float((labels == 0).float().mean())
    return {"shape": list(labels.shape), "minimum": float(labels.min()), "maximum": float(labels.max()), "zeros": zeros}


def _check_counts(counts: Mapping[str, int], labels: Any) -> int:
    """Checks that there are as many of everything, and returns how many."""
    first = next(iter(counts), None)
    expected = 0 if first is None else counts[first]
    expected = expected if labels is None else len(labels)
    for name, count in counts.items():
        if count != expected:
            there = f"{first!r} has {expected}" if labels is None else f"there are {expected} labels"
            raise DataError(f"{name!r} has {count} samples but {there}")
    return expected
