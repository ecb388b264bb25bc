"""How do time and memory of a training step grow with steps, batch, modalities, sizes and passes?

    python benchmarks/growth.py [--threads 2] [--rounds 3] [--out benchmarks/growth.png]
    python benchmarks/growth.py --large

A latch with each kind of feedback; one quantity at a time grows, the others stay at T = 20, B = 32, K = 3, D = 64, d = 32 and
one pass. The backbone is LSTMBackbone, but for K: there it is a linear encoder for each modality and a sum, since LSTMBackbone
itself has an attention for each pair. Exponents are the slopes of straight lines through the larger half of the points, on
logarithmic scales. Peaks of memory are those of a process of its own.

--large measures one call on long sequences and large batches instead: latches with "linear" feedback around MulT (d = 30, 5
heads, 4 layers; 50 words against T steps of audio and video) and around the paper's baseline; noise of sizes 300/74/35.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common.measure import in_a_process, peak_mib
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets.report import markdown
from topdown.files import require
from topdown.training.versions import versions

KINDS = ("linear", "shared", "lstm")
MIDDLE = {"T": 20, "B": 32, "K": 3, "D": 64, "d": 32, "passes": 1}
RANGES = {
    "T": (10, 20, 50, 100, 200, 500),
    "B": (1, 4, 16, 64, 256, 512),
    "K": (1, 2, 4, 6, 8),
    "D": (16, 64, 256, 1024),
    "d": (16, 32, 64, 128, 256),
    "passes": (1, 2, 4, 8),
}

SIZES = {"text": 300, "audio": 74, "visual": 35}
CASES = [
    *(("mult", steps, 1, mode) for mode in ("inference", "training") for steps in (1250, 2500, 5000, 10_000)),
    *(("lstm", 50, batch, mode) for mode in ("inference", "training") for batch in (32, 128, 512)),
]


class Sum(nn.Module):
    """Backbone whose cost grows with K alone: a linear encoder for each modality, and their sum."""

    def __init__(self, sizes: Mapping[str, int], size: int) -> None:
        super().__init__()
        self.input_sizes, self.encoding_sizes = dict(sizes), dict.fromkeys(sizes, size)
        self.encoders = nn.ModuleDict({name: nn.Linear(d, size) for name, d in sizes.items()})
        self.head = nn.Linear(size, 1)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encodes each step."""
        return {name: torch.tanh(self.encoders[name](x)) for name, x in inputs.items()}

    def fuse(self, encodings: Mapping[str, Tensor]) -> Tensor:
        """Predicts from the mean over steps."""
        prediction: Tensor = self.head(torch.stack([r.mean(1) for r in encodings.values()]).sum(0))
        return prediction


def make_step(kind: str, what: str, value: int) -> Any:
    """Returns a function that takes a training step, with one quantity set to a value."""
    at = {**MIDDLE, what: value}
    torch.manual_seed(0)
    sizes = {f"m{i}": at["D"] for i in range(at["K"])}
    backbone: nn.Module = Sum(sizes, at["d"]) if what == "K" else LSTMBackbone(sizes, hidden_size=at["d"])
    model = TopDownLatch(backbone, kind, start="random", passes=at["passes"])  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    inputs = {name: torch.randn(at["B"], at["T"], size) for name, size in sizes.items()}

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(inputs).abs().mean().backward()
        optimizer.step()

    return step


def milliseconds(step: Any, rounds: int) -> float:
    """Returns the median time of a step."""
    step()
    times = []
    for _ in range(rounds):
        repeat, start = 0, time.perf_counter()
        while repeat < 2 or time.perf_counter() - start < 0.05:
            step()
            repeat += 1
        times.append((time.perf_counter() - start) / repeat * 1e3)
    return statistics.median(times)


def exponent(points: Mapping[int, float]) -> float:
    """Fits a straight line to the larger half of some points, on logarithmic scales."""
    half = list(points.items())[-max(2, len(points) // 2 + 1) :]
    x, y = [math.log(value) for value, _ in half], [math.log(max(cost, 1e-9)) for _, cost in half]
    mx, my = statistics.mean(x), statistics.mean(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def draw(
    path: Path, times: Mapping[tuple[str, str], Mapping[int, float]], peaks: Mapping[tuple[str, str], Mapping[int, float]]
) -> None:
    """Draws time and memory against each quantity."""
    pyplot = require("matplotlib.figure", "experiments").Figure(figsize=(3 * len(RANGES), 6), layout="constrained")
    axes = pyplot.subplots(2, len(RANGES))
    for row, (measured, unit) in enumerate(((times, "ms a training step"), (peaks, "peak MiB"))):
        for column, what in enumerate(RANGES):
            axis = axes[row][column]
            for kind in KINDS:
                points = measured[kind, what]
                axis.loglog(list(points), list(points.values()), marker="o", label=f"{kind}: {exponent(points):.2f}")
            axis.set_xticks(RANGES[what], [str(value) for value in RANGES[what]])
            axis.minorticks_off()
            axis.set_xlabel(what)
            axis.set_ylabel(unit)
            axis.legend(title="exponent", fontsize="small")
    pyplot.savefig(path, dpi=80)


def measure_large(model: str, steps: int, batch_size: int, mode: str) -> tuple[float, float]:
    """Returns the seconds of one call, and its peak of memory in MiB."""
    torch.manual_seed(0)
    backbone = MulTBackbone(SIZES, size=30, num_heads=5, num_layers=4) if model == "mult" else LSTMBackbone(SIZES)
    latch = TopDownLatch(backbone, "linear", align="interpolate", start="random").train(mode == "training")
    times = (50, steps, steps) if model == "mult" else (steps,) * 3
    inputs = {k: torch.randn(batch_size, t, size) for (k, size), t in zip(SIZES.items(), times, strict=True)}
    start = time.perf_counter()

    def run() -> None:
        with torch.inference_mode(mode == "inference"):
            output = latch(inputs)
        if mode == "training":
            output.abs().mean().backward()

    peak = peak_mib(run)
    return time.perf_counter() - start, peak


def show_large() -> None:
    """Prints the table of long sequences and large batches."""
    rows = [("model", "T", "B", "mode", "s", "peak MiB")]
    for model, steps, batch_size, mode in CASES:
        seconds, peak = in_a_process(__file__, model, steps, batch_size, mode)
        rows.append((model, str(steps), str(batch_size), mode, f"{seconds:.1f}", f"{peak:.0f}"))
    print(f"{versions()}\n\n{markdown(rows)}")


def main() -> None:
    """Prints the tables of exponents and of figures, and draws them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker and len(options.worker) == 4:
        model, steps, batch_size, mode = options.worker
        print(json.dumps(measure_large(model, int(steps), int(batch_size), mode)))
        return
    if options.worker:
        kind, what, value = options.worker
        print(json.dumps(peak_mib(make_step(kind, what, int(value)))))
        return
    if options.large:
        show_large()
        return
    times: dict[tuple[str, str], dict[int, float]] = {}
    peaks: dict[tuple[str, str], dict[int, float]] = {}
    rows = [("grows", "feedback", "time exponent", "memory exponent", "ms", "peak MiB")]
    for what, values in RANGES.items():
        for kind in KINDS:
            times[kind, what] = {v: milliseconds(make_step(kind, what, v), options.rounds) for v in values}
            peaks[kind, what] = {v: in_a_process(__file__, kind, what, v) for v in values}
            rows.append(
                (
                    f"{what} = {', '.join(map(str, values))}",
                    kind,
                    f"{exponent(times[kind, what]):.2f}",
                    f"{exponent(peaks[kind, what]):.2f}",
                    " / ".join(f"{t:.3g}" for t in times[kind, what].values()),
                    " / ".join(f"{m:.3g}" for m in peaks[kind, what].values()),
                )
            )
            print(rows[-1], flush=True)
    print(versions())
    print(markdown(rows))
    if options.out is not None:
        draw(options.out, times, peaks)


if __name__ == "__main__":
    main()
