"""Merges rows of several comparisons on the same test samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topdown.comparison.differences import Runs, difference_of, pairs_of


def merged(runs: Runs, others: Mapping[str, Runs]) -> Runs:
    """Returns runs with the row "none" of other comparisons, each under its own name."""
    records, outputs = [*runs.records], [*runs.outputs]
    for name, other in others.items():
        for i in other.of("none").values():
            records.append({**other.records[i], "row": name})
            outputs.append(other.outputs[i])
    return runs._replace(records=records, outputs=outputs)


def mean_score(runs: Runs, row: str) -> float:
    """Returns the mean score of a row over its seeds; nan without any."""
    scores = [runs.records[i]["test"] for i in runs.of(row).values()]
    return float(np.mean(scores)) if scores else float("nan")


def gain(runs: Runs, row: str, other: str) -> tuple[float, float, float]:
    """Returns how much better a row is than another, and the 95 % interval over seeds and test samples."""
    d = difference_of(runs, pairs_of(runs, row, other))
    return d.mean, d.low, d.high
