"""A linear model on features averaged over time, the baseline of every comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset
from topdown.files import require
from topdown.training.tasks import Task

STRENGTHS = tuple(10.0**k for k in range(-5, 3))  # of regularization, per sample


def pooled_features(data: SequenceDataset) -> Tensor:
    """Returns mean and standard deviation over the steps of each sample, for all features of all modalities, (N, 2 D).

    A modality that a sample lacks is zero there.
    """
    rows = []
    for sample in data:
        pooled = []
        for name, x in sample.inputs.items():
            x = x.reshape(-1, data.sizes[name]).double()
            pooled += [x.mean(0), x.std(0, correction=0)] if len(x) else [x.new_zeros(2 * data.sizes[name])]
        rows.append(torch.cat(pooled))
    return torch.stack(rows)


def fit_linear(
    task: Task, train: SequenceDataset, valid: SequenceDataset, *others: SequenceDataset
) -> tuple[list[Tensor], int]:
    """Fits ridge regression, or logistic regression with the same penalty, whose strength is chosen on validation data.

    Args:
        task: Task.
        train: Samples to learn from.
        valid: Samples to choose by.
        others: Samples to predict.

    Returns:
        Outputs (N, output_size) for each of the others, after those for `valid`, and the number of parameters.
    """
    features = [pooled_features(data) for data in (train, valid, *others)]
    mean, deviation = features[0].mean(0), features[0].std(0, correction=0)
    used = deviation > 1e-9
    inputs = [torch.nn.functional.pad((x - mean)[:, used] / deviation[used], (0, 1), value=1.0) for x in features]
    labels = torch.as_tensor(train.labels).double().reshape(len(train), -1)
    fits = _ridge(inputs[0], labels) if task.name == "regression" else _logistic(inputs[0], labels, task)
    best: tuple[float, Tensor] | None = None
    for weight in fits:
        score = task.metrics((inputs[1] @ weight).float(), valid.labels)[task.metric]
        score = score if task.lower_is_better else -score
        if best is None or score < best[0]:
            best = score, weight
    assert best is not None
    return [(x @ best[1]).float() for x in inputs[1:]], best[1].numel()


def _ridge(x: Tensor, y: Tensor) -> list[Tensor]:
    """Returns weights for each strength; the intercept, the last row, is not penalized."""
    penalty = torch.ones(x.shape[1], dtype=x.dtype)
    penalty[-1] = 0.0
    gram = x.T @ x
    return [torch.linalg.lstsq(gram + torch.diag(s * len(x) * penalty), x.T @ y).solution for s in STRENGTHS]


def _logistic(x: Tensor, y: Tensor, task: Task) -> list[Tensor]:
    optimize: Any = require("scipy.optimize", "experiments")
    classes = task.name == "classification"
    target = torch.nn.functional.one_hot(y.long().flatten(), task.output_size).double() if classes else y
    weights, start = [], np.zeros(x.shape[1] * task.output_size)
    for strength in reversed(STRENGTHS):

        def loss(flat: np.ndarray[Any, Any], strength: float = strength) -> tuple[float, np.ndarray[Any, Any]]:
            weight = torch.from_numpy(flat).view(x.shape[1], -1)
            logits = x @ weight
            if classes:
                value, share = -(target * logits.log_softmax(1)).sum(), logits.softmax(1)
            else:
                value = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
                share = logits.sigmoid()
            free = weight.clone()
            free[-1] = 0.0
            gradient = x.T @ (share - target) / len(x) + strength * free
            return float(value / len(x) + 0.5 * strength * free.square().sum()), gradient.flatten().numpy()

        start = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
        weights.append(torch.from_numpy(start.copy()).view(x.shape[1], -1))
    return weights
