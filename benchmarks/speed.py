"""How fast is a training step? Ours against a plain implementation of the paper's public model, side by side.

    python benchmarks/speed.py [--threads 2] [--batches 12] [--rounds 5]

Both see the same samples, of sizes 300/74/35 and with lengths like those of word-aligned MOSEI, in batches of 32. The plain
one pads batches in random order and packs; ours pads batches of similar length. Rounds alternate between all models in one
process; printed are medians over rounds of the milliseconds per step, and the ratio to plain with (or without) feedback; then
the same for inference, in batches and for one utterance of 20 steps.
Before that, the plain model and ours are checked to be equal, in outputs and gradients, where both are defined.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from measure import alternate, ratio
from plain import SIZES, PlainModel
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.adapters.reference import mmlatch_from_reference
from topdown.datasets import SequenceDataset
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.report import markdown
from topdown.experiments.results import versions

BATCH_SIZE = 32
AIMS = {"ours, none": 4.0, "ours, lstm": 5.0, "ours, shared": 6.0}  # times as fast as plain, a training step
INFERENCE_AIM = 4.0


def mosei_like(count: int, seed: int = 1) -> SequenceDataset:
    """Makes samples of noise with the lengths of word-aligned MOSEI: mean 21.5, a long tail up to 100."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.exp(torch.randn(count, generator=generator) * 0.55 + 2.9).round().clamp(1, 100).long().tolist()
    inputs = {k: [torch.randn(n, size, generator=generator).numpy() for n in lengths] for k, size in SIZES.items()}
    return SequenceDataset.from_arrays(inputs, torch.randn(count, generator=generator).numpy())


def check_equal(feedback: bool) -> float:
    """Checks that plain and ours give the same output and gradients, and returns the largest difference."""
    torch.manual_seed(0)
    plain = PlainModel(feedback).eval()
    ours = mmlatch_from_reference(plain.state_dict())
    inputs = {k: torch.randn(4, 7, size) for k, size in SIZES.items()}
    a, b = plain(inputs), ours(inputs, torch.full((4,), 7))
    a.abs().sum().backward()
    b.abs().sum().backward()
    gradients = mmlatch_from_reference({name: p.grad for name, p in plain.named_parameters() if p.grad is not None})
    differences = [(a - b).detach().abs().max()]
    differences += [
        (p.grad - q).detach().abs().max()
        for p, q in zip(ours.parameters(), gradients.parameters(), strict=True)
        if p.grad is not None
    ]
    worst = float(torch.stack(differences).max())
    if worst > 1e-4:
        raise AssertionError(f"the plain model and ours differ by {worst}")
    return worst


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: SequenceDataset, *, plain: bool) -> float:
    """Trains once on all samples; returns milliseconds per step, the making of batches included."""
    start = time.perf_counter()
    order = torch.randperm(len(data))
    batches = order.split(BATCH_SIZE)
    if not plain:
        batches = bucketed_batches(data.batch_lengths(), BATCH_SIZE, seed=int(order[0]), epoch=0)
    for indices in batches:
        batch = data.batch(indices)
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.inputs) if plain else model(batch.inputs, batch.lengths)
        (output.squeeze(-1) - batch.labels).abs().mean().backward()
        optimizer.step()
    return (time.perf_counter() - start) / len(batches) * 1e3


def predictor(model: nn.Module, data: SequenceDataset, *, plain: bool) -> Callable[[], None]:
    """Returns what predicts for all samples, in batches as in training."""
    batches = torch.arange(len(data)).split(BATCH_SIZE)
    if not plain:
        batches = tuple(data.batch_lengths().argsort(stable=True).split(BATCH_SIZE))

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            for indices in batches:
                batch = data.batch(indices)
                model(batch.inputs) if plain else model(batch.inputs, batch.lengths)

    return predict


def single(model: nn.Module, *, plain: bool) -> Callable[[], None]:
    """Returns what predicts for one utterance of 20 steps, ten times."""
    inputs = {name: torch.randn(1, 20, size) for name, size in SIZES.items()}

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            for _ in range(10):
                model(inputs) if plain else model(inputs, torch.tensor([20]))

    return predict


def inference_table(models: Mapping[str, nn.Module], data: SequenceDataset, rounds: int) -> str:
    """Compares inference: batches of 32, and one utterance alone."""
    many = alternate({k: predictor(m, data, plain=k.startswith("plain")) for k, m in models.items()}, rounds)
    one = alternate({k: single(m, plain=k.startswith("plain")) for k, m in models.items()}, rounds)
    rows = [("model", "ms/batch", "times as fast as plain", "ms for one utterance", "times as fast as plain", "aim")]
    for name in models:
        base = "plain, none" if name.endswith("none") else "plain, lstm"
        rows.append(
            (
                name,
                f"{statistics.median(many[name]) / (len(data) / BATCH_SIZE):.1f}",
                f"{ratio(many, base, name):.2f}",
                f"{statistics.median(one[name]) / 10:.2f}",
                f"{ratio(one, base, name):.2f}",
                "" if name == base else str(INFERENCE_AIM),
            )
        )
    return markdown(rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for feedback in (False, True):
        print(f"plain equals ours (feedback {feedback}): largest difference {check_equal(feedback):.1e}")
    torch.manual_seed(0)
    data = mosei_like(BATCH_SIZE * options.batches)
    models: dict[str, nn.Module] = {"plain, none": PlainModel(False), "plain, lstm": PlainModel(True)}
    models["ours, none"] = LSTMBackbone(SIZES)
    for kind in ("lstm", "shared", "linear"):
        models[f"ours, {kind}"] = TopDownLatch(LSTMBackbone(SIZES), kind)
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=5e-4, fused=not name.startswith("plain"))
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.rounds + 1):
        for name, model in models.items():
            times[name].append(epoch(model, optimizers[name], data, plain=name.startswith("plain")))
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = [("model", "ms/step", "range", "times as fast as plain", "aim", "parameters")]
    for name, value in median.items():
        base = "plain, none" if name.endswith("none") else "plain, lstm"
        rows.append(
            (
                name,
                f"{value:.0f}",
                f"{min(times[name][1:]):.0f} to {max(times[name][1:]):.0f}",
                f"{median[base] / value:.2f}",
                str(AIMS.get(name, "")),
                f"{sum(p.numel() for p in models[name].parameters()):,}",
            )
        )
    print(f"{versions()}, batches of {BATCH_SIZE}, {options.batches} a round, {options.rounds} rounds after one to warm up")
    print(markdown(rows))
    print(inference_table(models, data, options.rounds))


if __name__ == "__main__":
    main()
