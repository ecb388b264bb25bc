"""Computes the verdict of a sentiment experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from topdown.comparison.differences import Runs, collapsed, compare_rows
from topdown.comparison.settings import metric_of
from topdown.comparison.variants import NONE, STATIC
from topdown.comparison.verdict import verdict
from topdown.experiments.run_files import ORACLE
from topdown.training.tasks import Task


def verdict_lines(runs: Sequence[Mapping[str, Any]], outputs: Mapping[tuple[str, int], Tensor], labels: Tensor) -> list[str]:
    """Returns the verdict, and warnings of masks that became constants; an empty list if there is nothing to compare.

    Args:
        runs: Runs of the experiment.
        outputs: Predictions for the test samples by kind and seed.
        labels: Labels of the test samples.

    Raises:
        ImportError: without the extra `experiments`.
    """
    compared = [run for run in runs if run["kind"] != ORACLE]
    kinds = [kind for kind in dict.fromkeys(run["kind"] for run in compared) if kind != NONE]
    records = [{"row": run["kind"], "test": run["metrics"]["mae"], **run} for run in compared]
    arrays = [outputs[run["kind"], run["seed"]].numpy() for run in compared]
    compared_runs = Runs(records, arrays, labels, metric_of(Task("regression", 1)), kinds, [STATIC])
    if not kinds or not compared_runs.of(NONE):
        return []
    lines = [f"**{verdict(compared_runs, compare_rows(compared_runs))}**"]
    for kind, targets in collapsed(compared_runs).items():
        lines.append(f"WARNING: masks of {kind!r} have become constants for {', '.join(targets)}.")
    return lines
