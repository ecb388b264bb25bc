"""Builds, trains and tests one row of a comparison."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor, nn

from topdown.adapters.wrapped import WrappedBackbone
from topdown.comparison.forms import reading, with_film
from topdown.comparison.linear import fit_linear
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.latch import TopDownLatch
from topdown.masking import pool_mask
from topdown.profile import as_sequence
from topdown.sequence import lengths_of, valid_steps
from topdown.training.losses import Loss
from topdown.training.prediction import evaluation_mode, masks_of, predict
from topdown.training.protocol import Augment, fit
from topdown.training.random_state import manual_seed, seeded
from topdown.training.scaled_output import scaled_by_targets
from topdown.training.tasks import Task

Sizes = dict[str, int]
Build = Callable[[Sizes], nn.Module]
Widen = Callable[[Sizes, float], nn.Module]
LINEAR, NONE, WIDENED, STATIC = "linear model on pooled features", "none", "none, widened", "static"
SEVERITIES = {"noise": (0.5, 1.0, 2.0), "features": (0.2, 0.5, 0.8), "steps": (0.2, 0.5, 0.8)}
RATES = tuple(round(0.1 * i, 1) for i in range(10))  # rates of missing steps, in all modalities
WIDEST = 1024.0  # largest factor of a wider backbone
SEED_OF_CORRUPTION = 77_003  # the same for all rows and seeds, so that all see the same corrupted data


class Metric(NamedTuple):
    """Describes the metric that is compared.

    Args:
        name: Name of it.
        function: Function (outputs, labels) -> number, of all samples together.
        lower_is_better: Whether less is better.
    """

    name: str
    function: Callable[[Tensor, Tensor], float]
    lower_is_better: bool


class Row(NamedTuple):
    """Describes one variant of the model.

    Args:
        name: Name of it.
        latch: Options of its latch; None for none.
        modalities: Modalities that it sees; None for all.
        width: Factor by which the backbone is wider.
        gaps: Whether steps are missing in training, at random rates.
        form: "film", "inputs" or "averages" for a row of :mod:`topdown.comparison.diagnosis`; else empty.
    """

    name: str
    latch: Mapping[str, Any] | None = None
    modalities: tuple[str, ...] | None = None
    width: float = 1.0
    gaps: bool = False
    form: str = ""

    @property
    def slug(self) -> str:
        """Name of the row in file names."""
        return quote(self.name, safe=" ,").replace(".", "%2E") + (".gaps" if self.gaps else "")


class Plan(NamedTuple):
    """Holds the settings that all rows of a comparison share.

    Args:
        build: Function that builds the backbone from the features of each modality.
        widen: Function that builds a wider one from these and a factor; None for no wider model.
        splits: Samples for train, valid and test.
        task: Task, for the linear model; None if it is unknown.
        loss: Loss to train with.
        metric: Metric to compare.
        training: Further options of :func:`topdown.training.fit`.
        robust: Whether to test on corrupted data, too.
    """

    build: Build
    widen: Widen | None
    splits: Mapping[str, SequenceDataset]
    task: Task | None
    loss: Loss
    metric: Metric
    training: Mapping[str, Any]
    robust: bool


def make_model(plan: Plan, row: Row, seed: int) -> nn.Module:
    """Builds the model of a row. With the same seed, all rows with the same backbone have the same initial values.

    Without feedback it is fuse(encode(inputs)), as in a latch that is disabled; `forward` of a backbone is never called.
    """
    sizes = plan.splits["train"].sizes
    if row.modalities is not None:
        sizes = {name: sizes[name] for name in row.modalities}
    with seeded(seed):
        backbone = plan.build(sizes) if row.width == 1.0 or plan.widen is None else plan.widen(sizes, row.width)
        example = plan.splits["train"].batch([0, 1] if len(plan.splits["train"]) > 1 else [0])
        if row.form == "film":
            return with_film(backbone, example)
        if row.latch is None:
            return WrappedBackbone(backbone) if all(hasattr(backbone, half) for half in ("encode", "fuse")) else backbone
        options: dict[str, Any] = dict(row.latch)
        if row.form:
            backbone, options["sources"] = reading(backbone, row.form, [*sizes])
        options |= {k: copy.deepcopy(v) for k, v in options.items() if isinstance(v, nn.Module)}  # runs share no modules
        return TopDownLatch(backbone, **options, example_inputs=example.inputs)


def check_forward(plan: Plan, row: Row, model: nn.Module) -> nn.Module:
    """Checks that the model of a row runs on some training samples, before hours of training, and returns it.

    Raises:
        Exception: whatever the model raises.
    """
    data = plan.splits["train"]
    batch = (data if row.modalities is None else data.choose(row.modalities)).batch(range(min(4, len(data))))
    with seeded(0), torch.no_grad(), evaluation_mode(model):
        model(batch.inputs, batch.lengths)
    return model


def count_parameters(model: nn.Module) -> int:
    """Returns the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def find_width(plan: Plan, size: int) -> float | None:
    """Returns the smallest factor that gives a backbone at least a number of parameters; None if there is none."""
    if plan.widen is None:
        return None
    sizes, low, high = plan.splits["train"].sizes, 1.0, 2.0
    with seeded(0):
        while count_parameters(plan.widen(sizes, high)) < size:
            low, high = high, 2 * high
            if high > WIDEST:
                return None
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if count_parameters(plan.widen(sizes, middle)) < size else (low, middle)
    return high


def run_row(plan: Plan, row: Row, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Trains a row with a seed, chooses its epoch on validation data, and tests it.

    Returns:
        Record of the run, and its outputs for the test samples, of shape (N, ...).
    """
    start = time.perf_counter()
    splits = dict(plan.splits)
    if row.modalities is not None:
        splits = {name: data.choose(row.modalities) for name, data in splits.items()}
    labels = splits["test"].labels
    record: dict[str, Any] = {"row": row.name, "gaps": row.gaps, "seed": seed}

    def score(outputs: Tensor, labels: Tensor) -> float:
        return float(plan.metric.function(outputs, labels))

    if row.name == LINEAR:
        assert plan.task is not None
        (valid, test), record["parameters"] = fit_linear(plan.task, splits["train"], splits["valid"], splits["test"])
        record |= {"validation": score(valid, splits["valid"].labels), "test": score(test, labels)}
        record["seconds"] = time.perf_counter() - start
        _check_score(plan, record)
        return record, test.numpy()
    training, best = dict(plan.training), list[float]()
    unscaled = make_model(plan, row, seed)
    model = scaled_by_targets(unscaled, splits["train"]) if training.pop("standardize_targets", False) else unscaled
    record["parameters"] = count_parameters(model)

    def on_epoch(_: Mapping[str, float]) -> None:
        best.append(score(predict(model, splits["test"]), labels))

    def on_step(epoch: int, step: int, _: int) -> None:
        manual_seed((seed * 10_007 + epoch) * 1_000_003 + step)  # each step has the same random state in all rows

    fitted = fit(
        model,
        splits["train"],
        splits["valid"],
        seed=seed,
        loss=plan.loss,
        on_epoch=on_epoch,
        on_step=on_step,
        **{**training, **({"augment": _with_gaps(seed, training.get("augment"))} if row.gaps else {})},
    )
    outputs = predict(model, splits["test"])
    record |= {
        "validation_loss": fitted.best_loss,
        "validation": score(predict(model, splits["valid"]), splits["valid"].labels),
        "test": score(outputs, labels),
        "best_test_epoch": min(best) if plan.metric.lower_is_better else max(best),
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
    }
    if isinstance(unscaled, TopDownLatch):
        record["masks"] = mask_spread(unscaled, splits["test"])
    if plan.robust or row.gaps:
        record["robustness"], record["not_tested"] = _robustness(plan, row, model, splits["test"])
    _check_score(plan, record)
    record["seconds"] = time.perf_counter() - start
    return record, outputs.numpy()


def _check_score(plan: Plan, record: Mapping[str, Any]) -> None:
    if not math.isfinite(record["test"]):
        where = f"{plan.metric.name} of {record['row']!r}, seed {record['seed']},"
        raise DataError(f"{where} is {record['test']}: a metric must be a number")


def _with_gaps(seed: int, other: Augment | None) -> Augment:
    def augment(data: SequenceDataset, epoch: int) -> SequenceDataset:
        data = data if other is None else other(data, epoch)
        generator = torch.Generator("cpu").manual_seed(seed * 1_000_003 + epoch)
        drawn = torch.rand(len(data), 2, generator=generator, dtype=torch.float64, device="cpu")
        return data.corrupt("steps", drawn[:, 0] * (drawn[:, 1] < 0.5), seed=seed * 1_000_003 + epoch)

    return augment


def _robustness(
    plan: Plan, row: Row, model: nn.Module, test: SequenceDataset
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Returns {corruption: {severity: metric}}, and the reason for each corruption that the model does not accept."""
    scale = {name: moments.deviation for name, moments in test.moments().items()}
    grids: dict[str, Sequence[float]] = {} if row.gaps else dict(SEVERITIES)
    scores: dict[str, dict[str, float]] = {}
    left_out: dict[str, str] = {}
    for kind, severities in {**grids, **({"missing rates": RATES} if row.gaps else {})}.items():
        scores[kind] = {}
        for severity in severities:
            what: Any = "steps" if kind == "missing rates" else kind
            worse = test.corrupt(what, severity, seed=SEED_OF_CORRUPTION, scale=scale)
            scores[kind][f"{severity:g}"] = plan.metric.function(predict(model, worse), test.labels)
    for name in test.sizes if len(test.sizes) > 1 and not row.gaps else ():
        try:
            worse = test.corrupt("missing", 1.0, modalities=[name], seed=SEED_OF_CORRUPTION)
            scores[f"without {name}"] = {"1": plan.metric.function(predict(model, worse), test.labels)}
        except Exception as error:  # a user-defined model may not accept absent modalities
            left_out[f"without {name}"] = f"{type(error).__name__}: {error}"
    return scores, left_out


def mask_spread(latch: TopDownLatch, data: SequenceDataset, batch_size: int = 32) -> dict[str, dict[str, float]]:
    """Returns how the masks of each target vary: over the steps of a sample, between samples, and between features.

    Returns:
        Per target: `mean`; `within`, the standard deviation over the steps of a sample; `between`, that of the means of
        samples; both averaged over features; and `features`, that of the means of features.
    """
    means: dict[str, list[Tensor]] = {}
    within: dict[str, list[Tensor]] = {}
    for _, batch, masks in masks_of(latch, data, batch_size=batch_size):
        for name, raw in masks.items():
            lengths = lengths_of(batch.lengths, name)
            mask = as_sequence(raw, name, latch.sites)  # on the CPU, as lengths are
            mask = mask.unsqueeze(1) if mask.dim() == 2 else mask
            mean = pool_mask(mask, lengths)
            valid = torch.ones(mask.shape[:2], device="cpu") if lengths is None else valid_steps(lengths, mask.shape[1])
            apart = ((mask - mean).square() * valid.unsqueeze(-1)).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
            has_steps = valid.sum(1) > 0
            means.setdefault(name, []).append(mean.squeeze(1)[has_steps])
            within.setdefault(name, []).append(apart.sqrt()[has_steps])
    spreads = {}
    for name, parts in means.items():
        mean = torch.cat(parts)
        if len(mean) > 1:
            spreads[name] = {
                "mean": float(mean.mean()),
                "within": float(torch.cat(within[name]).mean()),
                "between": float(mean.std(0).mean()),
                "features": float(mean.mean(0).std(correction=0)),
            }
    return spreads
