"""What the runs of a comparison say: differences from no feedback, how sure they are, and one sentence of verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from topdown.experiments.rows import LINEAR, NONE, WIDENED, Metric
from topdown.experiments.statistics import (
    Difference,
    bootstrap_errors,
    holm,
    paired_difference,
    seeds_to_decide,
    spread_ratio,
)

Array = np.ndarray[Any, Any]
LEVEL = 0.05
MANY_SEEDS = 10_000
COLLAPSED = 0.01  # spread of masks below which they are called constant


class Runs(NamedTuple):
    """Runs of a comparison.

    Args:
        records: Record of each run.
        outputs: Outputs of each run for the test samples.
        labels: Labels of the test samples.
        metric: Metric.
        kinds: Names of the kinds of feedback that are compared.
        static: Those of them that look at nothing, and are controls.
    """

    records: Sequence[Mapping[str, Any]]
    outputs: Sequence[Array]
    labels: torch.Tensor
    metric: Metric
    kinds: Sequence[str]
    static: Sequence[str] = ()

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
        level = LEVEL / len(kinds) if row in kinds else LEVEL
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

    def scores(indices: Array) -> list[float]:
        chosen = torch.from_numpy(indices)
        labels = runs.labels[chosen]
        try:
            found = {i: float(runs.metric.function(outputs[chosen], labels)) for i, outputs in tensors.items()}
        except Exception:  # of a metric, maybe one's own, that is not defined where, say, a class is missing
            return [float("nan")] * len(pairs)
        return [sign * (found[a] - found[b]) for a, b in pairs]

    samples = len(runs.labels)
    error, lasting = bootstrap_errors(scores, samples)
    return paired_difference(values, error, samples, lasting_error=lasting)


def verdict(runs: Runs, compared: Mapping[str, Compared]) -> str:
    """Says in plain words whether feedback helps, against no feedback, and against what it might be mistaken for."""
    dynamic = {row: compared[row] for row in runs.kinds if row in compared and row not in runs.static}
    if not dynamic:
        return "No kind of feedback was compared with no feedback."
    sure = [row for row, c in dynamic.items() if c.p < LEVEL and c.difference.mean > 0]
    if sure:
        return _better_than_none(runs, dynamic, sure)
    best = max(dynamic, key=lambda row: dynamic[row].difference.mean)
    found, said = dynamic[best], _said(runs, dynamic, best)
    d, samples = found.difference, len(runs.labels)
    if d.seeds < 2:
        return f"Nothing can be said from one seed: {best!r} {said}."
    if not math.isfinite(d.sample_error):
        why = "one test sample" if samples < 2 else f"{samples} test samples, many draws of which have no {runs.metric.name}"
        return f"Nothing can be said from {why}: {best!r} {said}."
    if all(c.p < LEVEL and c.difference.mean < 0 for c in dynamic.values()):
        return f"Feedback hurts here: the best kind, {best!r}, {said}."
    if d.mean <= 0 or found.seeds_to_decide is None:
        more = "no kind is better than none on average"
    elif math.isinf(found.seeds_to_decide):
        more = "no number of seeds would decide: the test set is too small for a difference like this"
    else:
        more = f"{seeds_needed(found.seeds_to_decide)} seeds or so would decide, if the difference is as large as it looks"
    worst = min(dynamic, key=lambda row: dynamic[row].difference.mean)
    hurts = dynamic[worst]
    note = f"; {worst!r} is worse than none (p {_equals(hurts.p)})" if hurts.p < LEVEL and hurts.difference.mean < 0 else ""
    return f"No evidence that feedback helps here: the best kind, {best!r}, {said}; {more}{note}."


def _better_than_none(runs: Runs, dynamic: Mapping[str, Compared], sure: Sequence[str]) -> str:
    """Says of kinds that are better than none whether one is better than every control, too, corrected for all kinds."""
    names = {WIDENED: "a model without feedback of as many parameters"} if runs.of(WIDENED) else {}
    names |= {row: "a mask that looks at nothing" for row in runs.static if runs.of(row)}
    against = {row: {control: _difference(runs, _pairs(runs, row, control)) for control in names} for row in sure}
    least = {row: max((c.p if c.mean > 0 else 1.0 for c in found.values()), default=0.0) for row, found in against.items()}
    corrected = dict(zip(dynamic, holm([least.get(row, 1.0) for row in dynamic]), strict=True))
    winners = [row for row in sure if corrected[row] < LEVEL]
    best = max(winners or sure, key=lambda row: dynamic[row].difference.low)
    said = _said(runs, dynamic, best)
    if winners:
        beside = f", and is better than {_and(names.values())}, too" if names else ""
        return f"Feedback helps here: {best!r} {said}{beside}."
    above = [control for control, c in against[best].items() if c.mean < 0 and c.p < LEVEL]
    level = [control for control, c in against[best].items() if c.mean <= 0 or c.p >= LEVEL / len(dynamic)]
    parts = {"may do as well": [row for row in level if row not in above], "is better still": above}
    doubts = " and ".join(f"{_and(names[row] for row in rows)} {what}" for what, rows in parts.items() if rows)
    return f"Feedback is better than none here, but {doubts}: {best!r} {said}."


def _said(runs: Runs, dynamic: Mapping[str, Compared], row: str) -> str:
    """Says how a kind of feedback differs from none, and how sure that is."""
    d, kinds, samples = dynamic[row].difference, sum(bool(runs.of(kind)) for kind in runs.kinds), len(runs.labels)
    low, high = (d.low, d.high) if d.mean >= 0 else (-d.high, -d.low)  # of what is said, which has no sign
    counts = f"for {_count(kinds, 'kind')}, {_count(d.seeds, 'seed')}, {_count(samples, 'test sample')}"
    interval = f"95 % interval {number(low)} to {number(high)}, p {_equals(dynamic[row].p)}"
    return f"{_by(d.mean, runs.metric)} ({interval} {counts})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _and(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def collapsed(runs: Runs) -> dict[str, list[str]]:
    """Returns, per kind, the targets whose masks are constants in most runs: they vary neither within nor between samples."""
    found: dict[str, list[str]] = {}
    for row in runs.kinds:
        spreads = spreads_of(runs, row)
        for target in dict.fromkeys(name for spread in spreads for name in spread):
            values = [max(s[target]["within"], s[target]["between"]) for s in spreads if target in s]
            if row not in runs.static and float(np.median(values)) < COLLAPSED:
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
    return f"{verb} {metric.name} by {number(abs(mean))}"


def number(value: float) -> str:
    """Writes a number with four places, or with two digits where these would all be 0, but for errors of rounding."""
    return f"{value:.2g}" if 1e-12 < abs(value) < 5e-5 else f"{value:.4f}" if math.isfinite(value) else str(value)


def seeds_needed(seeds: float | None) -> str:
    """Writes the number of seeds it would take to decide."""
    if seeds is None:
        return ""
    return "never" if math.isinf(seeds) else f"{seeds:.0f}" if seeds <= MANY_SEEDS else f"more than {MANY_SEEDS:,}"


def probability(p: float) -> str:
    """Writes a probability."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _equals(p: float) -> str:
    return f"= {probability(p)}" if p >= 0.001 else probability(p)
