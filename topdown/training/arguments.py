"""Checks the arguments of a training before its first step."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.labels import label_range, labelled
from topdown.latch import TopDownLatch
from topdown.training.losses import LOSSES, Loss
from topdown.training.tasks import shared_classes

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda x: 0.0 <= x < math.inf, "0 or more"),
    "feedback_learning_rate": (lambda x: 0.0 <= x < math.inf, "0 or more"),
    "decay": (lambda x: 0.0 < x < 1.0, "above 0 and below 1"),
    "gradient_clip": (lambda x: x > 0.0, "above 0"),
}


def check_numbers(**values: Any) -> None:
    """Checks options of :func:`fit` that are real numbers; None stands for an option that is not set.

    Raises:
        TypeError: if one is not a number.
        ValueError: if one is out of its range.

    Example:
        >>> check_numbers(decay=0.5, gradient_clip=None)
    """
    for name, value in values.items():
        accepts, span = RANGES[name]
        if value is not None and (not isinstance(value, numbers.Real) or isinstance(value, bool)):
            raise TypeError(f"{name}={value!r} must be a number, {span}")
        if value is not None and not accepts(float(value)):
            raise ValueError(f"{name}={value} must be {span}")


def check_model(
    model: nn.Module, train: SequenceDataset, optimizer: object, gradient_clip: float | None, of_feedback: float | None
) -> None:
    """Checks that a model fits the data, the optimizer and the options of its feedback.

    Raises:
        DataError: if it does not.
    """
    if of_feedback is not None and optimizer is not None:
        raise DataError("feedback_learning_rate is for Adam: give an optimizer of your own the groups of parameters it needs")
    if of_feedback is not None and not any(isinstance(module, TopDownLatch) for module in model.modules()):
        raise DataError(f"feedback_learning_rate={of_feedback}, but {type(model).__name__} holds no latch: leave it out")
    sizes = getattr(model, "input_sizes", None)
    if isinstance(sizes, Mapping) and dict(sizes) != train.sizes:
        raise DataError(
            f"the model takes features {dict(sizes)}, but the data has {train.sizes}: make the model from data.sizes"
        )
    if sparse := [name for name, module in model.named_modules() if getattr(module, "sparse", False) is True]:
        layer = f"the layer {sparse[0]!r} has sparse gradients"
        if optimizer is None:
            raise DataError(f"{layer}, which Adam does not take: pass optimizer=, such as SGD, or make it with sparse=False")
        if gradient_clip is not None:
            raise DataError(f"{layer}, which gradient_clip= does not take: leave it out, or make the layer with sparse=False")


def check_samples(train: SequenceDataset, valid: SequenceDataset, loss: Loss) -> None:
    """Checks that the labels fit the loss, and that the validation data has the format of the training data.

    Raises:
        DataError: if they do not.
    """
    if not callable(loss) and loss not in LOSSES:
        raise DataError(f"loss={loss!r} is not known: use one of {list(LOSSES)}, or a function (output, labels) -> scalar")
    if train.sizes != valid.sizes:
        raise DataError(f"the validation data has features {valid.sizes}, but the training data has {train.sizes}")
    for data, which in ((train, "training"), (valid, "validation")):
        if data.labels is None:
            raise DataError(f"the {which} data has no labels: give SequenceDataset.from_arrays labels=, or the file 'labels'")
        if not labelled(data.labels).any():
            raise DataError(f"all labels of the {which} data are missing: give some")
        whole, (least, most) = not data.labels.is_floating_point(), label_range(data.labels)
        if loss == "bce" and not 0 <= least <= most <= 1:
            raise DataError(f"labels lie in {least:g}..{most:g}, but loss='bce' takes labels of 0 or 1")
        if loss in ("mae", "cross_entropy") and whole != (loss == "cross_entropy"):
            remedy = (
                "give them as floating point, or use loss='cross_entropy' for classes, 'bce' for labels of 0 or 1"
                if whole
                else "give classes as integers 0, 1, 2 ..."
            )
            raise DataError(f"labels are {data.labels.dtype}, which is not for loss={loss!r}: {remedy}")
        if loss == "cross_entropy" and least < 0:
            raise DataError(f"a class is {int(least)}: number classes from 0")
    shared_classes({"train": train, "valid": valid})


def device_named(device: str | torch.device) -> torch.device:
    """Returns a device by its name.

    Raises:
        ValueError: if the kind of device is unknown.

    Example:
        >>> device_named("cpu")
        device(type='cpu')
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is not known ({str(error).splitlines()[0][:60]}...): use 'cpu' or 'cuda'"
        ) from None
