"""Draws the figures of a report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from topdown.comparison.compare import Comparison
from topdown.comparison.differences import LEVEL, Runs
from topdown.comparison.robustness import Curves
from topdown.files import require


def _figure(width: float, height: float) -> Any:
    return require("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def draw_differences(comparison: Comparison) -> Any:
    """Draws the difference of each row from no feedback, with its interval."""
    rows = list(comparison.compared)
    figure = _figure(9.0, 1.0 + 0.4 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        d, p = comparison.compared[row].difference, comparison.compared[row].p
        sure = p < LEVEL
        colour = ("tab:green" if d.mean > 0 else "tab:red") if sure else "tab:gray"
        half = 0.0 if math.isinf(d.high) else d.high - d.mean
        axes.errorbar(d.mean, place, xerr=half, fmt="o", color=colour, capsize=3)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.replace("$", r"\$") for row in reversed(rows)])
    axes.set_xlabel(f"better than no feedback by ({comparison.runs.metric.name}, 95 % interval); grey: may be luck")
    return figure


def draw_runs(runs: Runs) -> Any:
    """Draws the score of every run."""
    names = runs.names()
    figure = _figure(9.0, 1.0 + 0.4 * len(names))
    axes = figure.subplots()
    for place, row in enumerate(reversed(names)):
        scores = [runs.records[i]["test"] for i in runs.of(row).values()]
        axes.plot(scores, [place] * len(scores), "o", alpha=0.5, color="tab:blue")
        axes.plot([np.mean(scores)], [place], "|", markersize=18, color="black")
    axes.set_yticks(range(len(names)), [row.replace("$", r"\$") for row in reversed(names)])
    axes.set_xlabel(f"{runs.metric.name} on the test split, one dot per seed; bar: mean")
    return figure


def draw_curves(curves: Curves, metric: str) -> Any:
    """Draws a metric against severity, with a band of one standard deviation over seeds for each row."""
    across = min(3, len(curves))
    down = -(-len(curves) // across)
    figure = _figure(4.2 * across, 3.4 * down + 0.6)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    names = list(dict.fromkeys(row for rows in curves.values() for row in rows))
    lines: dict[str, Any] = {}
    for axes, (kind, rows) in zip(grid, curves.items(), strict=False):
        for row, found in rows.items():
            x = [float(severity) for severity in found]
            mean, std = (np.array([v[name] for v in found.values()]) for name in ("mean", "std"))
            number = names.index(row)  # the same colour in every panel, and another style beyond ten
            style = {"color": f"C{number % 10}", "linestyle": ("-", "--", ":")[number // 10 % 3]}
            (lines[row],) = axes.plot(x, mean, marker="o", markersize=3, label=row.replace("$", r"\$"), **style)
            axes.fill_between(x, mean - std, mean + std, alpha=0.15, color=style["color"])
        axes.set_title(kind.replace("$", r"\$"), fontsize=10)
        axes.set_xlabel("severity")
        axes.set_ylabel(metric)
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    plain = [row.replace("$", r"\$") for row in names]
    figure.legend([lines[row] for row in names], plain, loc="outside lower center", ncols=4, fontsize=8)
    return figure
