"""Draws the figures of the report."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from topdown.comparison.compare import Comparison
from topdown.comparison.differences import LEVEL, Runs
from topdown.comparison.robustness import Curves
from topdown.comparison.variants import NONE
from topdown.files import require


def _figure(width: float, height: float) -> Any:
    return require("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def _label(runs: Runs, row: str) -> str:
    """Returns the label of a row in a figure, which tells kinds of feedback from other models."""
    return f"feedback {row!r}" if row in runs.dynamic() else row


def draw_differences(comparison: Comparison) -> Any:
    """Draws the difference of each row from no feedback, with its interval: kinds of feedback above, controls below."""
    runs, compared = comparison.runs, comparison.compared
    kinds = [row for row in runs.dynamic() if row in compared]
    controls = [row for row in compared if row not in kinds]
    rows = [*reversed(controls), *reversed(kinds)]  # from bottom to top
    figure = _figure(9.0, 1.0 + 0.4 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows):
        d, p = compared[row].difference, compared[row].p
        sure = p < LEVEL
        colour = ("tab:green" if d.mean > 0 else "tab:red") if sure else "tab:gray"
        half = 0.0 if math.isinf(d.high) else d.high - d.mean
        axes.errorbar(d.mean, place, xerr=half, fmt="o", color=colour, capsize=3)
    axes.axvline(0.0, color="black", linewidth=0.8)
    if kinds and controls:
        axes.axhline(len(controls) - 0.5, color="lightgray", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_label(runs, row) for row in rows], parse_math=False)
    what = f"better than no feedback by ({runs.metric.name}, 95 % interval); grey: may be luck"
    axes.set_xlabel(what + ("; below the line: controls" if kinds and controls else ""), parse_math=False)
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
    axes.set_yticks(range(len(names)), [_label(runs, row) for row in reversed(names)], parse_math=False)
    axes.set_xlabel(f"{runs.metric.name} on the test split, one dot per seed; bar: mean", parse_math=False)
    return figure


def draw_curves(curves: Curves, runs: Runs) -> Any:
    """Draws the metric against severity: a row of panels for each kind of feedback beside none, and one for all controls.

    Bands are one standard deviation over seeds; controls have none.
    """
    names = list(dict.fromkeys(row for rows in curves.values() for row in rows))
    kinds = [row for row in names if row in runs.dynamic()]
    controls = [row for row in names if row not in kinds and row != NONE]
    groups = [[kind] for kind in kinds] + ([controls] if controls else [])
    figure = _figure(1.0 + 2.6 * len(curves), 0.6 + 2.4 * len(groups))
    grid = figure.subplots(len(groups), len(curves), squeeze=False, sharey="col")
    for line, group in zip(grid, groups, strict=True):
        for axes, (corruption, rows) in zip(line, curves.items(), strict=True):
            lines: list[Any] = []
            for number, row in enumerate([NONE, *group]):
                by_severity = rows.get(row, {})
                x = [float(severity) for severity in by_severity]
                mean, std = (np.array([v[name] for v in by_severity.values()]) for name in ("mean", "std"))
                colour = "black" if row == NONE else f"C{(names.index(row) if group is controls else 0) % 10}"
                style = {"color": colour, "linestyle": ("-", "--", ":")[number // 10 % 3]}
                lines.append(axes.plot(x, mean, marker="o", markersize=3, **style)[0])
                if group is not controls and len(x):
                    axes.fill_between(x, mean - std, mean + std, alpha=0.15, color=colour)
            axes.set_title(corruption, fontsize=9, parse_math=False)
            axes.set_xlabel("severity", fontsize=8)
        line[0].set_ylabel(runs.metric.name, parse_math=False)
        # Set labels afterwards: matplotlib leaves out lines whose label begins with "_".
        legend = line[-1].legend(lines, ["row"] * len(lines), loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8)
        for text, row in zip(legend.get_texts(), [NONE, *group], strict=True):
            text.set(text=_label(runs, row), parse_math=False)
    return figure
