"""Parses `--corrupt`, and applies it to data."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Annotated, NamedTuple

from topdown.datasets.corruption import Kind, check_severity
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.training.options import Value
from topdown.training.protocol import Augment


class Corruption(NamedTuple):
    """A corruption; without names it applies to all modalities."""

    kind: Kind
    severity: float
    names: tuple[str, ...]

    def __str__(self) -> str:
        return ":".join([self.kind, repr(self.severity), *([",".join(self.names)] if self.names else [])])


def parse_corruption(text: str) -> Corruption:
    """Reads KIND:SEVERITY[:MODALITY,...]."""
    kind, _, rest = text.partition(":")
    severity, _, names = rest.partition(":")
    try:
        check_severity(kind, float(severity), 1)  # type: ignore[arg-type]
    except ValueError as error:
        said = str(error) if isinstance(error, DataError) else "is not KIND:SEVERITY, or KIND:SEVERITY:MODALITY,MODALITY"
        raise argparse.ArgumentTypeError(f"{text!r}: {said}") from None
    return Corruption(kind, float(severity), tuple(names.split(",")) if names else ())  # type: ignore[arg-type]


Corruptions = list[Annotated[Corruption, Value("KIND:SEVERITY[:MODALITY,...]", parse_corruption)]]


def augmentation(corrupt: Sequence[Corruption] | None, seed: int) -> Augment | None:
    """Returns a function that corrupts the training data differently in each epoch, or None."""
    if not corrupt:
        return None

    def augment(data: SequenceDataset, epoch: int) -> SequenceDataset:
        return corrupted(data, corrupt, (seed * 1_000_003 + epoch) * 101)

    return augment


def corrupted(data: SequenceDataset, corrupt: Sequence[Corruption], seed: int) -> SequenceDataset:
    """Returns data with corruptions, one after the other."""
    for number, corruption in enumerate(corrupt):
        data = data.corrupt(corruption.kind, corruption.severity, modalities=corruption.names or None, seed=seed + number)
    return data
