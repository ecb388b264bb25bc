"""Compares every kind of feedback with no feedback and with controls, with paired seeds."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from topdown.comparison.differences import Compared, Runs, compare_rows
from topdown.comparison.parallel import run_all
from topdown.comparison.rows import KINDS, Feedback, kinds_of, make_rows, static_kinds
from topdown.comparison.saved_runs import RunStore
from topdown.comparison.settings import check_splits, configuration_of, metric_of
from topdown.comparison.variants import (
    LINEAR,
    Build,
    Metric,
    Plan,
    Row,
    Widen,
    count_parameters,
    make_model,
)
from topdown.comparison.verdict import verdict
from topdown.datasets.data import SequenceDataset
from topdown.datasets.files import make_directory
from topdown.training.distributed import world_size
from topdown.training.locking import locked
from topdown.training.losses import Loss
from topdown.training.protocol import fit
from topdown.training.tasks import Task, task_of
from topdown.wiring import nearest

OF_FIT = [*inspect.signature(fit).parameters][3:]


class Comparison(NamedTuple):
    """Holds the result of a comparison.

    Args:
        runs: Runs, with their outputs for the test samples.
        compared: Each row against no feedback.
        verdict: One sentence.
        left_out: Rows left out, with the reason.
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
    seeds: int | Iterable[int] = 10,
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
        feedback: Kinds of feedback, or {name: kind, or options of a latch}; the control "static" is always included. (Default:
            "static" and all kinds)
        latch: Options of every latch. (Default: those of :class:`topdown.TopDownLatch`)
        widen: Function ({modality: features}, factor) -> backbone, for a row of as many parameters as the largest latch.
            (Default: none)
        loss: Loss, as for :func:`topdown.training.fit`. (Default: that of the task)
        metric: Metric. (Default: mean absolute error, accuracy, or F1 of several labels)
        task: Task. (Default: derived from the labels, multilabel for the loss "bce"; none if loss and metric are user-defined)
        seeds: Number of seeds, 0 to seeds - 1, or the seeds themselves, such as `range(10, 20)`. (Default: 10)
        jobs: Processes, as `n_jobs` of :class:`joblib.Parallel`. (Default: 1, unless `joblib.parallel_config` says otherwise:
            within `joblib.parallel_config(backend="dask")` the runs go to a cluster)
        alone: Whether to add a row for each modality alone. (Default: True)
        robust: Whether to test on corrupted data, too: noise, missing features and steps, absent modalities. (Default: False)
        gaps: Whether to train every kind a second time, with steps missing at random rates, and test at rates 0 to 0.9.
            (Default: False)
        diagnose: Whether to add rows that explain why feedback helps or not, for the first kind: see
            :mod:`topdown.comparison.diagnosis`. (Default: False)
        out: Directory for the runs. (Default: none)
        resume: Whether to reuse the runs in that directory. (Default: False)
        about: Further settings that runs must share to be resumed, such as those of the model. (Default: none)
        say: Function that is called with a line after each run. (Default: none)
        training: Further options of :func:`topdown.training.fit`, but for `seed`, `checkpoint`, `on_epoch` and `on_step`.

    Returns:
        Comparison; :func:`topdown.comparison.write_report` writes it as pages and tables.

    Raises:
        DataError: if a split or a label is missing, or the runs in the directory have other settings.
        ValueError: if an option is out of range.

    Example:
        >>> from topdown.adapters import LSTMBackbone
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> data = SequenceDataset.from_arrays({k: rng.normal(size=(30, 3, 2)) for k in "ab"}, rng.normal(size=30))
        >>> parts = {"train": data[:10], "valid": data[10:20], "test": data[20:]}
        >>> build = lambda sizes: LSTMBackbone(sizes, hidden_size=2)
        >>> comparison = compare(build, parts, feedback=["linear"], seeds=2, epochs=1)
        >>> comparison.runs.names()
        ['linear model on pooled features', 'a alone', 'b alone', 'none', 'static', 'linear']
        >>> comparison.compared["linear"].difference.seeds
        2
    """
    start, directory = time.time(), None if out is None else Path(out)
    check_splits(splits)
    if world_size() > 1:
        raise ValueError("compare starts processes of its own: call it in one process, and pass jobs=")
    numbers = [int(seed) for seed in (seeds if isinstance(seeds, Iterable) else range(seeds))]
    if not numbers or min(numbers) < 0 or len({*numbers}) < len(numbers):
        raise ValueError(f"seeds={seeds} must be at least 1, or different numbers of at least 0")
    if jobs == 0:
        raise ValueError("jobs=0 must be a number of processes, or -1 for all cores")
    if taken := [name for name in ("seed", "on_epoch", "on_step", "checkpoint") if name in training]:
        raise ValueError(f"{taken[0]} is set for each run: leave it out")
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
    kinds = kinds_of(feedback, latch or {})
    rows, left_out = make_rows(plan, kinds, alone=alone, gaps=gaps, diagnose=diagnose)
    wanted = [(row, seed) for seed in numbers for row in rows if row.name != LINEAR or seed == numbers[0]]
    configuration = configuration_of(plan, rows, about)
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
        "seeds": numbers if isinstance(seeds, Iterable) else len(numbers),
        "jobs": jobs,
        "wall_seconds": time.time() - start,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return Comparison(runs, compared, verdict(runs, compared), left_out, configuration)


def _size(plan: Plan, row: Row) -> int | None:
    return None if row.name == LINEAR else count_parameters(make_model(plan, row, 0))


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
