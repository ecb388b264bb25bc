"""When does feedback pay? A map over planted tasks: how often relevance changes, and what the model can do without feedback.

    python benchmarks/when.py --out results/when [--jobs 2] [--resume]

Each cell trains a model with and without feedback on the data of `topdown.experiments.planted`, and beside it the controls that
an expert would ask for: a wider model, a static mask, fusion by FiLM, early fusion (the encoder of `a` sees `b`), gating by the
other input in one pass ("linear, reads inputs"), masks averaged over time, and an oracle that knows the relevant features.
It writes when.md and when.png. Runs go through `topdown.comparison`, and are kept in the directory.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common.rows import gain, mean_score, merged
from torch import Tensor, nn

from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.comparison import compare
from topdown.comparison.differences import Runs
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.experiments.planted import Changes, planted
from topdown.files import require, write_file, write_text
from topdown.training.versions import versions

KIND = "linear"
EARLY, ORACLE = "early fusion", "oracle"
READS = f"{KIND}, reads inputs"
FUSIONS = ("none", "none, widened", "static", "fusion by FiLM")  # encoders see what they saw before
SEE_BOTH = (EARLY, READS)  # in one pass: an encoder, or a gate, sees the other input at each step
SHOWN = (*FUSIONS, f"{KIND}, averaged over time", EARLY, READS, KIND, "shared", ORACLE)
SIZE = 16
SLOW = {"attention": "LSTM", "MulT": "convolution"}  # fusions of the adapters, and how they encode
CHANGES: tuple[Changes, ...] = ("sample", "segment", "step")


class Cell(NamedTuple):
    """Describes one cell of the map: the model, the task and the number of samples and seeds."""

    fusion: str
    encoder: str
    changes: Changes
    samples: int
    cue: float
    seeds: int

    @property
    def name(self) -> str:
        """Name of its directory."""
        return f"{self.fusion}-{self.encoder}-{self.changes}-{self.samples}-cue{self.cue:g}"


def cells() -> list[Cell]:
    """Returns the cells of the map: the main ones first, then one axis at a time."""
    grid = [Cell(fusion, "steps", c, 400, 1.0, 10) for fusion in ("late", "MLP") for c in CHANGES]
    grid += [Cell("late", encoder, c, 400, 1.0, 10) for encoder in ("GRU", "convolution") for c in CHANGES]
    grid += [
        Cell("late", encoder, "segment", 400, cue, 3) for encoder in ("steps", "GRU", "convolution") for cue in (0.25, 0.5)
    ]
    grid += [Cell("late", "steps", "step", 400, cue, 3) for cue in (0.25, 0.5)]
    grid += [Cell("late", "steps", c, samples, 1.0, 3) for samples in (100, 1600) for c in CHANGES]
    unsure = ("attention", "segment")  # the paper's baseline learns segments with some seeds and not with others
    grid += [Cell(f, encoder, c, 400, 1.0, 10 if (f, c) == unsure else 3) for f, encoder in SLOW.items() for c in CHANGES]
    return [*grid, Cell("late", "steps", "step", 6400, 1.0, 3)]


class Recurrent(nn.Module):
    """A GRU, of which the hidden states are the encoding."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, size)."""
        states: Tensor = self.gru(x)[0]
        return states


class Convolution(nn.Module):
    """Two convolutions over time."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv1d(inputs, size, 3, padding=1), nn.ReLU(), nn.Conv1d(size, size, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, T, D) to (B, T, size)."""
        output: Tensor = self.layers(x.transpose(1, 2)).transpose(1, 2)
        return output


class Averaging(nn.Module):
    """Encodes each modality, averages over time, and fuses by a linear head or an MLP."""

    def __init__(
        self, sizes: Mapping[str, int], factor: float = 1.0, *, fusion: str, encoder: str, early: bool = False
    ) -> None:
        super().__init__()
        size = round(SIZE * factor)
        make: Any = {"GRU": Recurrent, "convolution": Convolution}.get(encoder)
        make = make or (lambda n, d: nn.Sequential(nn.Linear(n, d), nn.ReLU(), nn.Linear(d, d)))
        self.early = early
        taken = {k: sum(sizes.values()) if early and k == "a" else n for k, n in sizes.items()}
        self.encoders = nn.ModuleDict({k: make(n, size) for k, n in taken.items()})
        width = size * len(sizes)
        mlp = nn.Sequential(nn.Linear(width, 2 * size), nn.ReLU(), nn.Linear(2 * size, 2))
        self.head = mlp if fusion == "MLP" else nn.Linear(width, 2)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        seen = {k: torch.cat([*inputs.values()], -1) if self.early and k == "a" else x for k, x in inputs.items()}
        return {k: encoder(seen[k]) for k, encoder in self.encoders.items()}

    def fuse(self, encodings: Mapping[str, Tensor]) -> Tensor:
        """Returns logits of shape (B, 2)."""
        logits: Tensor = self.head(torch.cat([r.mean(1) for r in encodings.values()], -1))
        return logits

    def forward(self, inputs: Mapping[str, Tensor], lengths: object = None) -> Tensor:
        """Predicts, whatever the lengths, which are all the same here."""
        return self.fuse(self.encode(inputs))


def build(sizes: Mapping[str, int], factor: float = 1.0, *, fusion: str, encoder: str) -> nn.Module:
    """Makes the model of a cell."""
    if fusion == "attention":
        return LSTMBackbone(sizes, hidden_size=round(SIZE * factor), output_size=2)
    if fusion == "MulT":
        return MulTBackbone(sizes, size=8 * max(1, round(2 * factor)), num_heads=2, num_layers=1, output_size=2)
    return Averaging(sizes, factor, fusion=fusion, encoder=encoder)


def build_early(sizes: Mapping[str, int], *, fusion: str, encoder: str) -> nn.Module:
    """Makes the model of a cell, whose encoder of `a` sees `b`, too."""
    return Averaging(sizes, fusion=fusion, encoder=encoder, early=True)


def run_cell(cell: Cell, out: Path, jobs: int) -> Runs:
    """Trains all rows of a cell, or reads them, and returns their runs together."""
    counts = {"train": cell.samples, "valid": max(200, cell.samples // 4), "test": 1000}
    parts = {k: planted(n, cell.changes, cue=cell.cue, seed=i) for i, (k, n) in enumerate(counts.items(), 1)}
    splits = {k: part.data for k, part in parts.items()}
    build_model, slow = functools.partial(build, fusion=cell.fusion, encoder=cell.encoder), cell.fusion in SLOW
    training: dict[str, Any] = {"epochs": 40, "patience": 10, "learning_rate": 0.005 if slow else 0.01, "batch_size": 32}
    shared: dict[str, Any] = {"seeds": cell.seeds, "jobs": jobs, "alone": False, "resume": True, **training}
    kinds = [KIND] if slow else [KIND, "shared"]
    comparison = compare(build_model, splits, widen=build_model, feedback=kinds, diagnose=True, out=out / cell.name, **shared)
    oracle_splits = {k: _masked(part.data, part.relevance) for k, part in parts.items()}
    others = {ORACLE: compare(build_model, oracle_splits, feedback=[], out=out / f"{cell.name}-oracle", **shared).runs}
    if not slow:
        early = functools.partial(build_early, fusion=cell.fusion, encoder=cell.encoder)
        others[EARLY] = compare(early, splits, feedback=[], out=out / f"{cell.name}-early", **shared).runs
    return merged(comparison.runs, others)


def _masked(data: SequenceDataset, relevance: Tensor) -> SequenceDataset:
    batch = data.batch(range(len(data)))
    return SequenceDataset.from_arrays({"a": batch.inputs["a"] * relevance, "b": batch.inputs["b"]}, batch.labels)


def best_of(runs: Runs, rows: Sequence[str]) -> str | None:
    """Returns the row with the best mean score among those that have runs."""
    return max((row for row in rows if runs.of(row)), key=lambda row: mean_score(runs, row), default=None)


def gain_over(runs: Runs, rows: Sequence[str]) -> str:
    """Writes the gain of feedback over the best of some rows, with its interval."""
    if (best := best_of(runs, rows)) is None:
        return ""
    mean, low, high = gain(runs, KIND, best)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def write_table(path: Path, results: Mapping[Cell, Runs], seconds: float, command: str) -> None:
    """Writes a row for each cell: the accuracy of each variant, and the gains of feedback."""
    about = ("fusion", "encoder", "relevance changes per", "N", "cue", "seeds")
    gains = ("gain over none", "over the best fusion", "over the best that sees both inputs")
    rows: list[tuple[str, ...]] = [(*about, *SHOWN, *gains)]
    for cell, runs in results.items():
        scores = [f"{mean_score(runs, row):.3f}" if runs.of(row) else "" for row in SHOWN]
        described = (cell.fusion, cell.encoder, cell.changes, str(cell.samples), f"{cell.cue:g}", str(cell.seeds))
        rows.append((*described, *scores, *(gain_over(runs, rivals) for rivals in (("none",), FUSIONS, SEE_BOTH))))
    caption = f"`{command}`, {time.strftime('%Y-%m-%d')}, {seconds:.0f} s, {versions()}. Test accuracy, N test = 1000."
    write_text(path, f"{caption}\n\n{markdown(rows)}\n")


def draw(path: Path, results: Mapping[Cell, Runs]) -> None:
    """Draws the gain of feedback over no feedback, the best fusion, and the best model that sees both inputs early."""
    shown = [cell for cell in results if cell.samples == 400 and cell.cue == 1.0]
    models = list(dict.fromkeys((cell.fusion, cell.encoder) for cell in shown))
    figure = require("matplotlib.figure", "plots").Figure(figsize=(12.0, 0.9 + 0.55 * len(models)), layout="constrained")
    panels = {"no feedback": ("none",), "the best fusion": FUSIONS, "the best that sees both inputs": SEE_BOTH}
    for axes, (title, rivals) in zip(figure.subplots(1, 3, sharey=True), panels.items(), strict=True):
        values = np.full((len(models), len(CHANGES)), np.nan)
        for cell in shown:
            runs, at = results[cell], (models.index((cell.fusion, cell.encoder)), CHANGES.index(cell.changes))
            if (best := best_of(runs, rivals)) is None:
                continue
            values[at], low, high = gain(runs, KIND, best)
            sure = "" if low <= 0 <= high else "*"
            axes.text(at[1], at[0], f"{100 * values[at]:+.1f}{sure}", ha="center", va="center", fontsize=9)
        image = axes.imshow(values, "RdBu_r", aspect="auto", vmin=-0.3, vmax=0.3)
        axes.set_xticks(range(len(CHANGES)), [f"per {name}" for name in CHANGES])
        axes.set_yticks(range(len(models)), [f"{fusion}, {encoder}" for fusion, encoder in models])
        axes.set_title(f"gain over {title}", fontsize=10)
        axes.set_xlabel("relevance changes")
    figure.colorbar(image, ax=figure.axes, label="accuracy (points in cells; *: interval without 0)")
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=130))


def main() -> None:
    """Runs all cells, and writes the table and the figure after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--cells", type=int, help="run the first N cells alone")
    parser.add_argument("--seeds", type=int, help="at most N seeds")
    options = parser.parse_args()
    start, results = time.time(), dict[Cell, Runs]()
    options.out.mkdir(parents=True, exist_ok=True)
    for cell in cells()[: options.cells]:
        cell = cell._replace(seeds=min(cell.seeds, options.seeds or cell.seeds))
        results[cell] = run_cell(cell, options.out, options.jobs)
        print(f"{time.time() - start:5.0f} s  {cell.name}: {gain_over(results[cell], FUSIONS)} over fusions", flush=True)
        write_table(options.out / "when.md", results, time.time() - start, "python benchmarks/when.py")
        draw(options.out / "when.png", results)


if __name__ == "__main__":
    main()
