"""Summarizes the metric on corrupted test data over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from topdown.comparison.differences import Runs

Curves: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]


def robustness(runs: Runs) -> Curves:
    """Returns {corruption: {row: {severity: {"mean", "std"} over seeds}}}; severity 0 is the test data as it is."""
    gathered: dict[str, dict[str, dict[str, list[float]]]] = {}
    for run in runs.records:
        for kind, by_severity in run.get("robustness", {}).items():
            row = gathered.setdefault(kind, {}).setdefault(run["row"], {})
            for severity, value in {"0": run["test"], **by_severity}.items():
                row.setdefault(severity, []).append(value)
    return {
        kind: {row: {severity: _summary(values) for severity, values in series.items()} for row, series in rows.items()}
        for kind, rows in gathered.items()
    }


def robustness_rows(curves: Curves) -> list[list[str]]:
    """Returns the rows of a table, one for each corruption and severity, with a column for each model."""
    names = list(dict.fromkeys(name for by_row in curves.values() for name in by_row))
    rows = [["corruption", "severity", *names]]
    for kind, by_row in curves.items():
        for severity in dict.fromkeys(severity for by_severity in by_row.values() for severity in by_severity):
            rows.append([kind, severity, *(_cell(by_row.get(name, {}).get(severity)) for name in names)])
    return rows


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _cell(summary: Mapping[str, float] | None) -> str:
    return "" if summary is None else f"{summary['mean']:.3f} ± {summary['std']:.3f}"
