"""What does feedback cost? A latch over its bare backbone, and half precision: training steps, inference, the peak of memory.

    python benchmarks/overhead.py [feedback] [small] [half] [--threads 2] [--rounds 7]

"feedback": LSTMBackbone and MulTBackbone of the paper's size, sizes 300/74/35, batches of 32 with lengths as in word-aligned
MOSEI (LSTM) and of 16 with 50 steps (MulT). All kinds of feedback alternate in one process; printed are medians of the ratio to
the bare backbone in the same round. Peaks are those of a process of its own for each figure, over what it held before its first
step. Bounds are looser than the aims: for a regression.

"small": around a toy of three linear encoders the latch itself is the cost. It is compared with the two passes written by hand,
without and with lengths. By hand, lengths are respected, too: encodings are 0 at padded steps.

"half": half precision on a CPU is torch's own: `torch.autocast` around the forward pass, the loss in float32, no scaler. "first
pass" is a latch whose first pass alone runs within it.

The script fails when a ratio is above its bound.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from common.measure import alternate, in_a_process, peak_mib, ratio
from common.small_model import small_models
from speed import mosei_like
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets.batch import Batch
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.report import markdown
from topdown.training.versions import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
KINDS = ("none", "linear", "shared", "lstm")
AIMS = {"linear": 1.2, "shared": 1.35, "lstm": 1.6}
BOUNDS = {"linear": 1.6, "shared": 1.7, "lstm": 2.1}
MEMORY_AIM, MEMORY_BOUND = 1.3, 1.6
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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
    """Returns a function that takes a training step on each batch."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def train() -> None:
        model.train()
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            (model(batch.inputs, batch.lengths).squeeze(-1) - batch.labels).abs().mean().backward()
            optimizer.step()

    return train


def predictor(model: nn.Module, batches: list[Batch]) -> Callable[[], None]:
    """Returns a function that predicts for each batch."""

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            for batch in batches:
                model(batch.inputs, batch.lengths)

    return predict


class Autocast(nn.Module):
    """A model within autocast, whose outputs are float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Predicts."""
        with torch.autocast("cpu", dtype=self.dtype):
            output: Tensor = self.model(inputs, lengths)
        return output.float()


class HalfFirstPass(TopDownLatch):
    """A latch whose first pass alone is in bfloat16."""

    def _encode(self, *arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encodings, at_sites = super()._encode(*arguments, **options)
        return {name: r._replace(values=r.values.float()) for name, r in encodings.items()}, at_sites


def precisions(backbone: str, kind: str) -> dict[str, nn.Module]:
    """Makes a model in every precision."""
    models: dict[str, nn.Module] = {"float32": make(backbone, kind)}
    models |= {name: Autocast(make(backbone, kind), dtype) for name, dtype in TYPES.items()}
    if kind != "none":
        models["first pass in bfloat16"] = HalfFirstPass(make(backbone, "none"), cast(Any, kind), start="random")
    return models


def half_precision(rounds: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the table of half precision."""
    rows: list[tuple[str, ...]] = [
        ("backbone", "feedback", "precision", "training ms", "of float32", "inference ms", "of float32")
    ]
    for backbone in ("LSTM", "MulT"):
        batches = make_batches(backbone, 6)
        for kind in ("none", "shared", "lstm"):
            models = precisions(backbone, kind)
            training = alternate({name: trainer(model, batches) for name, model in models.items()}, rounds)
            inference = alternate({name: predictor(model, batches) for name, model in models.items()}, rounds)
            for name in models:
                per_batch = [f"{statistics.median(measured[name]) / len(batches):.1f}" for measured in (training, inference)]
                relative = [f"{ratio(measured, name, 'float32'):.2f}" for measured in (training, inference)]
                rows.append((backbone, kind, name, per_batch[0], relative[0], per_batch[1], relative[1]))
    return rows, []


def work(backbone: str, kind: str) -> None:
    """Prints the peak of two training steps on the longest batch, over what was held before."""
    batches = sorted(make_batches(backbone, 12), key=lambda batch: batch.inputs["text"].shape[1])[-1:]
    train = trainer(make(backbone, kind), batches * 2)
    print(json.dumps(peak_mib(train)))


def kinds_of_feedback(rounds: int) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the table of kinds of feedback around both backbones, and what is above its bound."""
    head = ("backbone", "feedback", "training ms", "ratio", "aim", "inference ms", "ratio", "peak MiB", "ratio", "aim")
    rows: list[tuple[str, ...]] = [head]
    failures = []
    for backbone in ("LSTM", "MulT"):
        batches = make_batches(backbone, 12)
        models = {kind: make(backbone, kind) for kind in KINDS}
        training = alternate({kind: trainer(model, batches) for kind, model in models.items()}, rounds)
        inference = alternate({kind: predictor(model, batches) for kind, model in models.items()}, rounds)
        peaks = {kind: statistics.median(in_a_process(__file__, backbone, kind) for _ in range(3)) for kind in KINDS}
        for kind in KINDS:
            cost, memory = ratio(training, kind, "none"), peaks[kind] / peaks["none"]
            if cost > BOUNDS.get(kind, 1.0) or memory > MEMORY_BOUND:
                failures.append(f"{backbone} with {kind}: {cost:.2f} times the step, {memory:.2f} times the memory")
            times = [statistics.median(measured[kind]) / len(batches) for measured in (training, inference)]
            cells = [f"{times[0]:.1f}", f"{cost:.2f}", str(AIMS.get(kind, "")), f"{times[1]:.1f}"]
            cells += [f"{ratio(inference, kind, 'none'):.2f}", f"{peaks[kind]:.0f}", f"{memory:.2f}"]
            rows.append((backbone, kind, *cells, str(MEMORY_AIM) if kind != "none" else ""))
    return rows, failures


TABLES: dict[str, Callable[[int], tuple[list[tuple[str, ...]], list[str]]]] = {
    "feedback": kinds_of_feedback,
    "small": lambda rounds: small_models(3 * rounds),
    "half": half_precision,
}


def main() -> None:
    """Prints the tables, and fails when something costs more than its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", choices=[*TABLES, []], help="all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        work(*options.worker)
        return
    print(versions())
    failures = []
    for name in options.tables or TABLES:
        rows, above = TABLES[name](options.rounds)
        failures += above
        print(f"\n{markdown(rows)}")
    if failures:
        sys.exit("; ".join(failures))


if __name__ == "__main__":
    main()
