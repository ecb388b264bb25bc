"""Does feedback help on real data where it reads a model that was trained before? What won on synthetic data, tried there.

    python benchmarks/real_reader.py --data DIR [--sets watch mosi-words] [--seeds 5] [--out DIR]

--out is where benchmarks/real.py has left the settings that it chose. Beside "none", the rows have feedback that reads the
encodings of another baseline, trained with seed 100 and frozen, averaged over time and with dropout, at 30 times the learning
rate or not.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from real import SETS, TRAINING, TUNING_SEEDS, build
from recipe_models import pooled, reads_by
from torch import nn

from topdown.experiments import compare, fit
from topdown.experiments.compare_report import table
from topdown.experiments.tasks import task_of

KINDS: dict[str, dict[str, Any]] = {
    "reader, rate x 30, product": {"feedback": pooled(dropout=0.5, rate=30.0), "combine": "product"},
    "reader, rate x 30, identity": {"feedback": pooled(dropout=0.5, rate=30.0), "start": "identity"},
    "reader, identity": {"feedback": pooled(dropout=0.5), "start": "identity"},
}


def main() -> None:
    """Prints a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["watch", "mosi-words"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sets:
        splits = SETS[name](options.data)
        task, sizes = task_of(splits), splits["train"].sizes
        setting: dict[str, Any] = json.loads((options.out / name / "tuned.json").read_text())[0]
        rate = setting.pop("learning_rate")
        del setting["validation"]
        made: Callable[[Mapping[str, int]], nn.Module] = functools.partial(build, outputs=task.output_size, **setting)
        torch.manual_seed(TUNING_SEEDS[0])
        reader = made(sizes)
        training = {"loss": task.loss, "learning_rate": rate, **TRAINING}
        fit(reader, splits["train"], splits["valid"], seed=TUNING_SEEDS[0], **training)

        def with_reader(sizes: Mapping[str, int], made: Any = made, reader: nn.Module = reader) -> nn.Module:
            return reads_by(reader, made(sizes))

        latch = {"align": "interpolate", "sources": reads_by(reader, made(sizes)).sources}
        found = compare(with_reader, splits, feedback=KINDS, latch=latch, alone=False, seeds=options.seeds, **training)
        print(f"## {name}\n\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
