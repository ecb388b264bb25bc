"""Losses by name, and how to read the prediction from the output of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor, nn

from topdown.datasets.errors import DataError

Loss = Literal["mae", "cross_entropy", "bce"] | Callable[[Any, Tensor], Tensor]


def mean_absolute_error(output: Tensor, labels: Tensor) -> Tensor:
    """Computes the mean absolute error of predictions (B, 1) for labels (B,), or (B, K) for (B, K).

    Raises:
        DataError: if there are not as many of one as of the other.
    """
    return nn.functional.l1_loss(_like_labels(output, labels), labels)


def binary_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Computes the binary cross-entropy of logits (B, K) for labels of 0 or 1 of shape (B, K), or (B, 1) for (B,).

    Raises:
        DataError: if there are not as many of one as of the other.
    """
    return nn.functional.binary_cross_entropy_with_logits(_like_labels(output, labels), labels.to(output.dtype))


def _like_labels(output: Tensor, labels: Tensor) -> Tensor:
    if output.numel() != labels.numel():
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: make it with output_size="
            f"{labels[0].numel()}, or use loss='cross_entropy' for classes, or a function (output, labels) -> scalar"
        )
    return output.view_as(labels)


def cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Computes the cross-entropy of logits (B, C) for classes (B,) or (B, 1).

    Raises:
        DataError: if logits are not of this shape, or a class has none.
    """
    classes = labels.squeeze(1) if labels.dim() == 2 and labels.shape[1] == 1 else labels
    if output.dim() != 2 or classes.dim() != 1:
        raise DataError(
            f"the model returns {tuple(output.shape)} for labels of shape {tuple(labels.shape)}: expected (B, C) and (B,); "
            "several labels of 0 or 1 each are for loss='bce', and all else for a function (output, labels) -> scalar"
        )
    try:
        return nn.functional.cross_entropy(output, classes)
    except IndexError:
        found = f"there is a class {int(classes.max())} but the model returns logits for {output.shape[1]} classes"
        raise DataError(f"{found}: make it with output_size={int(classes.max()) + 1} or more") from None


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mae": mean_absolute_error,
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy,
}


def prediction_of(output: Any) -> Tensor:
    """Returns the prediction in the output of a model: `logits` or the only tensor of a mapping, or the first item of a tuple.

    Raises:
        DataError: if it is something else.

    Example:
        >>> prediction_of({"loss": None, "logits": torch.tensor([1.0])}), prediction_of((torch.tensor([2.0]), "more"))
        (tensor([1.]), tensor([2.]))
    """
    found = output
    if isinstance(output, Mapping):
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        found = output.get("logits", tensors[0] if len(tensors) == 1 else None)
    elif isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        has = f"a mapping with {list(output)}" if isinstance(output, Mapping) else f"type {type(output).__name__}"
        raise DataError(
            f"the model returns {has}, of which nobody can tell the prediction: return a tensor, or call it 'logits'"
        )
    return found
