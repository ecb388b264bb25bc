"""A data set of sequences of several modalities, stored without padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils.data import Dataset

from topdown.datasets.arrays import from_arrays
from topdown.datasets.batch import Batch, Sample, are_aligned, collate, padded_steps
from topdown.datasets.cleaning import Training
from topdown.datasets.corruption import Corruption, Kind, Moments, check_severity, draw_missing, moments, seeds_of
from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.table_files import table_of
from topdown.datasets.formats.helpers.table_samples import make_samples
from topdown.datasets.labels import describe_labels
from topdown.datasets.raw_samples import RawSplit, Sink, check_counts, clean_split, in_memory, summary
from topdown.datasets.unpadded import Ragged, in_float32, standardize


class SequenceDataset(Dataset[Sample]):
    """Holds N samples of several modalities, each with its own number of steps, and a label per sample, if there are labels.

    A modality may be absent in a sample: a sequence of length 0, or a vector that is not `present`. Each sample must have one.

    Usually returned by :func:`load_splits` or :meth:`from_arrays`. :func:`topdown.datasets.data_loader` makes batches of
    similar length; a custom loader is `DataLoader(data, batch_size, collate_fn=data.collate)`.

    Args:
        sequences: Sequences of each modality.
        vectors: Modalities that have no time, of shape (N, D_k) each.
        labels: Labels of shape (N,), or (N, K): floating-point for regression, integer for classes; None for new data. A
            missing label is nan in the former, -100 in the latter.
        ids: Name of each sample. (Default: its number)
        report: Findings about the source of the data, for people and for results.json. (Default: sizes and lengths)
        present: Marks of samples with a vector, of shape (N,), for vectors that are absent in some. (Default: none is absent)
        corruptions: Corruptions of values, one after the other: see :meth:`corrupt`. (Default: none)

    Raises:
        DataError: if numbers of samples differ, or a sample has no modality at all.
    """

    def __init__(
        self,
        sequences: Mapping[str, Ragged],
        vectors: Mapping[str, Tensor],
        labels: Tensor | None = None,
        ids: Sequence[str] | None = None,
        report: Mapping[str, Any] | None = None,
        *,
        present: Mapping[str, Tensor] = MappingProxyType({}),
        corruptions: Sequence[Corruption] = (),
    ) -> None:
        counts = {name: len(ragged.lengths) for name, ragged in sequences.items()}
        counts |= {name: len(vector) for name, vector in vectors.items()}
        count = check_counts(counts | ({"ids": len(ids)} if ids is not None else {}), labels)
        self.sequences = dict(sequences)
        self.vectors = dict(vectors)
        self.present = {name: marks for name, marks in present.items() if not marks.all()}
        self.labels: Any = labels  # a tensor, or None
        self.ids = [str(i) for i in range(count)] if ids is None else list(ids)
        self.corruptions = tuple(corruptions)
        self.aligned = are_aligned([ragged.lengths for ragged in sequences.values()])
        self.complete = all(bool((steps > 0).all()) for steps in self.lengths.values())
        if not self.complete and vectors.keys() == self.present.keys():
            empty = (torch.stack(list(self.lengths.values())).amax(0) == 0).nonzero()
            if len(empty):
                raise DataError(f"sample {int(empty[0])} has no modality at all: leave out such samples ({len(empty)} here)")
        self.report = dict(report if report is not None else self._describe())

    @classmethod
    def from_arrays(
        cls,
        inputs: Mapping[str, Any],
        labels: Any = None,
        lengths: Any = None,
        ids: Sequence[Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> SequenceDataset:
        """Makes a data set from arrays.

        Args:
            inputs: Modalities: each a list of N arrays (T_i, D), or one array (N, T, D) padded on the right, or vectors (N, D).
                Arrays, or tensors. In a list, None marks an absent modality. A value of nan is a gap, which gets
                the mean of its feature; the report counts them. Ids of tokens are integers: a list of
                N arrays (T_i,), or one array (N, T) with its lengths.
            labels: Labels of shape (N,), or (N, K) for several per sample: floating-point for regression, nan where one is
                missing; integer for classes, -100 where one is missing; or words of shape (N,), which are classes, "", nan
                or None where one is missing. (Default: None, for new data)
            lengths: Valid steps of each sample in padded arrays, of shape (N,), or a mapping from modality to such, where 0
                means that the modality is absent; for vectors 1 or 0, present or absent. (Default: all steps)
            ids: Name of each sample. (Default: its number)
            classes: Names of the classes, in their order; the same for all splits. (Default: the words of these labels, sorted;
                none for numbers)

        Returns:
            Data set; values are copied to float32, or to float64 until they are standardized if float32 would lose digits.

        Raises:
            DataError: if numbers of samples or features differ, a value is infinite, or lengths do not fit.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": [np.ones((3, 2)), np.ones((1, 2))]}, [0.5, -1.0])
            >>> len(data), data.sizes
            (2, {'audio': 2})
            >>> data.batch([0, 1]).lengths
            tensor([3, 1])
            >>> moods = SequenceDataset.from_arrays({"audio": np.ones((2, 3))}, ["sad", "glad"])
            >>> moods.labels, moods.report["class_names"]
            (tensor([1, 0]), ['glad', 'sad'])
        """
        data = cls.from_split(from_arrays(inputs, labels, lengths, ids, classes), "inputs")
        for name, entry in data.report["modalities"].items():
            if stray := sum(entry.get("replaced", {}).values()):
                what = f"{stray} values that are not finite, the first in sample {entry['first_replaced']}"
                remedy = "replace them first, as in np.nan_to_num, or give a length of 0 where the modality is absent"
                raise DataError(f"{name!r} has {what}: {remedy}")
        return data

    @classmethod
    def from_frames(
        cls, frames: Mapping[str, Any], labels: Any = None, *, label: str | None = None, split: str | None = None
    ) -> SequenceDataset:
        """Makes a data set from pandas frames, as :func:`load_splits` does from tables.

        Args:
            frames: Frame of each modality: a row for each step, in their order, with its sample in the column (or index) `id`
                and a feature in each other column. One in which no sample has two rows is of vectors.
            labels: Frame with a row for each sample: its `id`, one label in each other column, and `split`, if there is one.
                (Default: None, for new data)
            label: Column of the label. (Default: all columns but `id` and `split`)
            split: Split to use, where `labels` has a column of that name. (Default: all samples)

        Returns:
            Data set. A missing feature is filled with the mean of its column over the training samples, or over all if there
            is no split; the names of features and classes, and what was decided, are in its report.

        Raises:
            DataError: naming the frame, the row and the column that does not fit.
            ImportError: without the extra `datasets`.

        Example:
            >>> import pandas
            >>> audio = pandas.DataFrame({"id": ["a", "a", "b"], "pitch": [1.0, 3.0, 2.0]})
            >>> labels = pandas.DataFrame({"id": ["a", "b"], "mood": ["glad", "sad"]})
            >>> data = SequenceDataset.from_frames({"audio": audio}, labels)
            >>> data.labels, data.report["class_names"], data.lengths
            (tensor([0, 1]), ['glad', 'sad'], {'audio': tensor([2, 1])})
        """
        tables = {name: table_of(frame, name) for name, frame in frames.items()}
        chosen = {name: (table, list(table.frame.columns)) for name, table in tables.items()}
        about = None if labels is None else table_of(labels, "labels")
        if about is not None and split is None:
            about = about._replace(frame=about.frame.drop(columns=[about.column("split")] if about.column("split") else []))
        splits = make_samples(about, chosen, label, None, 0, None, "frames")
        if (wanted := split or "all") not in splits:
            raise DataError(f"labels have no split {wanted!r}; they have {list(splits)}")
        train = cls.from_split(splits["train"], "frames") if "train" in splits else None
        if train is None or wanted == "train":
            return train or cls.from_split(splits[wanted], "frames")
        return cls.from_split(splits[wanted], "frames", training=train.as_training())

    @classmethod
    def from_split(cls, raw: RawSplit, where: str, sink: Sink = in_memory, training: Training | None = None) -> SequenceDataset:
        """Makes a data set of the samples that a reader returned: see :mod:`topdown.datasets.raw_samples`.

        Args:
            raw: Samples; its streams are used up.
            where: Name of the split, for messages.
            sink: Function that stores the values. (Default: in memory)
            training: Statistics of the training samples. (Default: these are the training samples)

        Raises:
            DataError: if numbers of samples differ, there is none, one has no steps at all, or a feature is never finite.
        """
        parts, report = clean_split(raw, where, sink, training)
        data = cls(**parts)
        data.report |= report
        return data

    @property
    def sizes(self) -> dict[str, int]:
        """Number of features D_k of each modality."""
        sizes = {name: ragged.size for name, ragged in self.sequences.items()}
        return sizes | {name: vector.shape[1] for name, vector in self.vectors.items()}

    @property
    def lengths(self) -> dict[str, Tensor]:
        """Number of steps of each sample, of shape (N,), for each modality that has time, or is absent in some."""
        lengths = {name: ragged.lengths for name, ragged in self.sequences.items()}
        return lengths | {name: marks.long() for name, marks in self.present.items()}

    def batch_lengths(self) -> Tensor:
        """Returns the length of the longest modality of each sample, of shape (N,)."""
        if not self.sequences:
            return torch.ones(len(self), dtype=torch.int64, device="cpu")
        return torch.stack([ragged.lengths for ragged in self.sequences.values()]).amax(0)

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
        for name, vector in self.vectors.items():
            present = bool(self.present[name][index]) if name in self.present else True
            inputs[name] = in_float32(vector[index : index + present])
        for corruption in self.corruptions:
            inputs = corruption.apply(inputs, index)
        label = None if self.labels is None else self.labels[index]
        return Sample({k: x.flatten() if k in self.vectors else x for k, x in inputs.items()}, label, self.ids[index])

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    def batch(self, indices: Sequence[int] | Tensor) -> Batch:
        """Pads some samples, each modality to the longest of them.

        Args:
            indices: Numbers of the samples, in this order.

        Returns:
            Batch, with sequences padded on the right.

        Raises:
            IndexError: if there is no such sample, or no index is given.
        """
        indices = self._indices(indices)
        if self.corruptions:
            return self.collate([self[i] for i in indices.tolist()])
        lengths = {name: steps[indices] for name, steps in self.lengths.items()}
        steps = padded_steps({name: lengths[name] for name in self.sequences}, aligned=self.aligned)
        inputs = {name: ragged.pad(indices, steps[name]) for name, ragged in self.sequences.items()}
        for name, vector in self.vectors.items():
            marks = self.present[name][indices].unsqueeze(1) if name in self.present else None
            inputs[name] = in_float32(vector[indices] if marks is None else vector[indices] * marks)
        labels = None if self.labels is None else self.labels[indices]
        return self._batch(inputs, lengths, labels, [self.ids[i] for i in indices.tolist()])

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
        inputs, lengths = collate(samples, self.sizes, self.present, aligned=self.aligned)
        labels = [sample.label for sample in samples if sample.label is not None]
        if 0 < len(labels) < len(samples):
            raise DataError(f"{len(samples) - len(labels)} of {len(samples)} samples have no label, but the others have")
        return self._batch(inputs, lengths, torch.stack(labels) if labels else None, [sample.id for sample in samples])

    def _batch(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor], labels: Any, ids: list[str]) -> Batch:
        """Makes a batch, with one tensor of lengths if all modalities share it; the form is the same for every batch."""
        first = next(iter(lengths.values()), None)
        if self.aligned and self.complete and (first is None or all(torch.equal(first, x) for x in lengths.values())):
            return Batch(inputs=inputs, lengths=first, labels=labels, ids=ids)
        return Batch(inputs=inputs, lengths=lengths, labels=labels, ids=ids)

    def subset(self, indices: Sequence[int] | Tensor) -> SequenceDataset:
        """Returns some of the samples, in this order. No sequence is copied.

        Args:
            indices: Numbers of the samples.

        Raises:
            IndexError: if there is no such sample, or no index is given.

        Example:
            >>> data = SequenceDataset.from_arrays({"audio": np.ones((9, 5, 2))}, np.arange(9.0))
            >>> data.subset(range(0, 9, 3)).labels
            tensor([0., 3., 6.])
        """
        indices = self._indices(indices)
        data = self._with(
            sequences={name: ragged.subset(indices) for name, ragged in self.sequences.items()},
            vectors={name: vector[indices] for name, vector in self.vectors.items()},
            labels=None if self.labels is None else self.labels[indices],
            ids=[self.ids[i] for i in indices.tolist()],
            present={name: marks[indices] for name, marks in self.present.items()},
            corruptions=[corruption.subset(indices) for corruption in self.corruptions],
            report=None,
        )
        # Findings about the file stay as they were; only those about the samples themselves are new.
        whole = self.report["modalities"]
        modalities = {name: {**whole[name], **entry} for name, entry in data.report["modalities"].items()}
        data.report = {**self.report, **data.report, "modalities": modalities, "subset_of": {"samples": len(self)}}
        return data

    def corrupt(
        self,
        kind: Kind,
        severity: float | Tensor,
        *,
        modalities: Sequence[str] | None = None,
        seed: int = 0,
        scale: Mapping[str, Tensor] | None = None,
    ) -> SequenceDataset:
        """Returns corrupted samples, for robustness tests or for augmentation. Values change when they are read.

        ============  ==========================================================================================
        "noise"       Gaussian noise is added, of `severity` standard deviations of each feature
        "features"    each feature of a sample is 0 in all its steps, with probability `severity`
        "steps"       each step is 0 in all its features, with probability `severity`; lengths stay what they are
        "missing"     each modality is absent, its length 0, with probability `severity`; at least one stays
        ============  ==========================================================================================

        The random numbers of a sample do not depend on its batch or subset. To train on other ones in
        each epoch, see `augment=` of :func:`topdown.training.fit`.

        Args:
            kind: Kind of corruption.
            severity: Severity for all samples, or one for each, of shape (N,); 0 changes nothing.
            modalities: Names of the modalities to corrupt. (Default: all)
            seed: Random seed. (Default: 0)
            scale: Standard deviation of each feature, for noise. (Default: that of :meth:`moments` of these samples)

        Raises:
            DataError: if there is no such kind, severity or modality.

        Example:
            >>> data = SequenceDataset.from_arrays({"a": np.ones((2, 5, 3)), "b": np.ones((2, 4))}, [0.0, 1.0])
            >>> data.corrupt("missing", 1.0, modalities=["b"]).batch([0, 1]).lengths
            {'a': tensor([5, 5]), 'b': tensor([0, 0])}
            >>> float(data.corrupt("steps", 1.0, modalities=["a"])[0].inputs["a"].sum())
            0.0
        """
        values = check_severity(kind, severity, len(self))
        tokens = [name for name, ragged in self.sequences.items() if ragged.are_tokens and kind in ("noise", "features")]
        names = tuple([name for name in self.sizes if name not in tokens] if modalities is None else modalities)
        if stray := [name for name in names if name in tokens]:
            raise DataError(f"{stray[0]!r} holds ids of tokens, which have neither noise nor features: leave it out")
        if isinstance(modalities, str):
            raise DataError(f"modalities={modalities!r}: give a list of names")
        if unknown := [name for name in names if name not in self.sizes]:
            raise DataError(f"there is no modality {unknown[0]!r} among {list(self.sizes)}")
        seeds = seeds_of(len(self), seed)
        sequences, present, corruptions = self.sequences, self.present, self.corruptions
        if kind == "missing":
            everywhere = {name: torch.ones(len(self), dtype=torch.int64, device="cpu") for name in self.vectors}
            lengths = draw_missing({**everywhere, **self.lengths}, names, values, seeds)
            sequences = {name: ragged._replace(lengths=lengths[name]) for name, ragged in sequences.items()}
            present = {name: lengths[name] > 0 for name in self.vectors}
        else:
            if kind == "noise" and scale is None:
                scale = {name: statistics.deviation for name, statistics in self.moments().items()}
            corruptions = (*corruptions, Corruption(kind, names, values, seeds, scale or {}))
        return self._with(sequences=sequences, present=present, corruptions=corruptions)

    def moments(self) -> dict[str, Moments]:
        """Returns mean and standard deviation of each feature over all steps of all samples, before any corruption.

        Ids of tokens have none.
        """
        tokens = [name for name, ragged in self.sequences.items() if ragged.are_tokens]
        return {name: self._moments_of(name) for name in self.sizes if name not in tokens}

    def as_training(self) -> Training:
        """Returns the statistics that other splits need, if these are the training samples."""
        exact = [name for name, entry in self.report["modalities"].items() if "rounded" in entry]
        return Training(exact, lambda name: self._moments_of(name).mean.double().numpy())

    def _moments_of(self, name: str) -> Moments:
        if name in self.vectors:
            vector = self.vectors[name]
            return moments([vector[self.present[name]] if name in self.present else vector], vector.shape[1])
        ragged, parts = self.sequences[name], torch.arange(len(self), device="cpu").split(256)
        return moments((ragged.subset(part).all_rows() for part in parts), ragged.size)

    def standardized(self, by: Mapping[str, Moments]) -> SequenceDataset:
        """Returns the samples with mean 0 and standard deviation 1 of each feature, by the moments of the training data.

        A feature that is constant in the training data becomes 0 where it has that value. Values of a store change as they are
        read; ids of tokens never change.

        Args:
            by: Moments of each modality: `train.moments()`.

        Raises:
            DataError: if the samples are corrupted.

        Example:
            >>> data = SequenceDataset.from_arrays({"a": np.array([[[1.0], [5.0]], [[3.0], [7.0]]])}, [0.0, 1.0])
            >>> data.standardized(data.moments())[0].inputs["a"].flatten()
            tensor([-1.3416,  0.4472])
        """
        self._check_clean("standardize them")
        tokens = {name: ragged for name, ragged in self.sequences.items() if ragged.are_tokens}
        if missing := [name for name in self.sizes if name not in by and name not in tokens]:
            raise DataError(f"there are no moments of {missing[0]!r}: give those of {list(self.sizes)}")
        sequences = {
            name: tokens.get(name) or ragged.scaled(*_shift_and_scale(by[name])) for name, ragged in self.sequences.items()
        }
        vectors = {}
        for name, vector in self.vectors.items():
            shift, scale = _shift_and_scale(by[name])
            marks = self.present[name].unsqueeze(1) if name in self.present else True
            vectors[name] = standardize(vector, shift, scale) * marks
        return self._with(sequences=sequences, vectors=vectors)

    def choose(self, names: Sequence[str]) -> SequenceDataset:
        """Returns the same samples with some of their modalities, in this order.

        Raises:
            DataError: if there is no such modality, or a sample has none of them.
        """
        if unknown := [name for name in names if name not in self.sizes]:
            raise DataError(f"there is no modality {unknown[0]!r} among {list(self.sizes)}")
        if not names:
            raise DataError(f"there is nothing to choose: name some of {list(self.sizes)}")
        return self._with(
            sequences={name: self.sequences[name] for name in names if name in self.sequences},
            vectors={name: self.vectors[name] for name in names if name in self.vectors},
            present={name: marks for name, marks in self.present.items() if name in names},
            corruptions=[c._replace(names=tuple(n for n in c.names if n in names)) for c in self.corruptions],
            report=None,
        )._reported(self.report)

    def relabeled(self, labels: Tensor | None) -> SequenceDataset:
        """Returns the same samples with other labels, of shape (N,) or (N, K), or None; drops class names."""
        report = {name: value for name, value in self.report.items() if name != "class_names"}
        return self._with(labels=labels, report=None)._reported(report)

    def as_sequences(self) -> SequenceDataset:
        """Returns the same samples, each vector as a sequence of one step: for models that take sequences alone."""
        steps = {name: torch.ones(len(self), dtype=torch.int64, device="cpu") for name in self.vectors}
        lengths = {**steps, **{name: marks.long() for name, marks in self.present.items()}}
        first = torch.arange(len(self), device="cpu")
        sequences = {name: Ragged(vector, first, lengths[name]) for name, vector in self.vectors.items()}
        sequences = {name: {**self.sequences, **sequences}[name] for name in self.sizes}
        return self._with(sequences=sequences, vectors={}, present={})

    def masked(self, masks: Mapping[str, Tensor]) -> SequenceDataset:
        """Returns a copy whose inputs are multiplied by masks of shape (N, D_k), the same for all steps of a sample.

        Ids of tokens stay as they are.

        Raises:
            DataError: if the samples are corrupted; mask them first.
        """
        self._check_clean("mask them")
        sequences = {}
        for name, ragged in self.sequences.items():
            if ragged.are_tokens:
                sequences[name] = ragged
                continue
            mask = masks[name].repeat_interleave(ragged.lengths, 0)
            sequences[name] = Ragged.packed(ragged.all_rows() * mask, ragged.lengths)
        vectors = {name: vector * masks[name] for name, vector in self.vectors.items()}
        return self._with(sequences=sequences, vectors=vectors)

    def _with(self, **parts: Any) -> SequenceDataset:
        """Returns a copy with other parts; if the report is None, the copy describes itself."""
        names = ("sequences", "vectors", "labels", "ids", "report", "present", "corruptions")
        return SequenceDataset(**{**{name: getattr(self, name) for name in names}, **parts})

    def _reported(self, report: Mapping[str, Any]) -> SequenceDataset:
        """Copies the report of the source for the modalities that are left, with a new description of the labels."""
        modalities = {name: report["modalities"].get(name, default) for name, default in self.report["modalities"].items()}
        changed = {name: self.report[name] for name in ("aligned", "labels")}
        self.report = {**report, **changed, "modalities": modalities}
        return self

    def _check_clean(self, what: str) -> None:
        if self.corruptions:
            raise DataError(f"these samples are corrupted: {what} first, then corrupt them")

    def _indices(self, indices: Sequence[int] | Tensor) -> Tensor:
        indices = torch.as_tensor(indices, device="cpu")
        if indices.dtype == torch.bool:
            raise IndexError("samples are given by their numbers: use mask.nonzero().flatten() for a mask (bool)")
        if indices.dim() != 1 or len(indices) == 0 or indices.dtype != torch.int64:
            what = "none" if indices.numel() == 0 else f"{indices.dtype} of shape {tuple(indices.shape)}"
            raise IndexError(f"a list of at least one number of a sample is needed, got {what}")
        if len(stray := indices[(indices < -len(self)) | (indices >= len(self))]):
            raise IndexError(f"sample {int(stray[0])} of {len(self)}")
        return indices % len(self)

    def _describe(self) -> dict[str, Any]:
        """Describes labels, ids and lengths, without reading inputs."""
        numbers, seen = [str(i) for i in range(len(self))], set[str]()
        twice = [i for i in self.ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
        modalities: dict[str, Any] = {k: {"size": r.size, "lengths": summary(r.lengths)} for k, r in self.sequences.items()}
        modalities |= {name: {"size": vector.shape[1]} for name, vector in self.vectors.items()}
        return {
            "samples": len(self),
            "aligned": self.aligned,
            "labels": None if self.labels is None else describe_labels(self.labels),
            "ids": {"given": self.ids != numbers, "duplicates": len(twice), "examples": list(dict.fromkeys(twice))[:3]},
            "modalities": modalities,
        }


def _shift_and_scale(by: Moments) -> tuple[Tensor, Tensor]:
    return by.mean, torch.where(by.deviation > 0, by.deviation, 1.0)
