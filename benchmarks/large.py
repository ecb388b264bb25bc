"""What do long sequences and large batches cost? Time and peak memory of one call, each in a process of its own.

    python benchmarks/large.py [--threads 2]

Latches with "linear" feedback around MulT (d = 30, 5 heads, 4 layers; 50 words against T steps of audio and video) and around
the paper's baseline; noise of sizes 300/74/35.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets.report import markdown
from topdown.training.versions import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
CASES = [
    *(("mult", steps, 1, mode) for mode in ("inference", "training") for steps in (1250, 2500, 5000, 10_000)),
    *(("lstm", 50, batch, mode) for mode in ("inference", "training") for batch in (32, 128, 512)),
]


def work(model: str, steps: int, batch_size: int, mode: str) -> None:
    """Prints seconds, and by how many MiB the peak of this process exceeds what it held before (Linux keeps count)."""
    torch.manual_seed(0)
    backbone = MulTBackbone(SIZES, size=30, num_heads=5, num_layers=4) if model == "mult" else LSTMBackbone(SIZES)
    latch = TopDownLatch(backbone, "linear", align="interpolate", start="random")
    times = (50, steps, steps) if model == "mult" else (steps,) * 3
    inputs = {k: torch.randn(batch_size, t, size) for (k, size), t in zip(SIZES.items(), times, strict=True)}
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = _status("VmRSS"), time.perf_counter()
    if mode == "inference":
        with torch.inference_mode():
            latch.eval()(inputs)
    else:
        latch.train()(inputs).abs().mean().backward()
    print(f"{time.perf_counter() - start:.1f} {(_status('VmHWM') - before) / 1024:.0f}")


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(key)))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.worker:
        model, steps, batch_size, mode = options.worker
        work(model, int(steps), int(batch_size), mode)
        return
    rows = [("model", "T", "B", "mode", "s", "peak MiB")]
    for case in CASES:
        command = [sys.executable, __file__, "--threads", str(options.threads), "--worker", *map(str, case)]
        seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        rows.append((case[0], str(case[1]), str(case[2]), case[3], seconds, peak))
    print(f"{versions()}\n\n{markdown(rows)}")


if __name__ == "__main__":
    main()
