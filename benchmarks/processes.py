"""How much faster are several processes? An epoch of the paper's model in one and in more, one thread each.

    python benchmarks/processes.py [--processes 2] [--rounds 3] [--samples 1280]

Each figure is the median over rounds of the median epoch of a run under torchrun, at global batches of 32 and of 64, with
samples of sizes 300/74/35 and lengths as in word-aligned MOSEI. Runs of one and of several processes alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

import torch
from common.plain import SIZES
from speed import mosei_like

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets.report import markdown
from topdown.training.distributed import process_group, rank
from topdown.training.protocol import fit
from topdown.training.versions import versions


def work(samples: int, batch_size: int) -> None:
    """Trains for four epochs in this process of a group, and prints the median seconds of the last three."""
    torch.set_num_threads(1)
    with process_group("cpu"):
        data = mosei_like(samples)
        torch.manual_seed(0)
        model = TopDownLatch(LSTMBackbone(SIZES), "lstm", start="random")
        result = fit(model, data, data.subset(range(8)), batch_size=batch_size, epochs=4)
        if rank() == 0:
            print(json.dumps(statistics.median(record["seconds"] for record in result.history[1:])))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=1280)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.samples, options.worker)
        return
    rows = [("global batch", "one process, s an epoch", f"{options.processes} processes", "times as fast", "aim")]
    for batch_size in (32, 64):
        seconds: dict[int, list[float]] = {1: [], options.processes: []}
        for _ in range(options.rounds):
            for processes, times in seconds.items():
                launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
                arguments = [__file__, "--worker", str(batch_size), "--samples", str(options.samples)]
                ended = subprocess.run([sys.executable, *launch, *arguments], check=True, capture_output=True, text=True)
                times.append(float(ended.stdout.splitlines()[-1]))
        one, many = seconds[1], seconds[options.processes]
        faster = statistics.median(a / b for a, b in zip(one, many, strict=True))
        rows.append(
            (str(batch_size), f"{statistics.median(one):.2f}", f"{statistics.median(many):.2f}", f"{faster:.2f}", "1.7")
        )
    print(versions())
    print(markdown(rows))


if __name__ == "__main__":
    main()
