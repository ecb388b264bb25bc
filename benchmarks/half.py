"""What does half precision give on a CPU? Time of a training step and of inference, and the error after training.

    python benchmarks/half.py [--threads 2] [--rounds 8]
    python benchmarks/half.py --train [--seeds 5] [--samples 1000] [--jobs 2]

Half precision is torch's own: `torch.autocast` around the forward pass, the loss in float32, no scaler. "first pass" is a latch
whose first pass alone runs within it. LSTMBackbone and MulTBackbone of the paper's size, batches of 32 with lengths as in
word-aligned MOSEI (LSTM) and of 16 with 50 steps (MulT); variants alternate in one process, ratios are medians over rounds.

With --train, models are trained on the synthetic data by the paper's protocol in either precision, with the same seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, cast

import torch
from common.measure import alternate, ratio
from overhead import make, make_batches, predictor, trainer
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.comparison.statistics import paired_difference
from topdown.datasets.report import markdown
from topdown.experiments import synthetic_splits
from topdown.training import fit, predict
from topdown.training.versions import versions

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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

    def _run_first_pass(self, *arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            encodings, at_sites = super()._run_first_pass(*arguments, **options)
        return {name: r._replace(values=r.values.float()) for name, r in encodings.items()}, at_sites


def variants(backbone: str, kind: str) -> dict[str, nn.Module]:
    """Makes a model in every precision."""
    models: dict[str, nn.Module] = {"float32": make(backbone, kind)}
    models |= {name: Autocast(make(backbone, kind), dtype) for name, dtype in TYPES.items()}
    if kind != "none":
        models["first pass in bfloat16"] = HalfFirstPass(make(backbone, "none"), cast(Any, kind), start="random")
    return models


def times(rounds: int) -> str:
    """Compares training steps and inference."""
    rows = [("backbone", "feedback", "precision", "training ms", "of float32", "inference ms", "of float32")]
    for backbone in ("LSTM", "MulT"):
        batches = make_batches(backbone, 6)
        for kind in ("none", "shared", "lstm"):
            models = variants(backbone, kind)
            training = alternate({name: trainer(model, batches) for name, model in models.items()}, rounds)
            inference = alternate({name: predictor(model, batches) for name, model in models.items()}, rounds)
            for name in models:
                per_batch = [f"{statistics.median(measured[name]) / len(batches):.1f}" for measured in (training, inference)]
                relative = [f"{ratio(measured, name, 'float32'):.2f}" for measured in (training, inference)]
                rows.append((backbone, kind, name, per_batch[0], relative[0], per_batch[1], relative[1]))
    return markdown(rows)


def trained(kind: str, name: str, seed: int, samples: int) -> float:
    """Returns the error on test data of a model that was trained in some precision."""
    torch.set_num_threads(1)
    splits, _ = synthetic_splits((samples, samples // 5, samples * 2 // 5))
    model = make("LSTM", kind, seed)
    called = model if name == "float32" else Autocast(model, TYPES[name])
    fit(called, splits["train"], splits["valid"], seed=seed)
    test = splits["test"]
    return float((predict(called, test).view_as(test.labels) - test.labels).abs().mean())


def errors(seeds: int, samples: int, jobs: int) -> str:
    """Compares errors after training, paired by seed."""
    kinds, names = ("none", "shared"), ("float32", "bfloat16")
    asked = [(kind, name, seed) for kind in kinds for name in names for seed in range(seeds)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = {key: pool.submit(trained, *key, samples) for key in asked}
        found = {key: future.result() for key, future in futures.items()}
    rows = [("feedback", *(f"MAE in {name}" for name in names), "difference (95 % interval)")]
    for kind in kinds:
        scores = {name: [found[kind, name, seed] for seed in range(seeds)] for name in names}
        difference = paired_difference([b - a for a, b in zip(*scores.values(), strict=True)], 0.0, seeds)
        texts = [f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}" for values in scores.values()]
        rows.append((kind, *texts, f"{difference.mean:+.4f} ({difference.low:+.4f} to {difference.high:+.4f})"))
    return markdown(rows)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    has = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "unknown")()  # a private function, and new
    print(f"{versions()}; the processor has instructions for bfloat16: {has}")
    if options.train:
        print(errors(options.seeds, options.samples, options.jobs))
        return
    torch.set_num_threads(options.threads)
    print(times(options.rounds))


if __name__ == "__main__":
    main()
