"""Defines training and data options as dataclasses. Python, the command line, `--config` and help texts share them.

:mod:`topdown.cli.parser` makes flags of the fields; the help text of each is its entry under "Args" in a docstring.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, TypeVar

from topdown.datasets.errors import DataError

T = TypeVar("T")

LARGEST = 10_000_000
FEW_UPDATES = 100  # updates of the weights below which a training is too short
FEWEST_UPDATES = 200  # updates without a lower validation loss before a training stops


class Value(NamedTuple):
    """Describes how the command line shows and reads an option.

    Args:
        metavar: Name of the value in help texts.
        read: Function from text to value.
        flag: Flag of the option. (Default: its name)
        positional: Whether the option has no flag.
    """

    metavar: str
    read: Callable[[str], Any] = str
    flag: str | None = None
    positional: bool = False


def read_number(text: str, least: int = 0) -> int:
    """Reads a whole number of at least `least`."""
    if not text.isdecimal() or len(text) > len(str(LARGEST)) or not least <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least} and at most {LARGEST:,}")
    return int(text)


def read_rate(text: str) -> float:
    """Reads a number above 0 and at most 1."""
    if not 0.0 < (value := _float(text)) <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def read_share(text: str) -> float:
    """Reads a number of at least 0 and below 1."""
    if not 0.0 <= (value := _float(text)) < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and below 1")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def read_pair(text: str, form: str = "NAME=FILE") -> tuple[str, str]:
    """Reads NAME=FILE, or NAME=PATTERN."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
    return name, value


def by_name(pairs: Sequence[tuple[str, T]] | None, option: str) -> dict[str, T] | None:
    """Converts pairs to a mapping.

    Raises:
        DataError: if a name occurs twice.
    """
    names = [name for name, _ in pairs or ()]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise DataError(f"--{option} names {twice[0]!r} twice; give each name once")
    return dict(pairs) if pairs else None


Number = Annotated[int, Value("N", read_number)]
Positive = Annotated[int, Value("N", lambda text: read_number(text, 1))]
Rate = Annotated[float, Value("X", read_rate)]
Share = Annotated[float, Value("X", read_share)]
File = Annotated[Path, Value("FILE", Path)]
Folder = Annotated[Path, Value("DIR", Path)]
# Functions must be named here: annotations of fields are evaluated where this module's names are not defined.
Pattern = Annotated[tuple[str, str], Value("NAME=PATTERN", functools.partial(read_pair, form="NAME=PATTERN"))]
Names = list[Annotated[str, Value("NAME")]]


@dataclasses.dataclass(kw_only=True)
class DataOptions:
    """Data options.

    Args:
        modalities: modalities to use; by default text, audio and visual of MOSEI files, all of other files
        folds: file that lists the videos of each split, which .csd and HDF5 data need: JSON, or the standard folds of the
            CMU Multimodal SDK
        embeddings: word vectors, such as GloVe, for files that hold words
        stream: .csd file or HDF5 group to read a modality from, if there are several candidates
        label: column of the label in tables; by default all but id and split
        columns: columns of a modality, where one table holds all modalities, as in a=a_* or b=height,*width
    """

    modalities: Names | None = None
    folds: File | None = None
    embeddings: File | None = None
    stream: list[Annotated[tuple[str, str], Value("NAME=FILE", read_pair)]] | None = None
    label: Annotated[str, Value("COLUMN")] | None = None
    columns: list[Pattern] | None = None

    def loading(self) -> dict[str, Any]:
        """Returns the arguments of :func:`topdown.datasets.load_splits` beside the path."""
        chosen = {name: getattr(self, name) for name in ("modalities", "folds", "embeddings", "label")}
        return chosen | {"streams": by_name(self.stream, "stream"), "columns": by_name(self.columns, "columns")}


@dataclasses.dataclass(kw_only=True)
class SplitOptions(DataOptions):
    """Random split.

    Args:
        split: shares of train, valid and test, as in 0.7 0.15 0.15, for tables without a column split; or of train and valid,
            as in 0.8 0.2, both drawn from train, for tables that have train and test alone
        split_seed: random seed of that split
    """

    split: list[Annotated[float, Value("X", float)]] | None = None
    split_seed: Number = 0

    def loading(self) -> dict[str, Any]:
        """Returns the arguments of :func:`topdown.datasets.load_splits` beside the path."""
        return {**super().loading(), "split": self.split, "seed": self.split_seed}


@dataclasses.dataclass(kw_only=True)
class FitOptions:
    """Training options.

    Args:
        epochs: maximum number of epochs
        batch_size: batch size; by default 32, down to 4 for fewer than 512 training samples
        learning_rate: initial learning rate of Adam
        patience: stop after N epochs without a lower validation loss; by default 10, or as many as make 200 updates
        out: directory for the results; without it nothing is kept
        device: such as cpu or cuda; auto: a GPU if there is one
    """

    epochs: Positive = 100
    batch_size: Positive | None = None
    learning_rate: Rate = 5e-4
    patience: Positive | None = None
    out: Folder | None = None
    device: str = "auto"

    def batches(self, samples: int, earlier: Mapping[str, Any] = MappingProxyType({})) -> tuple[int, int]:
        """Returns batch size and patience; by default those of an earlier run, or by the number of samples.

        Example:
            >>> FitOptions().batches(28), FitOptions().batches(16_000), FitOptions(batch_size=32).batches(28)
            ((4, 29), (32, 10), (32, 200))
        """
        size = self.batch_size or earlier.get("batch_size") or min(32, max(4, samples // 16))
        updates = math.ceil(samples / size)
        return size, self.patience or earlier.get("patience") or max(10, math.ceil(FEWEST_UPDATES / updates))


@dataclasses.dataclass(kw_only=True)
class TrainingOptions(FitOptions):
    """More training options.

    Args:
        workers: processes that load batches
        resume: continue the training in --out, or begin it if there is none; --epochs may be larger than before
        tensorboard: write losses for TensorBoard to this directory, too (extra tensorboard)
    """

    workers: Number = 0
    resume: bool = False
    tensorboard: Folder | None = None
