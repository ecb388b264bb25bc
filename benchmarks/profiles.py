"""Where the time goes: shares of torch's operators in a training step of the LSTM model, and in inference of MulT.

    python benchmarks/profiles.py [--threads 2]

Shares are those of the time that each operator spends itself, under the profiler, which slows what is short.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import torch
from mult import SIZES, STEPS, execute, make, make_inputs
from speed import BATCH_SIZE, epoch, mosei_like
from torch.profiler import ProfilerActivity, profile

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets.report import markdown

SHOWN = 12


def shares(run: Callable[[], Any], steps: int) -> str:
    """Returns a table of the operators that take longest, of all steps that a function does."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run()
    operators = sorted(profiler.key_averages(), key=lambda o: o.self_cpu_time_total, reverse=True)
    total = sum(operator.self_cpu_time_total for operator in operators)
    rows = [("operator", "ms a step", "share")]
    for operator in operators[:SHOWN]:
        self_time = operator.self_cpu_time_total
        rows.append((operator.key, f"{self_time / 1e3 / steps:.1f}", f"{self_time / total:.0%}"))
    return markdown([*rows, ("all", f"{total / 1e3 / steps:.1f}", "100%")])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    data, steps = mosei_like(BATCH_SIZE * 12), 12
    for kind in (None, "lstm"):
        backbone = LSTMBackbone(SIZES)
        model = backbone if kind is None else TopDownLatch(backbone, kind, start="random")
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)
        table = shares(functools.partial(epoch, model, optimizer, data, plain=False), steps)
        print(f"a training step, LSTM model, feedback {kind or 'none'}\n\n{table}\n")
    variant, inputs = "ours, keys", make_inputs(STEPS["aligned"], 24)
    mult = make(variant)
    print(f"inference, MulT, aligned\n\n{shares(lambda: [execute(variant, mult, 'inference', inputs) for _ in range(10)], 10)}")


if __name__ == "__main__":
    main()
