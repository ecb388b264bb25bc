"""Formats results like the paper's Table 1, with the published rows, as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from topdown.datasets.report import markdown

Run = Mapping[str, Any]

COLUMNS = {"acc7": "Acc@7", "acc2_non0": "Acc@2", "f1_non0": "F1@2", "mae": "MAE", "corr": "Corr"}
PERCENT = ("acc", "f1")

# MMLatch (Paraskevopoulos et al., 2022), Tables 1 and 2: word-aligned CMU-MOSEI, mean and standard deviation of five runs.
PUBLISHED_CAVEAT = (
    "Published rows are the paper's, on CMU-MOSEI, not measured here; its code weights F1 by predictions, not by labels."
)
Published = Mapping[str, Sequence[str]]

PUBLISHED_LSTM: Published = {
    "MulT": ("51.8", "82.5", "82.3", "0.580", "0.703"),
    "Baseline": ("51.3 ± 0.7", "81.9 ± 0.7", "82.2 ± 0.6", "0.593 ± 0.005", "0.695 ± 0.004"),
    "Baseline + MMLatch (no LSTM), average": ("51.48 ± 0.41", "82.07 ± 0.47", "82.29 ± 0.39", "0.592 ± 0.002", "0.692 ± 0.003"),
    "Baseline + MMLatch, average": ("52.0 ± 0.2", "82.4 ± 0.3", "82.5 ± 0.3", "0.585 ± 0.002", "0.700 ± 0.004"),
    "Baseline + MMLatch, best": ("52.1", "82.8", "82.9", "0.582", "0.704"),
}
PUBLISHED_MULT: Published = {
    "MulT, by its authors": ("51.8", "82.5", "82.3", "0.580", "0.703"),
    "MulT, reproduced": ("47.91 ± 1.13", "80.35 ± 0.36", "80.54 ± 0.52", "0.643 ± 0.010", "0.648 ± 0.020"),
    "MulT, reproduced + MMLatch": ("49.04 ± 0.45", "80.65 ± 0.43", "81.07 ± 0.38", "0.627 ± 0.004", "0.665 ± 0.003"),
}


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarizes runs by kind of feedback.

    Args:
        runs: Each with `kind`, `seed`, `metrics` (on the test split) and `validation_loss`.

    Returns:
        {kind: {"seeds", "mean", "std", "best_seed"}}: means and sample standard deviations (nan for a single run) of all
        metrics, and the seed of the lowest validation loss.

    Example:
        >>> runs = [{"kind": "lstm", "seed": s, "metrics": {"mae": m}, "validation_loss": m} for s, m in enumerate([0.5, 0.7])]
        >>> summary = summarize(runs)["lstm"]
        >>> round(summary["mean"]["mae"], 3), round(summary["std"]["mae"], 3), summary["best_seed"]
        (0.6, 0.141, 0)
    """
    summary: dict[str, Any] = {}
    for kind in dict.fromkeys(run["kind"] for run in runs):
        kind_runs = [run for run in runs if run["kind"] == kind]
        values = {name: [_number(run["metrics"][name]) for run in kind_runs] for name in kind_runs[0]["metrics"]}
        summary[kind] = {
            "seeds": [run["seed"] for run in kind_runs],
            "mean": {name: float(np.mean(v)) for name, v in values.items()},
            "std": {name: float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for name, v in values.items()},
            "best_seed": min(kind_runs, key=lambda run: run["validation_loss"])["seed"],
        }
    return summary


def results_table(runs: Sequence[Run], summary: Mapping[str, Any], names: Mapping[str, str], published: Published) -> str:
    """Returns the table: for each kind a row with mean ± standard deviation and one with the best run, then published rows.

    Args:
        runs: Runs as for :func:`summarize`.
        summary: Summary of these runs.
        names: Name of each kind.
        published: Rows to set beside them.

    Returns:
        A markdown table; accuracies and F1 in percent.
    """
    rows = [("Model", *COLUMNS.values())]
    for kind, entry in summary.items():
        best = next(run for run in runs if run["kind"] == kind and run["seed"] == entry["best_seed"])
        count = len(entry["seeds"])
        average = [_cell(name, entry["mean"][name], entry["std"][name]) for name in COLUMNS]
        rows.append(
            (f"{names[kind]}, " + (f"average of {count}" if count > 1 else f"seed {entry['seeds'][0]} alone"), *average)
        )
        if count > 1:
            single = [_cell(name, best["metrics"][name]) for name in COLUMNS]
            rows.append((f"{names[kind]}, best by validation", *single))
    rows += [(f"*published, CMU-MOSEI:* {name}", *cells) for name, cells in published.items()]
    return markdown(rows)


def all_metrics_table(summary: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Returns a table of every metric, with a column per kind: mean ± sample standard deviation."""
    metrics = next(iter(summary.values()))["mean"]
    rows = [("metric", *(names[kind] for kind in summary))]
    for name in metrics:
        rows.append((name, *(_cell(name, entry["mean"][name], entry["std"][name]) for entry in summary.values())))
    return markdown(rows)


def full_report(
    runs: Sequence[Run], names: Mapping[str, str], *, source: str, published: Published, verdict: Sequence[str] = ()
) -> str:
    """Returns the text of table.md: source, verdict, both tables and, on synthetic data, the comparison with the oracle.

    Args:
        runs: Runs as for :func:`summarize`; those on synthetic data may have `relevance_auc`.
        names: Name of each kind.
        source: Sentence about the data and the measurement.
        published: Rows of the paper to set beside them; none where the data is not the paper's.
        verdict: Lines that say whether feedback helps. (Default: none)
    """
    summary = summarize(runs)
    lines = [
        source,
        "Mean ± sample standard deviation over seeds. Acc and F1 in percent; Acc@2 and F1@2 are acc2_non0 and f1_non0 below.",
        *([PUBLISHED_CAVEAT] if published else []),
        "",
        *([*verdict, ""] if verdict else []),
        results_table(runs, summary, names, published),
        "",
        "All metrics (definitions: topdown.experiments.sentiment_metrics):",
        "",
        all_metrics_table(summary, names),
    ]
    for kind, (share, gain, count) in gap_closed(runs).items():
        if gain <= 0:
            lines += [
                "",
                f"The oracle, which knows the planted relevance, is not better than no feedback ({gain:+.3f} in MAE).",
            ]
            continue
        verb = f"closes {share:.0%} of" if share >= 0 else f"widens by {-share:.0%}"
        lines += ["", f"Feedback {kind!r} {verb} the gap of {gain:.3f} in MAE between no feedback and an oracle that knows the"]
        lines += [f"planted relevance ({count} seed{'s' if count > 1 else ''} of all three)."]
    for kind in summary:
        aucs = [run["relevance_auc"] for run in runs if run["kind"] == kind and "relevance_auc" in run]
        if aucs:
            means = ", ".join(f"{name} {np.mean([auc[name] for auc in aucs]):.2f}" for name in aucs[0])
            lines.append(f"Masks of {kind!r} rank relevant features above others with probability: {means} (chance 0.5).")
    return "\n".join(lines)


def gap_closed(runs: Sequence[Run]) -> dict[str, tuple[float, float, int]]:
    """Returns the share of the gap in MAE between no feedback and the oracle that each kind closes.

    Args:
        runs: Runs as for :func:`summarize`.

    Returns:
        {kind: (share, gap, number of seeds)} with share = (MAE of none - MAE of kind) / gap and gap = MAE of none - MAE of
        oracle, means over the seeds that all three have; empty where there are none, or there is no gap.

    Example:
        >>> maes = {"none": 0.5, "lstm": 0.375, "oracle": 0.25}
        >>> gap_closed([{"kind": kind, "seed": 0, "metrics": {"mae": mae}} for kind, mae in maes.items()])
        {'lstm': (0.5, 0.25, 1)}
    """
    mae: dict[str, dict[int, float]] = {}
    for run in runs:
        mae.setdefault(run["kind"], {})[run["seed"]] = run["metrics"]["mae"]
    closed = {}
    for kind in mae.keys() - {"none", "oracle"}:
        common = set(mae[kind]) & set(mae.get("none", {})) & set(mae.get("oracle", {}))
        if common:
            none, oracle, score = (float(np.mean([mae[k][seed] for seed in common])) for k in ("none", "oracle", kind))
            if none != oracle:
                closed[kind] = ((none - score) / (none - oracle), none - oracle, len(common))
    return {kind: closed[kind] for kind in mae if kind in closed}


def _cell(name: str, mean: float | None, std: float | None = None) -> str:
    mean, std = _number(mean), _number(std)
    if name == "n":
        return f"{mean:.0f}"
    factor, digits = (100, 1) if name.startswith(PERCENT) else (1, 3)
    if mean != mean:
        return "undefined"
    text = f"{mean * factor:.{digits}f}"
    return text if std != std else f"{text} ± {std * factor:.{digits}f}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)  # results.json has null for nan
