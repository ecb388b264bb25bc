"""What does MulT cost? Ours against the same model with an explicit softmax, as its public code has it.

    python benchmarks/mult.py [--threads 2] [--rounds 3] [--batch-size 24]

Training steps and inference, aligned (50/50/50 steps) and unaligned (50/500/500), of sizes 300/74/35 with d = 30, 5 heads and
4 layers, the configuration whose cost was measured for the public code. Variants alternate in one process; printed are
medians of the milliseconds per call. Peak memory is that of a process of its own for each figure, less what it needed before
the first call. Before that, all variants are checked to give the same output in evaluation mode.

Variants: "explicit" does what the public code does in each attention: batched products of all heads, one mask for all that
is made once, a softmax, dropout weight by weight, and the mean of the weights over heads, which nothing reads; "ours, weights"
drops weights, too; "ours, keys" (the default of MulTBackbone) drops keys.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from topdown import TopDownLatch
from topdown.adapters import MulTBackbone, transformer
from topdown.adapters.transformer import DropoutOn
from topdown.datasets.report import markdown
from topdown.training.versions import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
STEPS = {"aligned": (50, 50, 50), "unaligned": (50, 500, 500)}
VARIANTS = ("explicit", "ours, weights", "ours, keys")
AIMS = {
    ("unaligned", "inference"): 3.5,
    ("unaligned", "training"): 4.5,
    ("aligned", "training"): 1.7,
    ("aligned", "inference"): 1.3,
}


@functools.cache
def mask_of(queries: int, keys: int, device: torch.device) -> Tensor:
    """Returns the mask of sequences without padding."""
    allowed = transformer.attention_mask((queries, keys), (None, None), causal=True, device=device)
    assert allowed is not None
    return torch.zeros(queries, keys, device=device).masked_fill(~allowed[0, 0], float("-inf"))


def explicit_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, probability: float) -> Tensor:
    """Computes attention step by step, as the public code does."""
    batch, heads, steps, size = query.shape
    q, k, v = (x.reshape(batch * heads, -1, size) for x in (query * size**-0.5, key, value))
    scores = torch.bmm(q, k.transpose(1, 2)) + mask_of(steps, key.shape[2], key.device)
    weights = torch.nn.functional.dropout(torch.softmax(scores, -1), probability, probability > 0)
    _ = weights.view(batch, heads, steps, -1).sum(1) / heads
    return torch.bmm(weights, v).view(batch, heads, steps, size)


def make(variant: str, latch: bool = False) -> torch.nn.Module:
    """Makes the model of a variant, with the same weights for all."""
    torch.manual_seed(0)
    dropout_on: DropoutOn = "keys" if variant == "ours, keys" else "weights"
    backbone = MulTBackbone(SIZES, size=30, num_heads=5, num_layers=4, kernel_sizes=1, dropout_on=dropout_on)
    return TopDownLatch(backbone, "lstm", align="interpolate", start="random") if latch else backbone


def execute(variant: str, model: torch.nn.Module, mode: str, inputs: dict[str, Tensor]) -> Tensor:
    """Runs a training step without an optimizer, or inference."""
    written_out = patch.object(transformer, "attend", explicit_attention)
    with written_out if variant == "explicit" else contextlib.nullcontext():
        if mode == "inference":
            with torch.inference_mode():
                result: Tensor = model.eval()(inputs)
            return result
        model.train().zero_grad(set_to_none=True)
        loss: Tensor = model(inputs).abs().mean()
        loss.backward()
        return loss


def make_inputs(steps: tuple[int, ...], batch_size: int) -> dict[str, Tensor]:
    """Makes a batch of noise."""
    generator = torch.Generator().manual_seed(1)
    return {k: torch.randn(batch_size, t, d, generator=generator) for (k, d), t in zip(SIZES.items(), steps, strict=True)}


def peak_memory(variant: str, time_: str, mode: str, options: argparse.Namespace) -> float:
    """Measures in a new process how many MiB one call adds to its peak."""
    worker = [time_, mode, variant, "latch" if options.latch else ""]
    command = [sys.executable, __file__, "--worker", json.dumps(worker), "--batch-size", str(options.batch_size)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split()[-1])


def work(worker: str, batch_size: int) -> None:
    """Prints by how many MiB the peak of this process exceeds what it held before a call (Linux keeps count)."""
    time_, mode, variant, latch = json.loads(worker)
    model, inputs = make(variant, bool(latch)), make_inputs(STEPS[time_], batch_size)
    execute(variant, model, mode, make_inputs((2, 2, 2), 2))
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    execute(variant, model, mode, inputs)
    print((_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def compiled_row(rounds: int, batch_size: int) -> list[tuple[str, ...]]:
    """Compares `torch.compile(latch, fullgraph=True)` with the same latch uncompiled, for aligned input in evaluation mode."""
    inputs = make_inputs(STEPS["aligned"], batch_size)
    latch = TopDownLatch(make("ours, keys"), "linear", start="random").eval()
    compiled: Callable[..., Tensor] = torch.compile(latch, fullgraph=True)
    times: dict[str, list[float]] = {"eager": [], "compiled": []}
    with torch.inference_mode():
        difference = float((compiled(inputs) - latch(inputs)).abs().max())
        for _ in range(rounds + 1):
            for name, function in (("eager", latch), ("compiled", compiled)):
                start = time.perf_counter()
                function(inputs)
                times[name].append((time.perf_counter() - start) * 1e3)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    ratio = f"{median['eager'] / median['compiled']:.2f}"
    return [
        ("latch (linear), aligned, inference", "ms", "times as fast"),
        ("eager", f"{median['eager']:.0f}", "1.00"),
        (f"compiled, fullgraph (largest difference {difference:.0e})", f"{median['compiled']:.0f}", ratio),
    ]


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=24)
    parser.add_argument("--times", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--latch", action="store_true", help="measure latches with feedback 'lstm' around the models")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        work(options.worker, options.batch_size)
        return
    print(f"{versions()}, batch {options.batch_size}, {options.rounds} rounds after one to warm up")
    rows = [("time, mode", "variant", "ms", "times as fast as explicit", "aim", "peak MiB", "of explicit")]
    for time_, steps in ((name, STEPS[name]) for name in options.times):
        inputs = make_inputs(steps, options.batch_size)
        models = {variant: make(variant, options.latch) for variant in VARIANTS}
        outputs = [execute(variant, model, "inference", inputs) for variant, model in models.items()]
        if max(float((output - outputs[0]).abs().max()) for output in outputs) > 1e-4:
            raise AssertionError("the variants differ in evaluation mode")
        for mode in ("inference", "training"):
            times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
            for _ in range(options.rounds + 1):
                for variant, model in models.items():
                    start = time.perf_counter()
                    execute(variant, model, mode, inputs)
                    times[variant].append((time.perf_counter() - start) * 1e3)
            median = {variant: statistics.median(values[1:]) for variant, values in times.items()}
            memory = {variant: peak_memory(variant, time_, mode, options) for variant in VARIANTS}
            for variant in VARIANTS:
                rows.append(
                    (
                        f"{time_}, {mode}",
                        variant,
                        f"{median[variant]:.0f}",
                        f"{median['explicit'] / median[variant]:.2f}",
                        str(AIMS[time_, mode]) if variant == "ours, keys" else "",
                        f"{memory[variant]:.0f}",
                        f"{memory[variant] / memory['explicit']:.2f}",
                    )
                )
    print(markdown(rows), flush=True)
    if options.compile:
        print(markdown(compiled_row(options.rounds, options.batch_size)))


if __name__ == "__main__":
    main()
