"""Fits a linear baseline on pooled features with scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset
from topdown.datasets.labels import labelled
from topdown.files import require
from topdown.training.tasks import Task

Array = np.ndarray[Any, Any]
STRENGTHS = tuple(10.0**k for k in range(-5, 3))  # of regularization, per sample
LOWEST = 1e-30  # probability of a class that the training samples do not have


def pooled_features(data: SequenceDataset) -> Tensor:
    """Returns mean and standard deviation over the steps of each sample, for all features of all modalities, (N, 2 D).

    A modality that is absent from a sample is zero.
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
    """Fits ridge regression, or logistic regression, on standardized features; its penalty is chosen on validation data.

    Args:
        task: Task.
        train: Samples to learn from.
        valid: Samples to choose by.
        others: Samples to predict.

    Returns:
        Outputs (N, output_size) for each of the others, after those for `valid`, and the number of parameters.

    Raises:
        ImportError: without the extra `experiments`.
    """
    features = [pooled_features(data).numpy() for data in (train, valid, *others)]
    scaler = require("sklearn.preprocessing", "experiments").StandardScaler().fit(features[0])
    x, *inputs = (scaler.transform(values) for values in features)
    y = torch.as_tensor(train.labels).numpy().reshape(len(train), -1)
    dtype = torch.float64 if train.labels.dtype == torch.float64 else torch.float32
    best: tuple[float, list[Tensor]] | None = None
    for strength in STRENGTHS:
        predict = _fit(task, x, y, strength * len(x))
        outputs = [torch.from_numpy(predict(values)).to(dtype) for values in inputs]
        score = task.score(outputs[0], torch.as_tensor(valid.labels))
        score = score if task.lower_is_better else -score
        if best is None or score < best[0]:
            best = score, outputs
    assert best is not None
    return best[1], (x.shape[1] + 1) * task.output_size


def _fit(task: Task, x: Array, y: Array, penalty: float) -> Callable[[Array], Array]:
    """Fits one model, and returns a function from features (N, D) to outputs (N, output_size)."""
    present = labelled(torch.from_numpy(y)).numpy()
    if y.shape[1] == 1:
        x, y, present = x[present[:, 0]], y[present[:, 0]], present[present[:, 0]]
    if task.name == "regression" and present.all():
        ridge = require("sklearn.linear_model", "experiments").Ridge(penalty).fit(x, y)
        return lambda values: ridge.predict(values).reshape(len(values), -1)
    if task.name == "classification":
        return _fit_classes(x, y[:, 0], task.output_size, penalty)
    # Fit each of several labels on the samples that have it.
    labelled_columns = [(x[use], column[use]) for use, column in zip(present.T, y.T, strict=True)]
    if task.name == "regression":
        one = task._replace(output_size=1)
        numbers = [_fit(one, samples, column[:, None], penalty) for samples, column in labelled_columns]
        return lambda values: np.concatenate([column(values) for column in numbers], 1)
    columns = [_fit_classes(samples, column.astype(int), 2, penalty) for samples, column in labelled_columns]
    return lambda values: np.stack([np.diff(column(values))[:, 0] for column in columns], 1)


def _fit_classes(x: Array, y: Array, classes: int, penalty: float) -> Callable[[Array], Array]:
    """Fits logistic regression, and returns a function from features (N, D) to logarithms of probabilities (N, classes)."""
    if len(np.unique(y)) == 1:
        model = require("sklearn.dummy", "experiments").DummyClassifier().fit(x, y)
    else:
        model = require("sklearn.linear_model", "experiments").LogisticRegression(C=1 / penalty, max_iter=500)
        with warnings.catch_warnings():  # a weak penalty may not converge on separable classes
            warnings.simplefilter("ignore", require("sklearn.exceptions", "experiments").ConvergenceWarning)
            model.fit(x, y)

    def predict(values: Array) -> Array:
        probabilities = np.full((len(values), classes), LOWEST)
        probabilities[:, model.classes_] = model.predict_proba(values).clip(LOWEST)
        logarithms: Array = np.log(probabilities)
        return logarithms

    return predict
