"""Validates splits and records settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from topdown.comparison.variants import Metric, Plan, Row
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.labels import labelled
from topdown.training.fingerprints import fingerprint, named
from topdown.training.tasks import Task
from topdown.training.versions import versions


def metric_of(task: Task) -> Metric:
    """Returns the main metric of a task."""
    return Metric(task.metric, functools.partial(_score, task=task), task.lower_is_better)


def _score(outputs: torch.Tensor, labels: torch.Tensor, *, task: Task) -> float:
    return task.score(outputs, labels)


def check_splits(splits: Mapping[str, SequenceDataset]) -> None:
    """Checks that there are labelled splits for training, validation and test, and that they are alike.

    Raises:
        DataError: if not.
    """
    for name in ("train", "valid", "test"):
        if name not in splits or splits[name].labels is None:
            problem = f"{name!r} has no labels" if name in splits else f"there is no split {name!r} among {list(splits)}"
            raise DataError(f"{problem}: a comparison trains on train, chooses on valid and reports test")
        if name == "train" and len(empty := (~labelled(splits[name].labels).reshape(len(splits[name]), -1).any(0)).nonzero()):
            raise DataError(f"label {int(empty[0])} is missing in all training samples: leave it out")
        ours, theirs = _kind_of(splits[name]), _kind_of(splits["train"])
        if ours != theirs:
            raise DataError(f"{name!r} has {ours}, but 'train' has {theirs}: splits of one comparison must be alike")


def _kind_of(data: SequenceDataset) -> str:
    """Describes the features and labels of a data set."""
    assert data.labels is not None
    kind = "real" if data.labels.is_floating_point() else "whole"
    shape = ", ".join(["N", *map(str, data.labels.shape[1:])])
    return f"features {dict(data.sizes)} and labels of shape ({shape}), {kind} numbers"


def configuration_of(plan: Plan, rows: Sequence[Row], about: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns the settings of a comparison in the types of JSON. Runs with equal settings can be resumed."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, nn.Module) or callable(value):
            return named(value)
        return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

    user_metric = plan.task is None or named(plan.metric.function) != named(metric_of(plan.task).function)
    return {
        "data": {name: {"samples": len(data), "fingerprint": fingerprint(data)} for name, data in plan.splits.items()},
        "sizes": plan.splits["train"].sizes,
        "build": named(plan.build),
        "task": None if plan.task is None else list(plan.task),
        "loss": plain(plan.loss),
        "widen": plain(plan.widen),
        "metric": plan.metric.name,
        "own_metric": user_metric,
        **({"metric_function": [named(plan.metric.function), plan.metric.lower_is_better]} if user_metric else {}),
        "training": plain(plan.training),
        "robust": plan.robust,
        "latches": {row.name: plain(row.latch) for row in rows if row.latch is not None},
        "about": plain(about or {}),
        "versions": versions(),
    }
