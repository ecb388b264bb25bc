"""Defines losses, and extracts predictions from model outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from topdown.datasets.errors import DataError
from topdown.datasets.labels import labelled

Loss = Literal["mae", "cross_entropy", "bce"] | Callable[[Any, Tensor], Tensor]


def mean_absolute_error(output: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean absolute error over labels that are not missing; (B, 1) fits labels (B,), (B, K) fits (B, K).

    Raises:
        DataError: if the shapes do not match.
    """
    return _over_labelled(nn.functional.l1_loss, _like_labels(output, labels), labels)


def binary_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Computes the binary cross-entropy of logits (B, K) for labels of 0 or 1 of shape (B, K), or (B, 1) for (B,).

    Missing labels do not count.

    Raises:
        DataError: if the shapes do not match.
    """
    loss = nn.functional.binary_cross_entropy_with_logits
    return _over_labelled(loss, _like_labels(output, labels), labels.to(output.dtype), labelled(labels))


def _over_labelled(
    loss: Callable[[Tensor, Tensor], Tensor], output: Tensor, labels: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Returns the mean loss over the labels that are not missing; 0 if all are."""
    valid = labelled(labels) if valid is None else valid
    if bool(valid.all()):
        return loss(output, labels)
    return loss(output[valid], labels[valid]) if bool(valid.any()) else output.sum() * 0.0


def _like_labels(output: Tensor, labels: Tensor) -> Tensor:
    if output.numel() != labels.numel():
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: make it with output_size="
            f"{labels[0].numel()}, or use loss='cross_entropy' for classes, or a function (output, labels) -> scalar"
        )
    return output.view_as(labels)


def cross_entropy(output: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Computes the cross-entropy of logits (B, C) for classes (B,) or (B, 1), over samples that have a class.

    With weights it is :math:`\frac1B \sum_i w_{y_i} \ell_i`.

    Args:
        output: Logits.
        labels: Classes; -100 where one is missing.
        weights: Weight of each class. (Default: 1)

    Raises:
        DataError: if the shapes do not match, or a class has no logit.
    """
    classes = labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
    if output.dim() != 2 or classes.dim() != 1:
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: expected (B, C) and (B,); "
            "several labels of 0 or 1 each are for loss='bce', and all else for a function (output, labels) -> scalar"
        )
    valid = labelled(classes)
    if not bool(valid.all()):
        output, classes = output[valid], classes[valid]
        if not len(classes):
            return output.sum() * 0.0
    try:
        if weights is None:
            return nn.functional.cross_entropy(output, classes)
        full = output.new_ones(output.shape[1])
        full[: len(weights)] = weights[: output.shape[1]].to(output)
        return (full[classes] * nn.functional.cross_entropy(output, classes, reduction="none")).mean()
    except IndexError:
        problem = f"there is a class {int(classes.max())} but the model returns logits for {output.shape[1]} classes"
        raise DataError(f"{problem}: make it with output_size={int(classes.max()) + 1} or more") from None


def class_weights(weight: Literal["balanced"] | Mapping[int, float], labels: Tensor, loss: Loss) -> Tensor:
    """Returns the weight of each class.

    Args:
        weight: {class: weight}, 1 for all others, or "balanced": N / (C N_c) for a class that N_c of N samples have.
        labels: Labels of the training samples.
        loss: Loss, which must be "cross_entropy".

    Raises:
        DataError: if the loss is not "cross_entropy", or a class or a weight is invalid.

    Example:
        >>> class_weights("balanced", torch.tensor([0, 0, 0, 1]), "cross_entropy")
        tensor([0.6667, 2.0000])
    """
    if loss != "cross_entropy":
        raise DataError(f"class_weight is for loss='cross_entropy', not for {loss!r}: leave it out")
    counts = labels[labelled(labels)].flatten().bincount()
    if isinstance(weight, str):
        if weight != "balanced":
            raise DataError(f"class_weight={weight!r}: give 'balanced', or a mapping from classes to weights")
        present = counts > 0
        return torch.where(present, counts.sum() / (present.sum() * counts.clamp(min=1)), 1.0)
    weights = torch.ones(max(len(counts), *(int(c) + 1 for c in weight if not isinstance(c, str)), 1))
    for c, value in weight.items():
        if isinstance(c, str):
            raise DataError(f"class_weight={{{c!r}: {value!r}}}: name a class by its number, as in report['class_names']")
        if not (int(c) == c >= 0 and 0 <= value < float("inf")):
            raise DataError(f"class_weight={{{c!r}: {value!r}}}: classes are 0, 1, 2 ..., and weights finite, at least 0")
        weights[int(c)] = float(value)
    return weights


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": mean_absolute_error,
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy,
}


def prediction_of(output: Any) -> Tensor:
    """Extracts the prediction from a model output: `logits` or the only tensor of a mapping, or the first item of a tuple.

    Raises:
        DataError: if the output has no prediction.

    Example:
        >>> prediction_of({"loss": None, "logits": torch.tensor([1.0])}), prediction_of((torch.tensor([2.0]), "more"))
        (tensor([1.]), tensor([2.]))
    """
    prediction = output
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        prediction = output.get("logits", tensors[0] if len(tensors) == 1 else None)
    elif isinstance(output, (tuple, list)) and output:
        prediction = output[0]
    if not isinstance(prediction, Tensor):
        has = f"a mapping with {list(output)}" if isinstance(output, Mapping) else f"of type {type(output).__name__}"
        raise DataError(f"no prediction in the output, which is {has}: return a tensor, or name it 'logits'")
    return prediction
