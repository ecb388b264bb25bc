"""Does `compare` find feedback where it helps, and keep quiet where it cannot?

    python benchmarks/known_answers.py [--repetitions 40] [--seeds 5]

Planted: half of the channels of one sensor show the label, the other half that of a stranger, and only another sensor tells
which half is which. Why: the same where the half changes once per sample, so that better fusion would do, and at each step, so
that no fusion of averages would. Nothing: the same inputs with shuffled labels, or with numbers drawn at random, other data
each time. An alarm is a verdict that feedback helps, or is better than none; by the level of the test at most one in twenty
may be.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topdown.comparison import compare
from topdown.comparison.diagnosis import diagnosis
from topdown.comparison.report import table
from topdown.datasets import SequenceDataset
from topdown.experiments.planted import Changes
from topdown.experiments.planted import planted as planted_steps
from topdown.training.versions import versions

Splits = dict[str, SequenceDataset]
CHANGES: tuple[Changes, ...] = ("sample", "step")


class LateFusion(nn.Module):
    """Encodes each modality step by step, and predicts from the means over time."""

    def __init__(self, sizes: Mapping[str, int], size: int = 8, outputs: int = 2) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(
            {k: nn.Sequential(nn.Linear(d, size), nn.Tanh(), nn.Linear(size, size)) for k, d in sizes.items()}
        )
        self.head = nn.Linear(len(sizes) * size, outputs)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        return {k: encoder(inputs[k]) for k, encoder in self.encoders.items()}

    def fuse(self, encodings: Mapping[str, Tensor]) -> Tensor:
        """Returns outputs of shape (B, outputs)."""
        output: Tensor = self.head(torch.cat([r.mean(1) for r in encodings.values()], dim=-1))
        return output

    def forward(self, inputs: Mapping[str, Tensor], lengths: object = None) -> Tensor:
        """Predicts, whatever the lengths, which are all the same here."""
        return self.fuse(self.encode(inputs))


def build(sizes: Mapping[str, int]) -> nn.Module:
    """Makes a classifier."""
    return LateFusion(sizes)


def widen(sizes: Mapping[str, int], factor: float) -> nn.Module:
    """Makes a wider one."""
    return LateFusion(sizes, size=round(8 * factor))


def build_regression(sizes: Mapping[str, int]) -> nn.Module:
    """Makes a model of one number."""
    return LateFusion(sizes, outputs=1)


def widen_regression(sizes: Mapping[str, int], factor: float) -> nn.Module:
    """Makes a wider one."""
    return LateFusion(sizes, size=round(8 * factor), outputs=1)


def planted(count: int, seed: int, steps: int = 6) -> SequenceDataset:
    """Generates samples whose label only both modalities together tell."""
    random = torch.Generator().manual_seed(seed)
    flags, labels, others = torch.randint(0, 2, (3, count), generator=random)
    noisy = (torch.arange(8) // 4) == flags.unsqueeze(1)
    shown = torch.where(noisy, others.unsqueeze(1), labels.unsqueeze(1)) * 2.0 - 1.0
    signal = shown.unsqueeze(1) + torch.randn(count, steps, 8, generator=random)
    flag = nn.functional.one_hot(flags, 2).unsqueeze(1) + 0.5 * torch.randn(count, steps, 2, generator=random)
    return SequenceDataset.from_arrays({"signal": signal, "flag": flag}, labels)


def splits(seed: int, counts: tuple[int, int, int]) -> Splits:
    """Makes splits with planted structure."""
    names = ("train", "valid", "test")
    return {name: planted(count, 1000 * seed + i) for i, (name, count) in enumerate(zip(names, counts, strict=True))}


def shuffled(data: Splits, seed: int, *, numbers: bool = False) -> Splits:
    """Returns the same inputs with labels that mean nothing: shuffled, or drawn at random."""
    random = torch.Generator().manual_seed(seed)
    relabeled = {}
    for name, part in data.items():
        drawn = (
            torch.randn(len(part), generator=random) if numbers else part.labels[torch.randperm(len(part), generator=random)]
        )
        relabeled[name] = part.relabeled(drawn)
    return relabeled


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start: float = time.time()
    training: dict[str, Any] = {
        "learning_rate": 0.01,
        "batch_size": 50,
        "epochs": 15,
        "patience": 5,
        "latch": {"start": "random"},
    }
    comparison = compare(build, splits(0, (600, 200, 400)), widen=widen, seeds=options.seeds, **{**training, "epochs": 20})
    print(f"Planted structure, {options.seeds} seeds.\n\n{table(comparison)}\n", flush=True)
    for changes in CHANGES:
        counts = {"train": 600, "valid": 200, "test": 400}
        parts = {name: planted_steps(count, changes, seed=i).data for i, (name, count) in enumerate(counts.items())}
        longer = {**training, "epochs": 40, "latch": {}, "feedback": ["linear"], "alone": False, "diagnose": True}
        comparison = compare(build, parts, seeds=options.seeds, **longer)
        said = "\n".join(diagnosis(comparison.runs, comparison.compared))
        print(f"Relevance changes per {changes}: {comparison.verdict}\n{said}\n", flush=True)
    for numbers in (False, True):
        alarms, either = 0, 0
        functions = (build_regression, widen_regression) if numbers else (build, widen)
        makers: dict[str, Any] = dict(zip(("build", "widen"), functions, strict=True))
        for repetition in range(1, options.repetitions + 1):
            data = shuffled(splits(repetition, (300, 100, 300)), repetition, numbers=numbers)
            comparison = compare(splits=data, alone=False, seeds=options.seeds, **makers, **training)
            alarms += comparison.verdict.startswith(("Feedback helps", "Feedback is better"))
            either += any(comparison.compared[kind].p < 0.05 for kind in comparison.runs.dynamic())
        what = "numbers drawn at random (mae)" if numbers else "shuffled labels (acc)"
        print(
            f"{what}: {alarms} false alarms in {options.repetitions} repetitions (expected: {0.05 * options.repetitions:g}); "
            f"any kind different from none, better or worse: {either}",
            flush=True,
        )
    print(f"{time.time() - start:.0f} s, {time.strftime('%Y-%m-%d')}, {versions()}")


if __name__ == "__main__":
    main()
