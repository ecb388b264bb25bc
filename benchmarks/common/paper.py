"""Data, protocols and table rows that table1.py, table2.py and figure2.py share."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.comparison import compare
from topdown.comparison.compare import Comparison
from topdown.comparison.variants import NONE, WIDENED
from topdown.datasets import SequenceDataset, load_splits
from topdown.datasets.report import markdown
from topdown.experiments import sentiment_metrics, synthetic_splits
from topdown.experiments.synthetic import NOTE
from topdown.experiments.tables import COLUMNS, NOTE_ON_PUBLISHED, PERCENT, Published

Splits = Mapping[str, SequenceDataset]
# The paper's protocol, Section 3, and MulT's own (Tsai et al., 2019, Table 5).
LSTM: dict[str, Any] = {"epochs": 100, "patience": 10, "batch_size": 32, "learning_rate": 5e-4}
MULT: dict[str, Any] = {
    "epochs": 20,
    "patience": 21,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "gradient_clip": 1.0,
    "decay": 0.1,
}


def options(doc: str | None) -> argparse.Namespace:
    """Parses the options of a script."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="CMU-MOSEI in any layout; synthetic data without")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--epochs", type=int, help="at most; the protocol says by default")
    parser.add_argument("--hidden-size", type=int, default=100, help="of the LSTM baseline")
    parser.add_argument("--out", type=Path, help="keep runs here, and go on with those that are there")
    return parser.parse_args()


def load(path: Path | None) -> tuple[Splits, str]:
    """Loads data, and says where figures come from."""
    if path is None:
        return synthetic_splits().splits, NOTE
    splits = load_splits(path)
    return splits, f"Measured on {path.name}, " + ", ".join(f"N {name} = {len(data)}" for name, data in splits.items()) + "."


def build_lstm(sizes: Mapping[str, int], factor: float = 1.0, *, hidden_size: int = 100) -> nn.Module:
    """Makes the paper's baseline, wider by a factor."""
    return LSTMBackbone(sizes, hidden_size=round(hidden_size * factor))


def build_mult(sizes: Mapping[str, int]) -> nn.Module:
    """Makes MulT as the paper has it."""
    return MulTBackbone(sizes)


def run_lstm(splits: Splits, kinds: Sequence[str], chosen: argparse.Namespace) -> Comparison:
    """Compares kinds of feedback around the paper's baseline."""
    made = functools.partial(build_lstm, hidden_size=chosen.hidden_size)
    return _run(made, splits, kinds, chosen, LSTM, "lstm", widen=made, latch={"start": "random"})


def run_mult(splits: Splits, kinds: Sequence[str], chosen: argparse.Namespace) -> Comparison:
    """Compares kinds of feedback around MulT."""
    return _run(build_mult, splits, kinds, chosen, MULT, "mult", latch={"align": "interpolate", "start": "random"})


def _run(
    build: Any,
    splits: Splits,
    kinds: Sequence[str],
    chosen: argparse.Namespace,
    protocol: dict[str, Any],
    name: str,
    **more: Any,
) -> Comparison:
    training = {**protocol, **({"epochs": chosen.epochs} if chosen.epochs else {})}
    out = None if chosen.out is None else chosen.out / name
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"seeds": chosen.seeds, "jobs": chosen.jobs, "alone": False, "out": out, "resume": True, **more}
    return compare(build, splits, feedback=kinds, **options, **training)


def rows(found: Comparison, names: Mapping[str, str]) -> list[list[str]]:
    """Returns rows of sentiment metrics: mean ± standard deviation, and the best run by validation."""
    lines = []
    for row, name in names.items():
        numbers = list(found.runs.of(row).values())
        if not numbers:
            continue
        metrics = [sentiment_metrics(found.runs.outputs[i], found.runs.labels) for i in numbers]
        best = int(np.argmin([found.runs.records[i]["validation"] for i in numbers]))
        lines.append([f"{name}, average of {len(numbers)}", *(_cell(c, [m[c] for m in metrics]) for c in COLUMNS)])
        lines.append([f"{name}, best by validation", *(_cell(c, [metrics[best][c]]) for c in COLUMNS)])
    return lines


def show(source: str, lines: Sequence[Sequence[str]], published: Published, verdicts: Sequence[str]) -> None:
    """Prints rows measured here, then published ones, each marked."""
    marked = [[f"*published, CMU-MOSEI:* {name}", *cells] for name, cells in published.items()]
    print(f"{source} {NOTE_ON_PUBLISHED}\n\n{markdown([['Model', *COLUMNS.values()], *lines, *marked])}\n")
    print("\n".join(verdicts))


def names(baseline: str, kinds: Mapping[str, str]) -> dict[str, str]:
    """Names the rows as the paper does."""
    return {NONE: baseline, WIDENED: f"{baseline}, widened", **{kind: f"{baseline} + {name}" for kind, name in kinds.items()}}


def _cell(name: str, values: Sequence[float]) -> str:
    factor, digits = (100, 1) if name.startswith(PERCENT) else (1, 3)
    text = f"{np.mean(values) * factor:.{digits}f}"
    return text + (f" ± {np.std(values, ddof=1) * factor:.{digits}f}" if len(values) > 1 else "")


torch.set_num_threads(1)  # as runs of a comparison have
