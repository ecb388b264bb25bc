"""Infers the task from the labels: regression, classification or multilabel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.labels import label_range, labelled
from topdown.datasets.precision import in_float
from topdown.training.losses import Loss
from topdown.training.metrics import (
    accuracy,
    classification_metrics,
    mean_absolute_error,
    multilabel_metrics,
    regression_metrics,
)

TaskName = Literal["regression", "classification", "multilabel"]
MANY = 100  # classes above which the user must name the task
LOSS_OF: dict[TaskName, Loss] = {"regression": "mae", "classification": "cross_entropy", "multilabel": "bce"}


class Task(NamedTuple):
    """Describes the prediction task.

    Args:
        name: "regression", "classification" or "multilabel".
        output_size: Numbers that the model returns for a sample.
    """

    name: TaskName
    output_size: int

    @property
    def loss(self) -> Loss:
        """Loss to train with."""
        return LOSS_OF[self.name]

    @property
    def metric(self) -> str:
        """Main metric."""
        return {"regression": "mae", "classification": "acc", "multilabel": "f1"}[self.name]

    @property
    def lower_is_better(self) -> bool:
        """Whether lower values of the main metric are better."""
        return self.name == "regression"

    def metrics(self, outputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Computes metrics of outputs (N, output_size) against labels."""
        if self.name == "classification":
            return classification_metrics(outputs, labels.flatten())
        if self.name == "multilabel":
            return multilabel_metrics(outputs.view_as(labels), labels)
        return regression_metrics(outputs.view_as(labels), labels)

    def score(self, outputs: Tensor, labels: Tensor) -> float:
        """Computes only the main metric (fast, for bootstrapping)."""
        if self.name == "classification":
            return accuracy(outputs, labels.flatten())
        if self.name == "multilabel":
            return multilabel_metrics(outputs.view_as(labels), labels)["f1"]
        return mean_absolute_error(outputs.view_as(labels), labels)

    def columns(self, names: Sequence[str] = ()) -> list[str]:
        """Returns the names of the columns of predictions; `names` are those of several labels, by default their numbers."""
        if self.name == "classification":
            return ["prediction", "probability"]
        if self.output_size == 1:
            return ["prediction"]
        return [f"prediction_{name}" for name in names or range(self.output_size)]

    def check_labels(self, labels: Tensor) -> None:
        """Checks that labels fit the task.

        Raises:
            DataError: if they do not.
        """
        columns = 1 if labels.dim() == 1 else labels.shape[1]
        whole, (least, most) = not labels.is_floating_point(), label_range(labels)
        fits = columns == (1 if self.name == "classification" else self.output_size)
        if self.name == "classification":
            fits = fits and whole and 0 <= least <= most < self.output_size
        elif self.name == "multilabel":
            fits = fits and 0 <= least <= most <= 1
        if not fits:
            description = f"{'whole numbers' if whole else 'numbers'} from {least:g} to {most:g}, {columns} per sample"
            raise DataError(f"labels are {description}, but the model is for {self.name} with {self.output_size} outputs")

    def rows(self, outputs: Tensor) -> list[list[float]]:
        """Returns the predictions of each sample: a class and its probability, 0 or 1 for each label, or numbers."""
        if self.name == "classification":
            best = outputs.softmax(1).max(1)
            return [[int(i), _digits(p)] for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]
        if self.name == "multilabel":
            return (outputs > 0).int().tolist()
        return [[value if outputs.dtype == torch.float64 else _digits(value) for value in row] for row in outputs.tolist()]

    def probabilities(self, outputs: Tensor) -> list[list[float]]:
        """Returns the probability of every class, or of every one of several labels, for each sample; not for regression."""
        values = outputs.softmax(1) if self.name == "classification" else outputs.sigmoid()
        return [[_digits(value) for value in row] for row in values.tolist()]


def _digits(value: float) -> float:
    """Rounds a float32 to its significant digits."""
    return float(f"{value:.9g}")


def task_of(splits: Mapping[str, SequenceDataset], requested: TaskName | None = None) -> Task:
    """Infers the task from the labels: integers are classes, columns of 0 and 1 are several labels, all others are numbers.

    Args:
        splits: Splits, of which those with labels are used.
        requested: Name of the task, which overrides what the labels imply. (Default: none)

    Raises:
        DataError: if there are no labels, or they do not fit the requested task.

    Example:
        >>> task_of({"train": SequenceDataset.from_arrays({"a": [[[0.0]], [[1.0]]]}, [0, 2])})
        Task(name='classification', output_size=3)
    """
    labels = {split: data.labels for split, data in splits.items() if data.labels is not None}
    if not labels:
        raise DataError("there are no labels: give SequenceDataset.from_arrays labels=, or the file 'labels'")
    some = next(iter(labels.values()))
    whole = all(not y.is_floating_point() for y in labels.values())
    zeros_and_ones = all(bool(((y == 0) | (y == 1) | ~labelled(y)).all()) for y in labels.values())
    columns = 1 if some.dim() == 1 else some.shape[1]
    name: TaskName = "regression"
    if whole:
        name = "classification" if columns == 1 else "multilabel"
    name = requested or name
    words = shared_classes({split: splits[split] for split in labels})
    if name == "regression" and words:
        raise DataError(
            f"labels are words, such as {words[0]!r}, which are classes and no numbers: leave out --task regression"
        )
    if name == "multilabel" and not zeros_and_ones:
        remedy = "say --task regression, give one class per sample, or name the column of the label with --label"
        raise DataError(f"labels for yes or no must be 0 or 1 each; {remedy}")
    if name == "classification" and not (whole and columns == 1):
        kind = f"{some.dtype} in {columns} column{'s' if columns > 1 else ''}"
        remedy = "; save them as integers" if columns == 1 else ""
        raise DataError(f"labels are {kind}, but classes must be whole numbers, one per sample: 0, 1, 2 ...{remedy}")
    if name == "classification":
        ranges = [label_range(y) for y in labels.values()]
        least, most = int(min(low for low, _ in ranges)), int(max(high for _, high in ranges))
        if least < 0:
            raise DataError(f"a class is {least}: number classes from 0")
        count = sum(len(y) for y in labels.values())
        if most >= max(count, MANY) and requested is None:
            remedy = "say --task regression if they are numbers, or classification if they are not"
            raise DataError(f"labels are whole numbers up to {most}, more than the {count} samples: {remedy}")
        return Task(name, max(2, most + 1))
    return Task(name, columns)


def shared_classes(splits: Mapping[str, SequenceDataset]) -> list[str] | None:
    """Returns the names of the classes of splits with labels; None if they have no names.

    Raises:
        DataError: if splits have other classes, or some have names and others numbers.
    """
    named = {split: data.report.get("class_names") for split, data in splits.items()}
    words = next((names for names in named.values() if names), None)
    if different := [split for split, names in named.items() if words and names != words]:
        said = f"classes {named[different[0]]}" if named[different[0]] else "numbers"
        remedy = "give SequenceDataset.from_arrays the same classes= for all"
        raise DataError(f"labels of {different[0]!r} are {said}, but others are the classes {words}: {remedy}")
    return words


def with_label_type(data: SequenceDataset, task: Task) -> SequenceDataset:
    """Converts labels to the type that the loss of the task takes."""
    if task.name != "regression" or data.labels is None or data.labels.is_floating_point():
        return data
    labels = np.where(labelled(data.labels).numpy(), data.labels.numpy().astype(np.float64), np.nan)
    return data.relabeled(torch.from_numpy(in_float(labels)))
