"""Computes metrics of regression, classification and sentiment."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from topdown.datasets.labels import MISSING

Array = np.ndarray[Any, Any]


def sentiment_metrics(predictions: Any, labels: Any, *, f1_swapped: bool = False) -> dict[str, float]:
    r"""Computes the metrics of CMU-MOSI and CMU-MOSEI for predictions p and labels y in [-3, 3].

    ============  =====================================================================================================
    `mae`         mean :math:`|p - y|`, unclipped
    `corr`        Pearson's correlation; 0 when the predictions or the labels are constant
    `acc7`        share of samples where p and y, clipped to [-3, 3] and rounded (halves to even), agree; "Acc@7"
    `acc5`        the same with [-2, 2]
    `acc2_non0`   y != 0 only, classes p > 0 and y > 0; the paper's "Acc@2", as in MulT
    `acc2_has0`   all samples, classes p >= 0 and y >= 0 (MMSA's Has0)
    `acc2_neg0`   all samples, classes p > 0 and y > 0
    `f1_...`      F1 of the two classes, each weighted by its share of the labels
    `n`           number of samples
    ============  =====================================================================================================

    References:
        georgepar/mmlatch, mmlatch/mosei_metrics.py; yaohungt/Multimodal-Transformer, src/eval_metrics.py;
        thuiar/MMSA, utils/metricsTop.py

    Args:
        predictions: Predictions of shape (N,) or (N, 1).
        labels: Labels of shape (N,) or (N, 1).
        f1_swapped: Weight each class by its share of the PREDICTIONS, as the public codes of MMLatch and of MulT do by
            swapping the arguments of F1. (Default: False)

    Returns:
        Metrics by name; `acc2_non0` and `f1_non0` are nan when all labels are zero.

    Raises:
        ValueError: if there is no sample, the shapes differ, or a value is not finite.

    Example:
        >>> sentiment_metrics([0.5, -2.0, 1.5], [1.0, -2.4, 0.0])["acc2_non0"]
        1.0
    """
    p, y = _flat(predictions, "predictions"), _flat(labels, "labels")
    if p.shape != y.shape:
        raise ValueError(f"there are {len(p)} predictions but {len(y)} labels")
    if len(p) == 0:
        raise ValueError("there are no predictions: metrics of nothing are not defined")
    non0 = y != 0
    metrics = {
        "mae": float(np.abs(p - y).mean()),
        "corr": _correlation(p, y),
        "acc7": _rounded_accuracy(p, y, 3),
        "acc5": _rounded_accuracy(p, y, 2),
    }
    for name, a, b in (("non0", p[non0] > 0, y[non0] > 0), ("has0", p >= 0, y >= 0), ("neg0", p > 0, y > 0)):
        metrics[f"acc2_{name}"] = float((a == b).mean()) if len(a) else float("nan")
        metrics[f"f1_{name}"] = weighted_f1(b, a) if f1_swapped else weighted_f1(a, b)
    return {**metrics, "n": len(p)}


def classification_metrics(predictions: Any, labels: Any) -> dict[str, float]:
    """Computes accuracy (`acc`), F1 weighted by the share of each class in the labels (`f1`), and `n`.

    Args:
        predictions: Classes, of shape (N,), or logits, of shape (N, C).
        labels: Classes, of shape (N,); samples whose class is missing, -100, are left out.

    Returns:
        Metrics by name.

    Raises:
        ValueError: if there is no sample, the shapes differ, or a prediction is not finite.

    Example:
        >>> classification_metrics([[0.1, 2.0], [0.3, 0.2]], [1, 1])["acc"]
        0.5
    """
    p, y = _classes(predictions, labels)
    return {"acc": float((p == y).mean()), "f1": weighted_f1(p, y), "n": len(y)}


def accuracy(predictions: Any, labels: Any) -> float:
    """Computes the accuracy alone: see :func:`classification_metrics`."""
    p, y = _classes(predictions, labels)
    return float((p == y).mean())


def _classes(predictions: Any, labels: Any) -> tuple[Array, Array]:
    p, y = _array(predictions), _array(labels)
    if len(p) == len(y) and y.ndim == 1:
        p, y = p[y != MISSING], y[y != MISSING]
    if not np.isfinite(np.asarray(p, np.float64)).all():
        raise ValueError("a prediction is not finite")
    if p.ndim == 2 and p.shape[1] < 2:
        raise ValueError(f"predictions have shape {p.shape}: logits need two classes or more, classes have shape (N,)")
    p = p.argmax(-1) if p.ndim == 2 else p
    if p.shape != y.shape or len(y) == 0:
        raise ValueError(f"there are {p.shape} predictions and {y.shape} labels: they must be as many, at least one")
    return p, y


def regression_metrics(predictions: Any, labels: Any) -> dict[str, float]:
    """Computes `mae`, `rmse`, `corr` (Pearson's; 0 when either is constant), `r2` (0 for the mean of the labels) and `n`.

    Args:
        predictions: Predictions of shape (N,), or (N, K) for K numbers per sample, over which metrics are averaged.
        labels: Labels of the same shape; missing labels, nan, are left out.

    Returns:
        Metrics by name; `r2` is nan where all labels of an output are the same.

    Raises:
        ValueError: if there is no sample, the shapes differ, or a prediction is not finite.

    Example:
        >>> {name: round(value, 3) for name, value in regression_metrics([1.0, 2.0, 4.0], [1.0, 3.0, 5.0]).items()}
        {'mae': 0.667, 'rmse': 0.816, 'corr': 0.982, 'r2': 0.75, 'n': 3}
    """
    p, y = _numbers(predictions, labels)
    valid = ~np.isnan(y)
    outputs = [(p[use, i], y[use, i]) for i, use in enumerate(valid.T) if use.any()]
    squares = np.array([((a - b) ** 2).mean() for a, b in outputs])
    spread = np.array([b.var() for _, b in outputs])
    return {
        "mae": float(np.mean([np.abs(a - b).mean() for a, b in outputs])),
        "rmse": float(np.sqrt(squares).mean()),
        "corr": float(np.mean([_correlation(a, b) for a, b in outputs])),
        "r2": float((1 - squares / spread).mean()) if spread.all() else float("nan"),
        "n": int(valid.any(1).sum()),
    }


def mean_absolute_error(predictions: Any, labels: Any) -> float:
    """Computes the mean absolute error alone: see :func:`regression_metrics`."""
    p, y = _numbers(predictions, labels)
    errors = np.abs(p - y)
    if not (missing := np.isnan(errors)).any():
        return float(errors.mean())
    return float(np.mean([column[~gone].mean() for column, gone in zip(errors.T, missing.T, strict=True) if not gone.all()]))


def _numbers(predictions: Any, labels: Any) -> tuple[Array, Array]:
    p, y = (_array(values).astype(np.float64) for values in (predictions, labels))
    if p.shape != y.shape or len(y) == 0 or p.ndim not in (1, 2):
        raise ValueError(f"there are {p.shape} predictions and {y.shape} labels: they must be as many, at least one")
    if not np.isfinite(p).all():
        raise ValueError("a prediction is not finite")
    if np.isnan(y).all():
        raise ValueError("all labels are missing")
    return p.reshape(len(p), -1), y.reshape(len(y), -1)


def multilabel_metrics(logits: Any, labels: Any) -> dict[str, float]:
    """Computes `acc`, `f1` and `n` for K labels of 0 or 1 per sample.

    `acc` is the share of correct predictions. `f1` is F1 of the ones, averaged over labels; it is 0 for a label that is never
    one and never predicted.

    Args:
        logits: Logits of shape (N, K), or (N,); a label is predicted where they are above 0.
        labels: Labels of the same shape; missing labels, nan or -100, are left out.

    Raises:
        ValueError: if there is no sample, or the shapes differ.

    Example:
        >>> multilabel_metrics([[1.0, -1.0], [2.0, 3.0]], [[1, 0], [0, 1]])["acc"]
        0.75
    """
    p, targets = _array(logits) > 0, _array(labels)
    if p.shape != targets.shape or len(targets) == 0:
        raise ValueError(f"there are {p.shape} predictions and {targets.shape} labels: they must be as many, at least one")
    valid = ~(np.isnan(targets) | (targets == MISSING)).reshape(len(p), -1)
    if not valid.any():
        raise ValueError("all labels are missing")
    p, y = p.reshape(len(p), -1) & valid, (targets.reshape(len(p), -1) > 0.5) & valid
    hits, predicted, positives = (p & y).sum(0), p.sum(0), y.sum(0)
    f1 = float((2 * hits / np.maximum(predicted + positives, 1)).mean())
    return {"acc": float((p == y)[valid].mean()), "f1": f1, "n": int(valid.any(1).sum())}


def weighted_f1(predictions: Array, labels: Array) -> float:
    """Computes F1 of each class, weighted by its share of the labels; nan for no samples.

    Example:
        >>> weighted_f1(np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])).__round__(6)
        0.766667
    """
    if len(labels) == 0:
        return float("nan")
    total = 0.0
    for c in np.unique(labels):
        is_p, is_y = predictions == c, labels == c
        total += is_y.sum() * 2 * (is_p & is_y).sum() / (is_p.sum() + is_y.sum())
    return float(total / len(labels))


def _rounded_accuracy(p: Array, y: Array, limit: int) -> float:
    return float((np.round(p.clip(-limit, limit)) == np.round(y.clip(-limit, limit))).mean())


def _correlation(p: Array, y: Array) -> float:
    if np.ptp(p) == 0 or np.ptp(y) == 0:
        return 0.0
    a, b = p - p.mean(), y - y.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # avoids underflow and overflow of squares
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def _array(values: Any) -> Array:
    return values.detach().cpu().to(torch.float64).numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _flat(values: Any, name: str) -> Array:
    array = _array(values).astype(np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape (N,) or (N, 1), got {array.shape}")
    if stray := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{stray} of {len(array)} {name} are not finite")
    return array
