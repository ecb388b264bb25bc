"""Means and spreads of the metric on corrupted test data."""

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
        kind: {row: {severity: _summary(values) for severity, values in found.items()} for row, found in rows.items()}
        for kind, rows in gathered.items()
    }


def robustness_rows(curves: Curves) -> list[list[str]]:
    """Returns the rows of a table, one for each corruption and severity, with a column for each model."""
    names = list(dict.fromkeys(name for found in curves.values() for name in found))
    rows = [["corruption", "severity", *names]]
    for kind, found in curves.items():
        for severity in dict.fromkeys(severity for by_severity in found.values() for severity in by_severity):
            rows.append([kind, severity, *(_cell(found.get(name, {}).get(severity)) for name in names)])
    return rows


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}


def _cell(found: Mapping[str, float] | None) -> str:
    return "" if found is None else f"{found['mean']:.3f} ± {found['std']:.3f}"
