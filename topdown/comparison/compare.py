"""Compares every kind of feedback with no feedback and with controls, with paired seeds."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from topdown.comparison.diagnosis import AVERAGED, FILM, READS_INPUTS
from topdown.comparison.differences import Compared, Runs, compare_rows
from topdown.comparison.parallel import run_all
from topdown.comparison.saved_runs import RunStore
from topdown.comparison.variants import (
    LINEAR,
    NONE,
    STATIC,
    WIDENED,
    Build,
    Metric,
    Plan,
    Row,
    Widen,
    count_parameters,
    find_width,
    make_model,
    try_row,
)
from topdown.comparison.verdict import verdict
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.files import make_directory
from topdown.feedback import FEEDBACK, StaticFeedback
from topdown.training.distributed import world_size
from topdown.training.fingerprints import fingerprint, named
from topdown.training.locking import locked
from topdown.training.losses import Loss
from topdown.training.protocol import fit
from topdown.training.tasks import Task, task_of
from topdown.training.versions import versions
from topdown.wiring import nearest

Feedback = Sequence[str] | Mapping[str, Any]
OF_FIT = [*inspect.signature(fit).parameters][3:]
KINDS = (STATIC, *(kind for kind in FEEDBACK if kind != STATIC))


class Comparison(NamedTuple):
    """Holds the result of a comparison.

    Args:
        runs: Runs, with their outputs for the test samples.
        compared: Each row against no feedback.
        verdict: One sentence.
        left_out: Rows that could not be, and why.
        configuration: Settings, versions, data and wall time.
    """

    runs: Runs
    compared: dict[str, Compared]
    verdict: str
    left_out: dict[str, str]
    configuration: dict[str, Any]


def compare(
    build: Build,
    splits: Mapping[str, SequenceDataset],
    *,
    feedback: Feedback = KINDS,
    latch: Mapping[str, Any] | None = None,
    widen: Widen | None = None,
    loss: Loss | None = None,
    metric: Metric | None = None,
    task: Task | None = None,
    seeds: int = 10,
    jobs: int | None = None,
    alone: bool = True,
    robust: bool = False,
    gaps: bool = False,
    diagnose: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
    **training: Any,
) -> Comparison:
    """Compares kinds of feedback around a model with no feedback, with a wider model, and with simpler models.

    All rows have the same seeds, batches and initial backbones, and begin each step with the same random state. The best epoch
    is chosen on `valid`, and the score on `test` is reported. Differences are paired by seed. Their intervals count both seeds
    and test samples, and p-values are corrected for the number of kinds. Each run has one thread, so that results do not
    depend on the number of jobs.

    Args:
        build: Function {modality: features} -> backbone, called for each run, and to try each row before any training. A
            backbone needs `encode` and `fuse`; its `forward` is not called. If it raises an error for a single modality, or
            returns a model of others, that row is left out, and the report says why.
        splits: Samples for "train", "valid" and "test", with labels.
        feedback: Kinds of feedback, or {name: kind, or options of a latch}; the control "static" is always there. (Default:
            "static" and all kinds)
        latch: Options of every latch. (Default: those of :class:`topdown.TopDownLatch`)
        widen: Function ({modality: features}, factor) -> backbone, for a row of as many parameters as the largest latch.
            (Default: none)
        loss: Loss, as for :func:`topdown.training.fit`. (Default: that of the task)
        metric: Metric. (Default: mean absolute error, accuracy, or F1 of several labels)
        task: Task. (Default: derived from the labels, multilabel for the loss "bce"; none if loss and metric are user-defined)
        seeds: Number of seeds, 0 to seeds - 1. (Default: 10)
        jobs: Processes, as `n_jobs` of :class:`joblib.Parallel`. (Default: 1, unless `joblib.parallel_config` says otherwise:
            within `joblib.parallel_config(backend="dask")` the runs go to a cluster)
        alone: Whether to add a row for each modality alone. (Default: True)
        robust: Whether to test on corrupted data, too: noise, or missing features, steps and modalities. (Default: False)
        gaps: Whether to train every kind a second time, with steps missing at random rates, and test at rates 0 to 0.9.
            (Default: False)
        diagnose: Whether to add rows that say why feedback helps or not, for the first kind: see
            :mod:`topdown.comparison.diagnosis`. (Default: False)
        out: Directory for the runs. (Default: none)
        resume: Whether to reuse the runs in that directory. (Default: False)
        about: Further settings that runs must share to be resumed, such as those of the model. (Default: none)
        say: Function that is called with a line after each run. (Default: none)
        training: Further options of :func:`topdown.training.fit`, but for `seed`, `checkpoint`, `on_epoch` and `on_step`.

    Returns:
        Comparison; :func:`topdown.comparison.write_report` makes pages and tables of it.

    Raises:
        DataError: if a split or a label is missing, or the runs in the directory have other settings.
        ValueError: if an option is out of range.

    Example:
        >>> from topdown.adapters import LSTMBackbone
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> data = SequenceDataset.from_arrays({k: rng.normal(size=(30, 3, 2)) for k in "ab"}, rng.normal(size=30))
        >>> parts = {"train": data[:10], "valid": data[10:20], "test": data[20:]}
        >>> made = lambda sizes: LSTMBackbone(sizes, hidden_size=2)
        >>> found = compare(made, parts, feedback=["linear"], seeds=2, epochs=1)
        >>> found.runs.names()
        ['linear model on pooled features', 'a alone', 'b alone', 'none', 'static', 'linear']
        >>> found.compared["linear"].difference.seeds
        2
    """
    start, directory = time.time(), None if out is None else Path(out)
    _check_splits(splits)
    if world_size() > 1:
        raise ValueError("compare starts processes of its own: call it in one process, and pass jobs=")
    if seeds < 1 or jobs == 0:
        raise ValueError(f"seeds={seeds} must be at least 1, and jobs={jobs} not 0")
    if taken := [name for name in ("seed", "on_epoch", "on_step", "checkpoint") if name in training]:
        raise ValueError(f"{taken[0]} is what each run has of its own: leave it out")
    if unknown := [name for name in training if name not in OF_FIT]:
        raise TypeError(f"{unknown[0]!r} is an option neither of compare nor of fit, which has {nearest(unknown[0], OF_FIT)}")
    if task is None and (loss is None or metric is None):
        task = task_of(splits, "multilabel" if loss == "bce" else None)
    if metric is None:
        assert task is not None
        metric = metric_of(task)
    if loss is None:
        assert task is not None
        loss = task.loss
    plan = Plan(build, widen, dict(splits), task, loss, metric, dict(training), robust)
    kinds = with_static({name: _options(value, latch or {}) for name, value in _by_name(feedback).items()}, latch or {})
    rows, left_out = make_rows(plan, kinds, alone=alone, gaps=gaps, diagnose=diagnose)
    wanted = [(row, seed) for seed in range(seeds) for row in rows if row.name != LINEAR or seed == 0]
    configuration = _configuration(plan, rows, about)
    if directory is not None:
        make_directory(directory)
    with locked(directory):
        store = RunStore(directory, configuration, splits["test"].labels, resume=resume)
        sizes = {row.slug: _size(plan, row) for row in rows} if store.done else {}
        missing = [(row, seed) for row, seed in wanted if not store.has(row, seed, sizes.get(row.slug), robust=robust)]
        if say is not None and len(missing) < len(wanted):
            say(f"{len(wanted) - len(missing)} of {len(wanted)} runs are there already")
        begun = time.time()
        for number, (row, seed, record, outputs) in enumerate(run_all(plan, missing, jobs), 1):
            store.keep(row, seed, record, outputs)
            if say is not None:
                left = (time.time() - begun) / number * (len(missing) - number)
                name = row.name + (" with gaps" if row.gaps else "")
                score = f"{metric.name} {record['test']:.4f}"
                say(f"{number} of {len(missing)} runs, {_time(left)} left: {name}, seed {seed}, {score}")
    runs = store.runs(wanted, metric, list(kinds), static_kinds(kinds))
    compared = compare_rows(runs)
    configuration |= {
        "seeds": seeds,
        "jobs": jobs,
        "wall_seconds": time.time() - start,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return Comparison(runs, compared, verdict(runs, compared), left_out, configuration)


def with_static(kinds: dict[str, dict[str, Any]], latch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns kinds of feedback with a control among them: the kind "static", which does not read encodings.

    Raises:
        ValueError: if another kind has its name.
    """
    if not kinds or static_kinds(kinds):
        return kinds
    if STATIC in kinds:
        raise ValueError(f"feedback has a kind called {STATIC!r}, which is the name of a control: call it otherwise")
    return {STATIC: _options(STATIC, latch), **kinds}


def static_kinds(latches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the kinds of feedback that do not read encodings, from the options of their latches."""
    kinds = {name: options.get("feedback") for name, options in latches.items()}
    return [name for name, kind in kinds.items() if kind == STATIC or kind is StaticFeedback]


def metric_of(task: Task) -> Metric:
    """Returns the main metric of a task."""
    return Metric(task.metric, functools.partial(_score, task=task), task.lower_is_better)


def _score(outputs: torch.Tensor, labels: torch.Tensor, *, task: Task) -> float:
    return task.score(outputs, labels)


def make_rows(
    plan: Plan, kinds: Mapping[str, Mapping[str, Any]], *, alone: bool, gaps: bool, diagnose: bool = False
) -> tuple[list[Row], dict[str, str]]:
    """Returns the rows of a comparison, and the reason for each row that is left out."""
    left_out: dict[str, str] = {}
    rows = [Row(LINEAR)] if plan.task is not None else []
    if plan.task is None:
        left_out[LINEAR] = "its task is unknown, since loss and metric are user-defined: pass task="
    names = tuple(plan.splits["train"].sizes)
    for name in names if alone and len(names) > 1 else ():
        row = Row(f"{name} alone", modalities=(name,))
        lacking = sum(int((data.lengths[name] == 0).sum()) for data in plan.splits.values() if name in data.lengths)
        if lacking:
            left_out[row.name] = f"{lacking} samples lack it"
            continue
        try:
            model = make_model(plan, row, 0)
            takes = getattr(getattr(model, "backbone", model), "input_sizes", {name: None})
            if set(takes) != {name}:
                left_out[row.name] = f"build returns a model of {', '.join(map(repr, takes))} where {name!r} alone is wanted"
                continue
            try_row(plan, row)
        except Exception as error:  # a model that needs the others may raise any error
            kind = "" if isinstance(error, ValueError) else f"building or calling it raises {type(error).__name__}: "
            left_out[row.name] = f"{kind}{error}"
            continue
        rows.append(row)
    rows.append(Row(NONE))
    _needed(plan, rows[-1])
    latches = [Row(name, latch=options) for name, options in kinds.items()]
    sizes = {row.name: count_parameters(_needed(plan, row)) for row in latches}
    width = find_width(plan, max(sizes.values(), default=0))
    if width is not None and sizes:
        rows.append(Row(WIDENED, width=width))
    elif sizes:
        nobody = "nobody said how to make the model wider: pass widen="
        left_out[WIDENED] = nobody if plan.widen is None else "no factor gives it as many parameters as the largest latch has"
    rows += latches
    for row in _diagnostic_rows(kinds) if diagnose else ():
        try:
            try_row(plan, row)
        except Exception as error:  # a backbone whose encodings are no plain tensors, or that has one, may raise any error
            left_out[row.name] = f"{type(error).__name__}: {error}"
            continue
        rows.append(row)
    if twice := [row.name for i, row in enumerate(rows) if row.name in [other.name for other in rows[:i]]]:
        raise ValueError(f"feedback has a kind called {twice[0]!r}, which is the name of another row: call it otherwise")
    if gaps:
        rows += [row._replace(gaps=True) for row in rows if row.name == NONE or row.latch is not None]
    return rows, left_out


def _needed(plan: Plan, row: Row) -> nn.Module:
    """Returns the model of a row without which there is no comparison, after one call of it."""
    try:
        return try_row(plan, row)
    except Exception as error:
        kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
        raise ValueError(f"the row {row.name!r} cannot be computed: {kind}{error}") from error


def _diagnostic_rows(kinds: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Returns the rows that say why feedback helps or not, for the first kind that reads encodings."""
    rows = [Row(FILM, form="film")]
    for kind in [kind for kind in kinds if kind not in static_kinds(kinds)][:1]:
        rows.append(Row(AVERAGED.format(kind), latch=kinds[kind], form="averages"))
        rows.append(Row(READS_INPUTS.format(kind), latch=kinds[kind], form="inputs"))
    return rows


def _by_name(feedback: Feedback) -> dict[str, Any]:
    if isinstance(feedback, str):
        raise ValueError(f"feedback={feedback!r}: give a list of kinds, or a mapping from names to them")
    named_kinds = dict(feedback) if isinstance(feedback, Mapping) else {str(kind): kind for kind in feedback}
    if taken := [name for name in named_kinds if name in (NONE, WIDENED, LINEAR)]:
        raise ValueError(f"feedback has a kind called {taken[0]!r}, which is the name of another row: leave it out")
    return named_kinds


def _options(value: Any, latch: Mapping[str, Any]) -> dict[str, Any]:
    return {**latch, **value} if isinstance(value, Mapping) else {**latch, "feedback": value}


def _check_splits(splits: Mapping[str, SequenceDataset]) -> None:
    for name in ("train", "valid", "test"):
        if name not in splits or splits[name].labels is None:
            found = "no labels" if name in splits else f"no place among the splits {list(splits)}"
            raise DataError(f"{name!r} has {found}: a comparison trains on train, chooses on valid and reports test")
        ours, theirs = _kind_of(splits[name]), _kind_of(splits["train"])
        if ours != theirs:
            raise DataError(f"{name!r} has {ours}, but 'train' has {theirs}: splits of one comparison must be alike")


def _kind_of(data: SequenceDataset) -> str:
    """Describes the features and labels of a data set."""
    assert data.labels is not None
    kind = "real" if data.labels.is_floating_point() else "whole"
    shape = ", ".join(["N", *map(str, data.labels.shape[1:])])
    return f"features {dict(data.sizes)} and labels of shape ({shape}), {kind} numbers"


def _size(plan: Plan, row: Row) -> int | None:
    return None if row.name == LINEAR else count_parameters(make_model(plan, row, 0))


def _configuration(plan: Plan, rows: Sequence[Row], about: Mapping[str, Any] | None) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, nn.Module) or callable(value):
            return named(value)
        return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

    own_metric = plan.task is None or named(plan.metric.function) != named(metric_of(plan.task).function)
    return {
        "data": {name: {"samples": len(data), "fingerprint": fingerprint(data)} for name, data in plan.splits.items()},
        "sizes": plan.splits["train"].sizes,
        "build": named(plan.build),
        "task": None if plan.task is None else list(plan.task),
        "loss": plain(plan.loss),
        "widen": plain(plan.widen),
        "metric": plan.metric.name,
        "own_metric": own_metric,
        **({"metric_function": [named(plan.metric.function), plan.metric.lower_is_better]} if own_metric else {}),
        "training": plain(plan.training),
        "robust": plan.robust,
        "latches": {row.name: plain(row.latch) for row in rows if row.latch is not None},
        "about": plain(about or {}),
        "versions": versions(),
    }


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
