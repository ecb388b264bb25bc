"""What a GPU makes of it: a training step and inference of a latch, eager, in half precision and compiled, and its stalls.

    python benchmarks/gpu.py [--rounds 10]

Needs CUDA, and says so where there is none. Prints medians of milliseconds per step on batches of 32 with lengths as in
word-aligned MOSEI, from pinned memory without waiting; the peak of memory; and how often a forward pass made the host wait for
the device: lengths stay on the CPU, so packing needs nothing back, and the number should be 0.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from plain import SIZES
from speed import mosei_like
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets import Batch, data_loader
from topdown.datasets.report import markdown
from topdown.experiments.results import versions


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Returns the median time of a call, the device included."""
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


def waits(call: Callable[[], object]) -> int:
    """Counts how often a call makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def run(model: nn.Module, batch: Batch, dtype: torch.dtype | None) -> torch.Tensor:
    """Predicts, in half precision if one is given."""
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
        output: torch.Tensor = model(batch.inputs, batch.lengths)
    return output


def train_step(forward: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """Takes a training step."""
    optimizer.zero_grad(set_to_none=True)
    (forward().float().squeeze(-1) - batch.labels).abs().mean().backward()
    optimizer.step()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu.py needs CUDA, and there is none here")
    batch = next(iter(data_loader(mosei_like(640), 32, pin_memory=True))).to("cuda")
    backbones: dict[str, Callable[[], nn.Module]] = {"LSTM": lambda: LSTMBackbone(SIZES), "MulT": lambda: MulTBackbone(SIZES)}
    rows = [("backbone", "feedback", "variant", "training ms", "inference ms", "peak MiB", "waits in forward")]
    for backbone, make in backbones.items():
        for kind in ("none", "linear", "shared", "lstm"):
            for variant in ("float32", "bfloat16", "float16", "compiled"):
                torch.manual_seed(0)
                model = make() if kind == "none" else TopDownLatch(make(), kind)  # type: ignore[arg-type]
                model.cuda()
                called: nn.Module = torch.compile(model) if variant == "compiled" else model  # type: ignore[assignment]
                optimizer = torch.optim.Adam(model.parameters(), fused=True)
                dtype = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(variant)

                forward = functools.partial(run, called, batch, dtype)
                train = functools.partial(train_step, forward, optimizer, batch)
                torch.cuda.reset_peak_memory_stats()
                training = milliseconds(train, options.rounds)
                peak = torch.cuda.max_memory_allocated() / 2**20
                model.eval()
                with torch.inference_mode():
                    inference = milliseconds(forward, options.rounds)
                    stalls = waits(forward)
                rows.append((backbone, kind, variant, f"{training:.2f}", f"{inference:.2f}", f"{peak:.0f}", str(stalls)))
    print(torch.cuda.get_device_name(), versions())
    print(markdown(rows))


if __name__ == "__main__":
    main()
