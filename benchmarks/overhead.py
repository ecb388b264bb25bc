"""What does feedback cost? A latch over its bare backbone: a training step, inference, and the peak of memory.

    python benchmarks/overhead.py [--threads 2] [--rounds 7]

LSTMBackbone and MulTBackbone of the paper's size, sizes 300/74/35, batches of 32 with lengths as in word-aligned MOSEI (LSTM)
and of 16 with 50 steps (MulT). All kinds of feedback alternate in one process; printed are medians of the ratio to the bare
backbone in the same round. Peaks are those of a process of its own for each figure, over what it held before its first step.
Around a toy of three linear encoders the latch itself is the cost: a second table compares it with the two passes written by
hand, without and with lengths. By hand, lengths are respected, too: encodings are 0 at padded steps.

The script fails when a ratio is above its bound. Those of the first table are looser than the aims: for a regression.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from common.measure import alternate, in_a_process, peak_mib, ratio
from speed import mosei_like
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.batch import Inputs
from topdown.datasets.batch import Batch
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.report import markdown
from topdown.training.versions import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
KINDS = ("none", "linear", "shared", "lstm")
AIMS = {"linear": 1.2, "shared": 1.35, "lstm": 1.6}
BOUNDS = {"linear": 1.6, "shared": 1.7, "lstm": 2.1}
MEMORY_AIM, MEMORY_BOUND = 1.3, 1.6
SMALL_SIZES = {"text": 30, "audio": 12, "visual": 8}
SMALL_BOUND = 1.5


def make(backbone: str, kind: str, seed: int = 0) -> nn.Module:
    """Makes a backbone, bare or in a latch."""
    torch.manual_seed(seed)
    model = LSTMBackbone(SIZES) if backbone == "LSTM" else MulTBackbone(SIZES)
    return model if kind == "none" else TopDownLatch(model, kind, start="random")  # type: ignore[arg-type]


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


class Toy(nn.Module):
    """Predicts one number from three linear encoders."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(features, size) for name, features in SMALL_SIZES.items()})
        self.head = nn.Linear(3 * size, 1)
        self.input_sizes, self.encoding_sizes = SMALL_SIZES, dict.fromkeys(SMALL_SIZES, size)

    def encode(self, inputs: Inputs) -> dict[str, Tensor]:
        """Encodes each modality."""
        return {name: torch.tanh(encoder(inputs[name])) for name, encoder in self.encoders.items()}

    def fuse(self, encodings: dict[str, Tensor]) -> Tensor:
        """Averages over time."""
        prediction: Tensor = self.head(torch.cat([*encodings.values()], dim=-1).mean(1))
        return prediction


def by_hand(latch: TopDownLatch[Toy], inputs: Inputs, lengths: Tensor | None = None) -> Tensor:
    """Does the two passes of a latch with linear feedback, start="identity" and the mean, and checks nothing."""
    with torch.no_grad():
        encodings = latch.backbone.encode(inputs)
        if lengths is not None:
            steps = torch.arange(inputs["text"].shape[1], device=lengths.device)
            valid = (steps < lengths.unsqueeze(1)).unsqueeze(-1)
            encodings = {name: torch.where(valid, r, 0.0) for name, r in encodings.items()}
    masked = {}
    for target, x in inputs.items():
        masks = [torch.sigmoid(network(encodings[source])) for source, network in latch.feedback[target].items()]
        masked[target] = x * (masks[0] + masks[1])
    return latch.backbone.fuse(latch.backbone.encode(masked))


def small_models(rounds: int, calls: int = 100) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the table of calls around the toy, and the ratios that are above the bound."""
    torch.manual_seed(0)
    latch = TopDownLatch(Toy(), "linear")
    inputs = {name: torch.randn(8, 10, size) for name, size in SMALL_SIZES.items()}
    tensor = torch.tensor([10, 4, 7, 9, 2, 5, 10, 8])
    mapping = {name: tensor.clone() for name in SMALL_SIZES}
    variants: dict[str, Callable[[], Any]] = {
        "bare": lambda: latch.backbone.fuse(latch.backbone.encode(inputs)),
        "by hand": lambda: by_hand(latch, inputs),
        "by hand, lengths": lambda: by_hand(latch, inputs, tensor),
        "latch": lambda: latch(inputs),
        "latch, lengths": lambda: latch(inputs, tensor),
        "latch, mapping of lengths": lambda: latch(inputs, mapping),
    }
    rows: list[tuple[str, ...]] = [("call", "gradients", "us", "of by hand", "of by hand, lengths")]
    failures = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            times = alternate({name: functools.partial(repeat, call, calls) for name, call in variants.items()}, rounds)
        for name, values in times.items():
            costs = [ratio(times, name, base) for base in ("by hand", "by hand, lengths")]
            rows.append((name, str(gradients), f"{statistics.median(values) / calls * 1e3:.0f}", *(f"{c:.2f}" for c in costs)))
            if name.startswith("latch") and costs["lengths" in name] > SMALL_BOUND:
                failures.append(f"{name}, gradients {gradients}: {costs['lengths' in name]:.2f} times the passes by hand")
    return rows, failures


def repeat(call: Callable[[], Any], calls: int) -> None:
    """Calls a function many times."""
    for _ in range(calls):
        call()


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
    rows_of_small, failures_of_small = small_models(3 * options.rounds)
    print(versions())
    print(markdown(rows), markdown(rows_of_small), sep="\n\n")
    failures += failures_of_small
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
