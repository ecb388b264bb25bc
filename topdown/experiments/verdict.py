"""What the runs of a comparison say: differences from no feedback, how sure they are, and one sentence of verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from topdown.experiments.rows import LINEAR, NONE, STATIC, WIDENED, Metric
from topdown.experiments.statistics import (
    Difference,
    bootstrap_error,
    holm,
    paired_difference,
    seeds_to_decide,
    spread_ratio,
)

Array = np.ndarray[Any, Any]
LEVEL = 0.05
COLLAPSED = 0.01  # spread of masks below which they are called constant


class Runs(NamedTuple):
    """Runs of a comparison.

    Args:
        records: Record of each run.
        outputs: Outputs of each run for the test samples.
        labels: Labels of the test samples.
        metric: Metric.
        kinds: Names of the kinds of feedback that are compared.
    """

    records: Sequence[Mapping[str, Any]]
    outputs: Sequence[Array]
    labels: torch.Tensor
    metric: Metric
    kinds: Sequence[str]

    def of(self, row: str, *, gaps: bool = False) -> dict[int, int]:
        """Returns the number of the run of each seed of a row."""
        return {run["seed"]: i for i, run in enumerate(self.records) if run["row"] == row and bool(run.get("gaps")) == gaps}

    def names(self) -> list[str]:
        """Returns the rows that there are, in their order."""
        return list(dict.fromkeys(run["row"] for run in self.records if not run.get("gaps")))


class Compared(NamedTuple):
    """A row against no feedback.

    Args:
        difference: Paired difference, positive where the row is better.
        p: Its probability without a difference, corrected for the number of kinds where the row is a kind of feedback.
        spread: Ratio of the standard deviations over seeds, the row over no feedback.
        spread_p: Probability of a ratio as far from 1 if there were no difference in spread.
        seeds_to_decide: Seeds that it would take; infinity if no number would, None if one seed or no difference tells nothing.
        inflation: What choosing the best epoch by the test set would add to the score, on average; nan where unknown.
    """

    difference: Difference
    p: float
    spread: float
    spread_p: float
    seeds_to_decide: float | None
    inflation: float


def compare_rows(runs: Runs, against: str = NONE) -> dict[str, Compared]:
    """Compares every row that has the seeds of another with that one.

    Args:
        runs: Runs.
        against: Name of that one. (Default: "none")

    Returns:
        Comparison of each row.
    """
    base = runs.of(against)
    differences: dict[str, Difference] = {}
    for row in runs.names():
        own = runs.of(row)
        seeds = sorted(own.keys() & base.keys())
        if row == against or not seeds:
            continue
        if row == LINEAR:  # the same for all seeds
            seeds, own = sorted(base), dict.fromkeys(base, own[min(own)])
        differences[row] = _difference(runs, [(own[seed], base[seed]) for seed in seeds])
    kinds = [row for row in differences if row in runs.kinds]
    corrected = dict(zip(kinds, holm([differences[row].p for row in kinds]), strict=True))
    found = {}
    for row, difference in differences.items():
        own = runs.of(row)
        seeds = sorted(own.keys() & base.keys())
        spread, spread_p = spread_ratio(
            [runs.records[own[s]]["test"] for s in seeds], [runs.records[base[s]]["test"] for s in seeds]
        )
        level = LEVEL / max(1, len(kinds))
        found[row] = Compared(
            difference,
            corrected.get(row, difference.p),
            spread,
            spread_p,
            seeds_to_decide(difference, level),
            inflation(runs, row),
        )
    return found


def inflation(runs: Runs, row: str) -> float:
    """Returns what reporting the best epoch on the test set would add to the score of a row, positive for a better one."""
    chosen = [runs.records[i] for i in runs.of(row).values() if "best_test_epoch" in runs.records[i]]
    if not chosen:
        return float("nan")
    sign = -1.0 if runs.metric.lower_is_better else 1.0
    return float(np.mean([sign * (run["best_test_epoch"] - run["test"]) for run in chosen]))


def _difference(runs: Runs, pairs: Sequence[tuple[int, int]]) -> Difference:
    """Returns the difference of pairs of runs, positive where the first is better."""
    sign = -1.0 if runs.metric.lower_is_better else 1.0
    values = [sign * (runs.records[a]["test"] - runs.records[b]["test"]) for a, b in pairs]
    tensors = {i: torch.from_numpy(runs.outputs[i]) for pair in pairs for i in pair}

    def score(indices: Array) -> float:
        chosen = torch.from_numpy(indices)
        labels = runs.labels[chosen]
        try:
            scores = {i: runs.metric.function(outputs[chosen], labels) for i, outputs in tensors.items()}
        except ValueError:  # as of a metric that is not defined where a class is missing
            return float("nan")
        return float(np.mean([sign * (scores[a] - scores[b]) for a, b in pairs]))

    return paired_difference(values, bootstrap_error(score, len(runs.labels)), len(runs.labels))


def verdict(runs: Runs, compared: Mapping[str, Compared]) -> str:
    """Says in plain words whether feedback helps, against no feedback, and against what it might be mistaken for."""
    dynamic = {row: compared[row] for row in runs.kinds if row in compared and row != STATIC}
    if not dynamic:
        return "No kind of feedback was compared with no feedback."
    sure = [row for row, c in dynamic.items() if c.p < LEVEL and c.difference.mean > 0]
    best = max(sure or dynamic, key=lambda row: dynamic[row].difference.low if sure else dynamic[row].difference.mean)
    found = dynamic[best]
    d, seeds, samples = found.difference, found.difference.seeds, len(runs.labels)
    low, high = (d.low, d.high) if d.mean >= 0 else (-d.high, -d.low)  # of what is said, which has no sign
    said = f"{_by(d.mean, runs.metric)} (95 % interval {_number(low)} to {_number(high)}, p {_equals(found.p)}"
    kinds = len([row for row in runs.kinds if row in compared])
    said += f" for {kinds} kind{'s' if kinds > 1 else ''}, {seeds} seed{'s' if seeds > 1 else ''}, {samples} test samples)"
    if d.seeds < 2:
        return f"Nothing can be said from one seed: {best!r} {said}."
    if sure:
        controls = [row for row in (WIDENED, STATIC) if runs.of(row)]
        against = {row: _difference(runs, _pairs(runs, best, row)) for row in controls}
        lost = [row for row, c in against.items() if not (c.p < LEVEL and c.mean > 0)]
        names = {WIDENED: "a model without feedback of as many parameters", STATIC: "a mask that looks at nothing"}
        if lost:
            what = " and ".join(names[row] for row in lost)
            return f"Feedback is better than none here, but {what} may do as well: {best!r} {said}."
        beside = f", and is better than {' and '.join(names[row] for row in controls)}, too" if controls else ""
        return f"Feedback helps here: {best!r} {said}{beside}."
    worst = min(dynamic, key=lambda row: dynamic[row].difference.mean)
    if all(c.p < LEVEL and c.difference.mean < 0 for c in dynamic.values()):
        return f"Feedback hurts here: the best kind, {best!r}, {said}."
    if d.mean <= 0 or found.seeds_to_decide is None:
        more = "no kind is better than none on average"
    elif math.isinf(found.seeds_to_decide):
        more = "no number of seeds would decide: the test set is too small for a difference like this"
    else:
        more = f"about {found.seeds_to_decide:.0f} seeds would decide, if the difference is as large as it looks"
    hurts = dynamic[worst]
    note = f"; {worst!r} is worse than none (p {_equals(hurts.p)})" if hurts.p < LEVEL and hurts.difference.mean < 0 else ""
    return f"No evidence that feedback helps here: the best kind, {best!r}, {said}; {more}{note}."


def collapsed(runs: Runs) -> dict[str, list[str]]:
    """Returns, per kind, the targets whose masks are constants in most runs: they vary neither within nor between samples."""
    found: dict[str, list[str]] = {}
    for row in runs.kinds:
        spreads = spreads_of(runs, row)
        for target in dict.fromkeys(name for spread in spreads for name in spread):
            values = [max(s[target]["within"], s[target]["between"]) for s in spreads if target in s]
            if row != STATIC and float(np.median(values)) < COLLAPSED:
                found.setdefault(row, []).append(target)
    return found


def spreads_of(runs: Runs, row: str) -> list[Mapping[str, Mapping[str, float]]]:
    """Returns how masks of a row vary, run by run: see :func:`topdown.experiments.rows.mask_spread`."""
    return [runs.records[i]["masks"] for i in runs.of(row).values() if "masks" in runs.records[i]]


def _pairs(runs: Runs, row: str, other: str) -> list[tuple[int, int]]:
    own, base = runs.of(row), runs.of(other)
    return [(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())]


def _by(mean: float, metric: Metric) -> str:
    if mean == 0.0:
        return f"leaves {metric.name} as it is"
    verb = "lowers" if (mean > 0) == metric.lower_is_better else "raises"
    return f"{verb} {metric.name} by {_number(abs(mean))}"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else str(value)


def probability(p: float) -> str:
    """Writes a probability."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _equals(p: float) -> str:
    return f"= {probability(p)}" if p >= 0.001 else probability(p)
