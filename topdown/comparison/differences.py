"""Computes paired differences between rows, and the spread of masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from topdown.comparison.statistics import (
    Difference,
    bootstrap_errors,
    holm,
    paired_difference,
    seeds_to_decide,
    spread_ratio,
)
from topdown.comparison.variants import LINEAR, NONE, Metric

Array = np.ndarray[Any, Any]
LEVEL = 0.05
COLLAPSED = 0.01  # spread below which masks count as constant


class Runs(NamedTuple):
    """Holds the runs of a comparison.

    Args:
        records: Record of each run.
        outputs: Outputs of each run for the test samples.
        labels: Labels of the test samples.
        metric: Metric.
        kinds: Names of the kinds of feedback that are compared.
        static: Those that do not read encodings, and are controls.
    """

    records: Sequence[Mapping[str, Any]]
    outputs: Sequence[Array]
    labels: torch.Tensor
    metric: Metric
    kinds: Sequence[str]
    static: Sequence[str] = ()

    def of(self, row: str, *, gaps: bool = False) -> dict[int, int]:
        """Returns the index of the run of each seed of a row."""
        return {run["seed"]: i for i, run in enumerate(self.records) if run["row"] == row and bool(run.get("gaps")) == gaps}

    def dynamic(self) -> list[str]:
        """Returns the kinds of feedback that read encodings, which are not controls."""
        return [row for row in self.kinds if row not in self.static]

    def names(self) -> list[str]:
        """Returns the names of the rows, in order."""
        return list(dict.fromkeys(run["row"] for run in self.records if not run.get("gaps")))


class Compared(NamedTuple):
    """Holds the comparison of a row with no feedback.

    Args:
        difference: Paired difference, positive where the row is better.
        p: Its p-value; for a kind of feedback that reads encodings, corrected for the number of these kinds.
        spread: Ratio of the standard deviations over seeds, the row over no feedback.
        spread_p: p-value of this ratio under equal standard deviations.
        seeds_to_decide: Number of seeds needed; infinity if none is enough, None for a single seed or no difference.
        inflation: Optimistic bias of choosing the epoch on test data, on average; nan where unknown.
    """

    difference: Difference
    p: float
    spread: float
    spread_p: float
    seeds_to_decide: float | None
    inflation: float


def compare_rows(runs: Runs, against: str = NONE) -> dict[str, Compared]:
    """Compares every row with a base row, over the seeds that both have.

    Args:
        runs: Runs.
        against: Name of the base row. (Default: "none")

    Returns:
        Comparison of each row.
    """
    base = runs.of(against)
    differences: dict[str, Difference] = {}
    for row in runs.names():
        indices = runs.of(row)
        seeds = sorted(indices.keys() & base.keys())
        if row == against or not seeds:
            continue
        if row == LINEAR:  # the same for all seeds
            seeds, indices = sorted(base), dict.fromkeys(base, indices[min(indices)])
        differences[row] = difference_of(runs, [(indices[seed], base[seed]) for seed in seeds])
    kinds = [row for row in differences if row in runs.dynamic()]
    corrected = dict(zip(kinds, holm([differences[row].p for row in kinds]), strict=True))
    comparisons = {}
    for row, difference in differences.items():
        indices = runs.of(row)
        seeds = sorted(indices.keys() & base.keys())
        spread, spread_p = spread_ratio(
            [runs.records[indices[s]]["test"] for s in seeds], [runs.records[base[s]]["test"] for s in seeds]
        )
        level = LEVEL / len(kinds) if row in kinds else LEVEL
        comparisons[row] = Compared(
            difference,
            corrected.get(row, difference.p),
            spread,
            spread_p,
            seeds_to_decide(difference, level),
            inflation(runs, row),
        )
    return comparisons


def inflation(runs: Runs, row: str) -> float:
    """Returns the optimistic bias of the score of a row that chooses its epochs on test data."""
    chosen = [runs.records[i] for i in runs.of(row).values() if "best_test_epoch" in runs.records[i]]
    if not chosen:
        return float("nan")
    sign = -1.0 if runs.metric.lower_is_better else 1.0
    return float(np.mean([sign * (run["best_test_epoch"] - run["test"]) for run in chosen]))


def difference_of(runs: Runs, pairs: Sequence[tuple[int, int]]) -> Difference:
    """Returns the difference of pairs of runs, positive where the first is better."""
    sign = -1.0 if runs.metric.lower_is_better else 1.0
    values = [sign * (runs.records[a]["test"] - runs.records[b]["test"]) for a, b in pairs]
    tensors = {i: torch.from_numpy(runs.outputs[i]) for pair in pairs for i in pair}

    def scores(indices: Array) -> list[float]:
        chosen = torch.from_numpy(indices)
        labels = runs.labels[chosen]
        try:
            test_scores = {i: float(runs.metric.function(outputs[chosen], labels)) for i, outputs in tensors.items()}
        except Exception:  # a metric may be undefined where, say, a class is missing
            return [float("nan")] * len(pairs)
        return [sign * (test_scores[a] - test_scores[b]) for a, b in pairs]

    samples = len(runs.labels)
    error, lasting = bootstrap_errors(scores, samples)
    return paired_difference(values, error, samples, lasting_error=lasting)


def collapsed(runs: Runs) -> dict[str, list[str]]:
    """Returns targets whose masks are constant within and between samples in most runs, per kind."""
    constant: dict[str, list[str]] = {}
    for row in runs.dynamic():
        spreads = spreads_of(runs, row)
        for target in dict.fromkeys(name for spread in spreads for name in spread):
            values = [max(s[target]["within"], s[target]["between"]) for s in spreads if target in s]
            if float(np.median(values)) < COLLAPSED:
                constant.setdefault(row, []).append(target)
    return constant


def spreads_of(runs: Runs, row: str) -> list[Mapping[str, Mapping[str, float]]]:
    """Returns the spread of the masks in each run of a row: see :func:`topdown.comparison.variants.mask_spread`."""
    return [runs.records[i]["masks"] for i in runs.of(row).values() if "masks" in runs.records[i]]


def pairs_of(runs: Runs, row: str, other: str) -> list[tuple[int, int]]:
    """Returns the indices of the runs of two rows, for each seed that both have."""
    first, second = runs.of(row), runs.of(other)
    return [(first[seed], second[seed]) for seed in sorted(first.keys() & second.keys())]
