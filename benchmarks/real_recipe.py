"""Is what won on synthetic data (recipe.py) worth as much on real data?

    python benchmarks/real_recipe.py --data DIR [--sets watch mosi-words] [--seeds 5] [--noise 0 1] [--out DIR]

--out is where benchmarks/real.py leaves the settings that it chose. There is a comparison for each strength of noise on the
inputs in training, in their standard deviations; all rows have it, "none" too. The linear maps of feedback have ten times the
learning rate of the rest or not, or they read the encodings of another baseline, one for all seeds, trained without noise and
frozen ("reader"), averaged over time. Probabilities are corrected for kinds, not for sets or strengths of noise.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from real import TUNING_SEEDS, parts_of, tuned
from real_data import SETS
from real_models import build
from recipe_models import Beside, linear, reads_by
from torch import nn

from topdown.comparison import compare
from topdown.comparison.report import table
from topdown.datasets import SequenceDataset
from topdown.training import fit
from topdown.training.tasks import task_of


def kinds_of(sources: Mapping[str, list[str]]) -> dict[str, dict[str, Any]]:
    """Returns options of latches by kind: those of "reader" read other sources, what a model trained before tells."""
    own: dict[str, Any] = {"sources": {k: [j for j in sources if j != k] for k in sources}}
    told: dict[str, Any] = {"sources": sources}
    random = {"start": "random"}
    return {
        "static": {"feedback": "static", **random, **own},
        "linear": {"feedback": "linear", **random, **own},
        "linear, rate x 10": {"feedback": linear(rate=10.0), **random, **own},
        "linear, identity, rate x 10": {"feedback": linear(rate=10.0), "start": "identity", **own},
        "reader, rate x 30, product": {
            "feedback": linear(pooled=True, dropout=0.5, rate=30.0),
            "combine": "product",
            **random,
            **told,
        },
        "reader, identity": {"feedback": linear(pooled=True, dropout=0.5), "start": "identity", **told},
    }


def noisy(
    data: SequenceDataset, epoch: int, *, noise: float, first: Callable[[SequenceDataset, int], SequenceDataset] | None
) -> SequenceDataset:
    """Adds noise, drawn anew in each epoch, after whatever else changes training data."""
    return (data if first is None else first(data, epoch)).corrupt("noise", noise, seed=epoch)


def main() -> None:
    """Prints a table for each set and strength of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["watch", "mosi-words"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.sets:
        splits = SETS[name](options.data)
        task, sizes = task_of(splits), splits["train"].sizes
        setting, training = parts_of(tuned(options.out / name, name, splits)[0])
        made: Callable[[Mapping[str, int]], nn.Module] = functools.partial(build, outputs=task.output_size, **setting)
        torch.manual_seed(TUNING_SEEDS[0])
        reader = made(sizes)
        fit(reader, splits["train"], splits["valid"], seed=TUNING_SEEDS[0], loss=task.loss, **training)

        def with_reader(sizes: Mapping[str, int], made: Any = made, reader: nn.Module = reader) -> Beside:
            return reads_by(reader, made(sizes))

        kinds, latch = kinds_of(with_reader(sizes).sources), {"align": "interpolate"}
        for noise in options.noise:
            augment = functools.partial(noisy, noise=noise, first=training.get("augment"))
            own = training | ({"augment": augment} if noise else {})
            found = compare(with_reader, splits, feedback=kinds, latch=latch, alone=False, seeds=options.seeds, **own)
            print(f"## {name}, noise {noise:g}\n\n{table(found)}\n", flush=True)


if __name__ == "__main__":
    main()
