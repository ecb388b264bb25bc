"""Loads the data of a sentiment experiment: a file, or a synthetic stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import SPLITS
from topdown.datasets.load import load_splits
from topdown.experiments.options import SentimentOptions
from topdown.experiments.synthetic import DISCLAIMER, synthetic_splits

LEAST_OF_MOSEI = 20_000  # samples; its files have about 22,800, those of CMU-MOSI about 2,200


class Inputs(NamedTuple):
    """Holds the splits of an experiment, and their source.

    Args:
        splits: Samples for train, valid and test.
        relevance: {split: {modality: (N, D_k)}}, the planted truth of synthetic data; empty for others.
        source: Name of the file, or "SYNTHETIC DATA".
        provenance: Sentence about the origin of the figures.
        sha256: Hash of the file; empty for synthetic data.
    """

    splits: dict[str, SequenceDataset]
    relevance: dict[str, dict[str, Tensor]]
    source: str
    provenance: str
    sha256: str = ""

    @property
    def is_mosei(self) -> bool:
        """Whether this is the complete CMU-MOSEI, to which published figures refer."""
        sizes = self.splits["train"].sizes
        counts = (data.report.get("subset_of", {}).get("samples", len(data)) for data in self.splits.values())
        return not self.relevance and (sizes.get("audio"), sizes.get("visual")) == (74, 35) and sum(counts) > LEAST_OF_MOSEI

    def masked(self) -> dict[str, SequenceDataset]:
        """Returns synthetic data whose irrelevant features are zero."""
        return {split: data.masked(self.relevance[split]) for split, data in self.splits.items()}

    def counts(self) -> str:
        """Returns the number of samples of each split, in words."""
        parts = []
        for split, data in self.splits.items():
            whole = data.report.get("subset_of")
            parts.append(f"N {split} = {len(data)}" + (f" of {whole['samples']}" if whole else ""))
        return ", ".join(parts)


def load_inputs(options: SentimentOptions) -> Inputs:
    """Loads the file of --data, or generates synthetic data.

    Raises:
        DataError: if it cannot be used for this experiment.
    """
    return _synthetic(options) if options.data is None else _loaded(options.data, options)


def check_backbone(backbone: nn.Module, inputs: Inputs, path: object) -> None:
    """Checks that a backbone accepts a sample of every split.

    Raises:
        DataError: if it does not.
    """
    for split, data in inputs.splits.items():
        # Prefer a sample whose modalities differ in length: not every model accepts it.
        steps = torch.stack(list(data.lengths.values()))
        batch = data.batch([int((steps.amax(0) - steps.amin(0)).argmax())])
        try:
            with torch.no_grad():
                backbone.eval()(batch.inputs, batch.lengths)
        except ValueError as error:
            raise DataError(f"{path}: {split}: {error}") from None


def _synthetic(options: SentimentOptions) -> Inputs:
    print(f"{DISCLAIMER}\n", flush=True)
    count = options.samples or 1000
    counts = (count, max(1, count // 5), max(1, count * 2 // 5))
    try:
        splits, relevance = synthetic_splits(counts, unaligned=options.wants_aligned is False)
    except (RuntimeError, MemoryError):
        raise DataError(f"--samples {count}: too many for the memory of this machine; ask for fewer") from None
    return Inputs(splits, relevance, "SYNTHETIC DATA", DISCLAIMER)


def _loaded(path: Path, options: SentimentOptions) -> Inputs:
    splits = load_splits(path, **options.loading())
    if missing := [split for split in SPLITS if split not in splits]:
        raise DataError(f"{path}: has no {missing[0]}; call its splits train, valid and test, not {list(splits)}")
    wants_aligned = options.wants_aligned
    for split, data in splits.items():
        if wants_aligned not in (None, data.aligned):
            actual, wanted = ("aligned", "unaligned") if data.aligned else ("unaligned", "aligned")
            raise DataError(f"{path}: {split} is {actual}, not {wanted}; leave out --{wanted}")
        _check_labels(data, f"{path}: {split} has labels")
    name = path.name.encode("utf-8", "replace").decode()
    source: Mapping[str, str] = splits["train"].report["source"]
    provenance = f"Measured on {name} ({source['name']}, {source['layout']}), with {', '.join(splits['train'].sizes)}."
    return Inputs({k: _subset(data, options.subset) for k, data in splits.items()}, {}, name, provenance, source["sha256"])


def _subset(data: SequenceDataset, count: int | None) -> SequenceDataset:
    if count is None or count >= len(data):
        return data
    return data.subset(torch.arange(count, device="cpu") * len(data) // count)


def _check_labels(data: SequenceDataset, where: str) -> None:
    labels = data.labels
    if labels is None:
        raise DataError(f"{where.removesuffix(' has labels')} has no labels: this experiment predicts them")
    if labels.dim() != 1 or not labels.is_floating_point():
        kind = f"of {labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"{where} {kind}; this experiment predicts one sentiment, a floating-point number for each sample")
    if not -3.01 < float(labels.min()) <= float(labels.max()) < 3.01:
        raise DataError(f"{where} from {float(labels.min()):g} to {float(labels.max()):g}; sentiment lies in [-3, 3]")
