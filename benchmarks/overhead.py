"""What does feedback cost? A latch over its bare backbone: a training step, inference, and the peak of memory.

    python benchmarks/overhead.py [--threads 2] [--rounds 7]

LSTMBackbone and MulTBackbone of the paper's size, sizes 300/74/35, batches of 32 with lengths as in word-aligned MOSEI (LSTM)
and of 16 with 50 steps (MulT). All kinds of feedback alternate in one process; printed are medians of the ratio to the bare
backbone in the same round. Peaks are those of a process of its own for each figure, over what it held before its first step.
The script fails when a ratio is above its bound, which is looser than the aim: for a regression.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable

import torch
from measure import alternate, in_a_process, peak_mib, ratio
from speed import mosei_like
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets.batch import Batch
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.report import markdown
from topdown.experiments.results import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
KINDS = ("none", "linear", "shared", "lstm")
AIMS = {"linear": 1.2, "shared": 1.35, "lstm": 1.6}
BOUNDS = {"linear": 1.6, "shared": 1.7, "lstm": 2.1}
MEMORY_AIM, MEMORY_BOUND = 1.3, 1.6


def make(backbone: str, kind: str, seed: int = 0) -> nn.Module:
    """Makes a backbone, bare or in a latch."""
    torch.manual_seed(seed)
    model = LSTMBackbone(SIZES) if backbone == "LSTM" else MulTBackbone(SIZES)
    return model if kind == "none" else TopDownLatch(model, kind)  # type: ignore[arg-type]


def make_batches(backbone: str, count: int) -> list[Batch]:
    """Makes batches of noise."""
    if backbone == "LSTM":
        data = mosei_like(32 * count)
        return [data.batch(i) for i in bucketed_batches(data.batch_lengths(), 32, seed=0, epoch=0)]
    generator = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(16, 50, size, generator=generator) for name, size in SIZES.items()}
    return [
        Batch(
            inputs=inputs,
            lengths=torch.full((16,), 50),
            labels=torch.randn(16, generator=generator),
            ids=[str(i) for i in range(16)],
        )
    ]


def trainer(model: nn.Module, batches: list[Batch]) -> Callable[[], None]:
    """Returns what takes a training step on each batch."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train() -> None:
        model.train()
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            (model(batch.inputs, batch.lengths).squeeze(-1) - batch.labels).abs().mean().backward()
            optimizer.step()

    return train


def predictor(model: nn.Module, batches: list[Batch]) -> Callable[[], None]:
    """Returns what predicts for each batch."""

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            for batch in batches:
                model(batch.inputs, batch.lengths)

    return predict


def work(backbone: str, kind: str) -> None:
    """Prints the peak of two training steps on the longest batch, over what was held before."""
    batches = sorted(make_batches(backbone, 12), key=lambda batch: batch.inputs["text"].shape[1])[-1:]
    train = trainer(make(backbone, kind), batches * 2)
    print(json.dumps(peak_mib(train)))


def main() -> None:
    """Prints the table, and fails when something costs more than its bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        work(*options.worker)
        return
    rows = [("backbone", "feedback", "training ms", "ratio", "aim", "inference ms", "ratio", "peak MiB", "ratio", "aim")]
    failures = []
    for backbone in ("LSTM", "MulT"):
        batches = make_batches(backbone, 12)
        models = {kind: make(backbone, kind) for kind in KINDS}
        training = alternate({kind: trainer(model, batches) for kind, model in models.items()}, options.rounds)
        inference = alternate({kind: predictor(model, batches) for kind, model in models.items()}, options.rounds)
        peaks = {kind: statistics.median(in_a_process(__file__, backbone, kind) for _ in range(3)) for kind in KINDS}
        for kind in KINDS:
            cost, memory = ratio(training, kind, "none"), peaks[kind] / peaks["none"]
            if cost > BOUNDS.get(kind, 1.0) or memory > MEMORY_BOUND:
                failures.append(f"{backbone} with {kind}: {cost:.2f} times the step, {memory:.2f} times the memory")
            rows.append(
                (
                    backbone,
                    kind,
                    f"{statistics.median(training[kind]) / len(batches):.1f}",
                    f"{cost:.2f}",
                    str(AIMS.get(kind, "")),
                    f"{statistics.median(inference[kind]) / len(batches):.1f}",
                    f"{ratio(inference, kind, 'none'):.2f}",
                    f"{peaks[kind]:.0f}",
                    f"{memory:.2f}",
                    str(MEMORY_AIM) if kind != "none" else "",
                )
            )
    print(versions())
    print(markdown(rows))
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
